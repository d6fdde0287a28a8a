"""The linear head of expression: two regressions on unlike forms of the same genes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scstore.errors import DamagedError, OptionError
from scstore.heads.artifact import join_arrays, split_arrays
from scstore.heads.linear import AXES_C, MARKER_C, MARKER_WEIGHT, ExpressionHead, LinearHead, unit_length
from scstore.heads.preprocessing import ExpressionReducer, marker_count
from scstore.heads.training import log_softmax

N, GENES = 240, 130


@pytest.fixture(scope="module")
def cells() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = np.arange(N) % 3
    rates = rng.gamma(0.4, 2, (3, GENES))
    return np.log1p(rng.poisson(rates[codes])).astype(np.float32), np.array([f"t{code}" for code in codes])


@pytest.fixture(scope="module")
def fitted(cells: tuple[np.ndarray, np.ndarray]) -> ExpressionHead:
    return ExpressionHead().fit(*cells)


def test_it_is_two_regressions_averaged(fitted: ExpressionHead, cells: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = cells
    length = np.linalg.norm(X, axis=1, keepdims=True)
    every = LinearHead(fitted.C, standardize=False).fit(X / np.where(length > 0, length, 1), y)
    markers = LinearHead(float(fitted.C) * MARKER_C).fit(X[:, :100], y)
    assert marker_count(3) == 100
    logs = every.predict_log_proba(unit_length(X)), markers.predict_log_proba(X[:, :100])
    wanted = log_softmax((1 - MARKER_WEIGHT) * logs[0] + MARKER_WEIGHT * logs[1])
    np.testing.assert_allclose(fitted.predict_log_proba(X), wanted, atol=1e-4)
    assert (fitted.predict(X) == y).mean() > 0.95


def test_unit_length_takes_out_the_depth() -> None:
    rows = np.random.default_rng(0).gamma(1, 1, (7, 5)).astype(np.float32)
    rows[3] = 0
    found = unit_length(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.arange(7) != 3, rtol=1e-6)
    np.testing.assert_allclose(unit_length(3 * rows), found, rtol=1e-6)


def test_importance_is_that_of_both(fitted: ExpressionHead) -> None:
    scale = np.linspace(0.5, 2, GENES)
    found = fitted.importance(scale)
    assert found.shape == (GENES,)
    assert found.sum() == pytest.approx(1)
    every = np.abs(fitted.parts_["genes"].coef_).mean(axis=0) * scale
    np.testing.assert_allclose(found[100:], (1 - MARKER_WEIGHT) * every[100:] / every.sum())
    assert (found[:100] > (1 - MARKER_WEIGHT) * every[:100] / every.sum()).any()


@pytest.fixture(scope="module")
def few(cells: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, ExpressionReducer]:
    """Genes of a reducer that knows two labelled cells of a class and all others without a label, and itself."""
    reducer = ExpressionReducer.fit(cells[0][:6], cells[1][:6], n_genes=GENES, n_components=0, background=cells[0])
    return cells[0][:, reducer.selected], reducer


def test_few_labels_have_a_third_regression_along_the_axes_of_all_cells(
    few: tuple[np.ndarray, ExpressionReducer], cells: tuple[np.ndarray, np.ndarray]
) -> None:
    (X, reducer), y = few, cells[1]
    head, two = ExpressionHead().fit(X[:6], y[:6], reducer=reducer), ExpressionHead().fit(X[:6], y[:6])
    along = unit_length(X[:, reducer.free]) @ reducer.axes[:, reducer.free].T
    third = LinearHead(float(head.C) * AXES_C, standardize=False).fit(along[:6], y[:6])
    assert head.share_ == pytest.approx(1 - (2 / 30) ** 0.5)
    wanted = (1 - head.share_) * two.predict_log_proba(X) + head.share_ * third.predict_log_proba(along)
    np.testing.assert_allclose(head.predict_log_proba(X), log_softmax(wanted), atol=2e-3)
    ones, of_third = np.ones(X.shape[1]), np.zeros(X.shape[1])
    of_third[reducer.free] = np.abs(third.coef_ @ reducer.axes[:, reducer.free]).mean(axis=0)
    wanted = (1 - head.share_) * two.importance(ones) + head.share_ * of_third / of_third.sum()
    np.testing.assert_allclose(head.importance(ones), wanted, atol=1e-4)


def test_the_third_regression_comes_back_or_is_damage(
    few: tuple[np.ndarray, ExpressionReducer], cells: tuple[np.ndarray, np.ndarray]
) -> None:
    X, reducer = few
    head = ExpressionHead().fit(X[:6], cells[1][:6], reducer=reducer)
    arrays, state = split_arrays(head.to_state())
    loaded = ExpressionHead.from_state(join_arrays(arrays, state))
    np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))
    for wrong in ({"share": 1.0}, {"free": reducer.free + X.shape[1]}, {"free": reducer.free[1:]}):
        with pytest.raises(DamagedError):
            ExpressionHead.from_state({**head.to_state(), **wrong})


def test_it_comes_back_from_its_state(fitted: ExpressionHead, cells: tuple[np.ndarray, np.ndarray]) -> None:
    arrays, state = split_arrays(fitted.to_state())
    loaded = ExpressionHead.from_state(join_arrays(arrays, state))
    np.testing.assert_array_equal(loaded.predict_proba(cells[0]), fitted.predict_proba(cells[0]))
    assert loaded.training_note() == fitted.training_note()


def test_regressions_that_do_not_fit_are_damage(cells: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = cells

    def state(**parts: Any) -> dict[str, Any]:
        return {**ExpressionHead().fit(X, y).to_state(), **parts}

    narrow, other = LinearHead().fit(X[:, :99], y), LinearHead().fit(X[:, :100], np.char.add(y, "x"))
    for parts in ({"markers": narrow.to_state()}, {"markers": other.to_state()}, {"genes": narrow.to_state()}):
        with pytest.raises(DamagedError):
            ExpressionHead.from_state(state(**parts))


def test_groups_and_options_reach_both(cells: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = cells
    head = ExpressionHead("auto").fit(X, y, np.arange(N) % 4)
    assert head.parts_["genes"].C_ in (0.1, 1, 10, 100)
    heavy = ExpressionHead(class_weight={"t0": 100.0, "t1": 1.0, "t2": 1.0}, C=0.01).fit(X, y)
    assert (heavy.predict(X) == "t0").mean() > (ExpressionHead(C=0.01).fit(X, y).predict(X) == "t0").mean()
    for wrong in ({"C": -1.0}, {"C": "often"}):
        with pytest.raises(OptionError):
            ExpressionHead(**wrong).fit(X, y)
