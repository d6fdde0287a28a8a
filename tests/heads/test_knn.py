from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scstore.errors import DamagedError
from scstore.heads.artifact import join_arrays, split_arrays
from scstore.heads.knn import KNNHead


def brute_force(train: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    centre = train.mean(axis=0)
    a, b = (part - centre for part in (train.astype(np.float64), queries.astype(np.float64)))
    a, b = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (a, b))
    distances = np.linalg.norm(b[:, None] - a[None], axis=2)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


def test_neighbours_are_those_of_a_search_by_hand(cells: Any) -> None:
    train, queries = cells.X[:400], cells.X[400:]
    distances, neighbours = KNNHead(7).fit(train, cells.y[:400])._search(queries)
    wanted, order = brute_force(train, queries, 7)
    np.testing.assert_array_equal(neighbours, order)
    np.testing.assert_allclose(distances, wanted, rtol=1e-4)


def test_votes_fall_with_the_square_of_the_distance() -> None:
    X = np.array([[0.0], [1], [4]])
    head = KNNHead(3, metric="euclidean").fit(X, ["a", "b", "b"])
    weights = np.array([1 / 2**2, 1 / 1**2, 1 / 2**2]) * 3 / 1.5
    wanted = (weights[0] + 0.3 / 3) / 3.3
    np.testing.assert_allclose(head.predict_proba([[2.0]])[0], [wanted, 1 - wanted], rtol=1e-6)


