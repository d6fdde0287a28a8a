"""scikit-learn's contract, the whole of it, for every head in memory and streamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from scstore.errors import CellsError, DamagedError, FeatureSpaceError, LabelsError, OptionError
from scstore.heads.artifact import join_arrays, split_arrays
from scstore.heads.base import RowClassifier
from scstore.heads.knn import KNNHead
from scstore.heads.linear import LinearHead
from scstore.heads.mlp import MLPHead

HEADS: list[RowClassifier] = [
    LinearHead(),
    LinearHead(memory_limit=64),
    MLPHead((32,), epochs=12),
    MLPHead((16, 8), epochs=20, memory_limit=64),
    KNNHead(),
    KNNHead(metric="euclidean"),
]
NAMES = ["linear", "linear streamed", "mlp", "mlp streamed", "knn", "knn euclidean"]
every_head = pytest.mark.parametrize("head", HEADS, ids=NAMES)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scstore.heads.linear.MIN_STEPS", 200)


@parametrize_with_checks(
    [LinearHead(), LinearHead(memory_limit=64), MLPHead((32,), epochs=12, memory_limit=64), KNNHead()]
)
def test_scikit_learn_contract(estimator: RowClassifier, check: Callable[[RowClassifier], None]) -> None:
    check(estimator)


@every_head
def test_the_same_seed_gives_the_same_bits(head: RowClassifier, cells: Any) -> None:
    (first, state), (second, _) = (split_arrays(clone(head).fit(cells.X, cells.y).to_state()) for _ in range(2))
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
        assert array.dtype == second[name].dtype
    restored = type(head).from_state(join_arrays(first, state))
    np.testing.assert_array_equal(
        restored.predict_proba(cells.X), clone(head).fit(cells.X, cells.y).predict_proba(cells.X)
    )
    assert restored.get_params() == head.get_params()


@every_head
def test_what_the_rows_are_kept_in_does_not_matter(head: RowClassifier, cells: Any, disk_rows: Any) -> None:
    X = cells.X[:200]
    whole = clone(head).fit(X, cells.y[:200]).predict_proba(X)
    on_disk, csr = disk_rows(X), sparse.csr_matrix(X)
    for rows in (on_disk, csr):
        np.testing.assert_array_equal(clone(head).fit(rows, cells.y[:200]).predict_proba(rows), whole)
    fitted = clone(head).fit(X, cells.y[:200])
    np.testing.assert_array_equal(fitted.predict_proba(on_disk), whole)
    assert fitted.predict(on_disk).dtype.kind == "U"


@every_head
def test_probabilities_are_probabilities(head: RowClassifier, cells: Any) -> None:
    proba = clone(head).fit(cells.X, cells.y).predict_proba(np.vstack([cells.X, 1e6 * cells.X[:5]]))
    assert proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    assert (proba >= 0).all()


@every_head
def test_a_cell_has_the_same_answer_alone_and_among_others(head: RowClassifier, cells: Any) -> None:
    fitted = clone(head).fit(cells.X, cells.y)
    together = fitted.predict_log_proba(cells.X[:40])
    alone = np.vstack([fitted.predict_log_proba(cells.X[i : i + 1]) for i in range(40)])
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-9)


@every_head
def test_rows_on_disk_that_do_not_fit_are_refused(head: RowClassifier, cells: Any, disk_rows: Any) -> None:
    """RELIABILITY 35, 42: another width; labels of another length; no rows."""
    fitted = clone(head).fit(disk_rows(cells.X[:50]), cells.y[:50])
    with pytest.raises(FeatureSpaceError):
        fitted.predict(disk_rows(cells.X[:, :3]))
    with pytest.raises(LabelsError):
        clone(head).fit(disk_rows(cells.X[:40]), cells.y[:50])
    with pytest.raises(LabelsError):
        clone(head).fit(disk_rows(cells.X[:0]), cells.y[:0])
    bad = cells.X[:50].copy()
    bad[33, 2] = np.nan
    for rows in (bad, disk_rows(bad)):
        with pytest.raises(CellsError, match="Row 33"):
            clone(head).fit(rows, cells.y[:50])
        with pytest.raises(CellsError, match="Row 33"):
            fitted.predict(rows)


@every_head
def test_a_class_seen_once_can_be_learned(head: RowClassifier, cells: Any) -> None:
    """RELIABILITY 42: a class seen once."""
    y = cells.y[:60].copy()
    y[7] = "type 9"
    fitted = clone(head).fit(cells.X[:60], y)
    assert "type 9" in fitted.classes_.tolist()
    assert np.isfinite(fitted.predict_log_proba(cells.X)).all()


@every_head
def test_cross_validation_finds_most_cells(head: RowClassifier, cells: Any) -> None:
    assert cross_val_score(clone(head), cells.X, cells.y, cv=3).mean() > 0.85


@every_head
def test_arrays_that_do_not_fit_together_are_damage(head: RowClassifier, cells: Any) -> None:
    """RELIABILITY 38: wrong shapes and dtypes."""
    arrays, state = split_arrays(clone(head).fit(cells.X[:50], cells.y[:50]).to_state())
    for name, array in arrays.items():
        wrong = [array[:-1], array[None], array.astype(np.int64 if array.dtype.kind == "f" else np.float32)]
        for one in wrong:
            with pytest.raises(DamagedError):
                type(head).from_state(join_arrays({**arrays, name: one}, state))
        with pytest.raises(DamagedError):
            type(head).from_state(join_arrays({k: v for k, v in arrays.items() if k != name}, state))
    for change in (
        {"classes": ["a"]},
        {"classes": "ab"},
        {"classes": [None, {}]},
        {"n_features_in": -1},
        {"params": None},
        {"params": {"nonsense": 1}},
    ):
        with pytest.raises(DamagedError):
            type(head).from_state(join_arrays(arrays, {**state, **change}))


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (LinearHead(C=0), "C=0"),
        (LinearHead(C="much"), "C='much'"),
        (LinearHead(epochs=-1), "epochs=-1"),
        (LinearHead(memory_limit=0), "memory_limit=0"),
        (MLPHead(()), "hidden"),
        (MLPHead((8, 8, 8)), "hidden"),
        (MLPHead((0,)), "hidden"),
        (MLPHead(weight_decay=-1), "weight_decay"),
        (KNNHead(0), "k=0"),
        (KNNHead(metric="cityblock"), "metric"),
    ],
)
def test_options_out_of_range_are_named(head: RowClassifier, named: str, cells: Any) -> None:
    with pytest.raises(OptionError, match=named):
        head.fit(cells.X, cells.y)


def test_a_parameter_that_is_no_json_is_not_saved(cells: Any) -> None:
    head = LinearHead(random_state=np.random.RandomState(0)).fit(cells.X, cells.y)
    with pytest.raises(OptionError, match="random_state"):
        head.to_state()


def test_refitting_on_rows_without_names_forgets_the_names(cells: Any, disk_rows: Any) -> None:
    head = LinearHead().fit(cells.X, cells.y)
    head.feature_names_in_ = np.array(["old"])
    head.fit(disk_rows(cells.X), cells.y)
    assert not hasattr(head, "feature_names_in_")