@settings(max_examples=25)
@given(seed=st.integers(0, 99), k=st.integers(1, 40), scale=st.sampled_from([1e-20, 1.0, 1e20]))
def test_no_class_is_ever_impossible(seed: int, k: int, scale: float) -> None:
    """RELIABILITY 42: k larger than the reference."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(20, 3)) * scale, np.arange(20) % 4
    head = KNNHead(k).fit(X, y)
    proba = head.predict_proba(np.vstack([X, rng.normal(size=(5, 3)) * scale]))
    assert (proba > 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert head._search(X)[1].shape == (20, min(k, 20))


def test_equal_rows_and_rows_at_the_mean_are_fine() -> None:
    X = np.array([[1.0, 1], [1, 1], [3, 3], [3, 3], [2, 2]])
    head = KNNHead(2).fit(X, ["a", "a", "b", "b", "a"])
    distances, _ = head._search(X)
    assert not distances[:4].any()
    assert head.predict(X[:4]).tolist() == ["a", "a", "b", "b"]


def test_an_absurd_value_does_not_overflow() -> None:
    X = np.random.default_rng(0).normal(size=(30, 2))
    head = KNNHead(3, metric="euclidean").fit(X, np.arange(30) % 2)
    assert np.isfinite(head.predict_proba(np.array([[1e30, 0]]))).all()


def test_a_reference_beyond_the_limit_is_sampled_by_class(cells: Any) -> None:
    d = cells.X.shape[1]
    head = KNNHead(memory_limit=4 * d * 100).fit(cells.X, cells.y)
    assert 90 <= len(head.vectors_) <= 105
    assert set(head.codes_) == set(range(5))
    np.testing.assert_allclose(head.prior_.sum(), 1)
    assert head.score(cells.X, cells.y) > 0.8


def test_no_query_no_probabilities(cells: Any, disk_rows: Any) -> None:
    """RELIABILITY 42: empty query."""
    head = KNNHead(4).fit(cells.X, cells.y)
    assert head.predict_proba(disk_rows(cells.X[:0])).shape == (0, 5)


def test_the_index_is_made_from_the_vectors(cells: Any) -> None:
    """RELIABILITY 39: there is no index to load; what comes back is vectors."""
    head = KNNHead(3).fit(cells.X, cells.y)
    arrays, state = split_arrays(head.to_state())
    assert sorted(arrays) == ["codes", "mean", "prior", "scale", "vectors"]
    swapped = KNNHead.from_state(join_arrays({**arrays, "codes": (arrays["codes"] + 1) % 5}, state))
    assert (swapped.predict(cells.X) != head.predict(cells.X)).mean() > 0.9


@pytest.mark.parametrize(
    "change",
    [{"params": {"metric": "x"}}, {"params": {"k": -1}}, {"params": {"k": "3"}}],
)
def test_a_description_that_makes_no_sense_is_damage(change: dict[str, Any], cells: Any) -> None:
    arrays, state = split_arrays(KNNHead(3).fit(cells.X, cells.y).to_state())
    with pytest.raises(DamagedError):
        KNNHead.from_state(join_arrays(arrays, {**state, **change}))


@pytest.mark.parametrize(("name", "value"), [("codes", 5), ("codes", -1), ("prior", 0.0)])
def test_class_numbers_out_of_range_are_damage(name: str, value: float, cells: Any) -> None:
    arrays, state = split_arrays(KNNHead(3).fit(cells.X, cells.y).to_state())
    arrays[name] = arrays[name].copy()
    arrays[name][0] = value
    with pytest.raises(DamagedError):
        KNNHead.from_state(join_arrays(arrays, state))


@pytest.fixture(scope="module")
def many(cells_factory: Any) -> Any:
    return cells_factory(2500, 48, 5)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_above_a_size_the_search_is_approximate_and_its_recall_measured(many: Any, metric: str) -> None:
    exact = KNNHead(10, metric=metric).fit(many.X[:2200], many.y[:2200])
    head = KNNHead(10, metric=metric, exact_below=500).fit(many.X[:2200], many.y[:2200])
    assert exact.approximate_ is None
    assert head.approximate_ is not None
    assert head.approximate_.measured is not None
    assert head.approximate_.measured.recall >= 0.95
    assert f"{head.approximate_.measured.recall:.3f}" in head.training_note()
    assert head.vectors_.dtype == np.float16
    queries = many.X[2200:]
    found, wanted = head._search(queries)[1], exact._search(queries)[1]
    recall = np.mean([len(set(f) & set(w)) / 10 for f, w in zip(found, wanted, strict=True)])
    assert recall >= 0.92
    apart = np.abs(head.predict_proba(queries) - exact.predict_proba(queries))
    assert apart.mean() < 0.02
    assert abs(head.score(queries, many.y[2200:]) - exact.score(queries, many.y[2200:])) < 0.02


@pytest.fixture(scope="module")
def approximate(many: Any) -> KNNHead:
    return KNNHead(exact_below=500).fit(many.X, many.y)


def test_an_approximate_head_comes_back_bit_for_bit(many: Any, approximate: KNNHead) -> None:
    arrays, state = split_arrays(approximate.to_state())
    assert {array.dtype.kind for array in arrays.values()} <= {"f", "i"}  # no bytes of FAISS
    wanted = approximate.predict_log_proba(many.X[:200])
    for again in (KNNHead.from_state(join_arrays(arrays, json.loads(json.dumps(state)))), copy.deepcopy(approximate)):
        np.testing.assert_array_equal(again.predict_log_proba(many.X[:200]), wanted)
        assert again.training_note() == approximate.training_note()
    assert (approximate._search(many.X[:200])[0][:, 0] == 0).all()
    alone = np.vstack([approximate.predict_log_proba(many.X[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(alone, wanted[:20], rtol=0, atol=1e-9)
    refitted = copy.deepcopy(approximate).set_params(exact_below=10_000).fit(many.X, many.y)
    assert refitted.approximate_ is None


def test_the_limit_holds_more_components_than_rows(many: Any) -> None:
    limit = 2 * 48 * 1000
    assert len(KNNHead(memory_limit=limit).fit(many.X, many.y).vectors_) <= 505
    assert 900 <= len(KNNHead(memory_limit=limit, exact_below=500).fit(many.X, many.y).vectors_) <= 1005


@pytest.mark.parametrize("change", [{"probes": 0}, {"probes": 10**9}, {"probes": "x"}, {"more": 1}])
def test_a_description_that_does_not_fit_the_components_is_damage(change: dict[str, Any], approximate: KNNHead) -> None:
    arrays, state = split_arrays(approximate.to_state())
    with pytest.raises(DamagedError):
        KNNHead.from_state(join_arrays(arrays, {**state, "measured": {**state["measured"], **change}}))


@pytest.mark.parametrize("name", ["vectors", "components", "centroids"])
def test_components_that_do_not_fit_are_damage(name: str, approximate: KNNHead) -> None:
    arrays, state = split_arrays(approximate.to_state())
    with pytest.raises(DamagedError):
        KNNHead.from_state(join_arrays({**arrays, name: arrays[name][:, :-1]}, state))


def test_importing_the_heads_loads_neither_faiss_nor_torch() -> None:
    code = (
        "import sys, pkgutil, importlib, scstore.heads as heads\n"
        "for module in pkgutil.iter_modules(heads.__path__): importlib.import_module('scstore.heads.' + module.name)\n"
        "print([name for name in ('faiss', 'torch', 'transformers', 'scstore.model') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
