from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scstore.heads import neighbour_search as search
from scstore.heads.neighbour_search import (
    ApproximateIndex,
    _single,
    build_index,
    centre_of,
    cosine_distances_to,
    nearest,
    nearest_prepared,
    unit_rows,
)


def by_hand(reference: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    mean = reference.mean(0)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (reference - mean, queries - mean)]
    return np.sort(1 - unit[1] @ unit[0].T, axis=1)[:, :k]


@given(st.integers(1, 40), st.integers(0, 12), st.integers(1, 400), st.data())
def test_blocks_do_not_matter_and_the_search_is_exact(n: int, m: int, block_bytes: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    rng = np.random.default_rng(n * 100 + m)
    reference, queries = rng.standard_normal((n, 4)) + 2, rng.standard_normal((m, 4)) + 2
    distances, indices = nearest(reference, queries, k=k, block_bytes=block_bytes)
    assert distances.shape == indices.shape == (m, k)
    if n > 1:
        np.testing.assert_allclose(distances, by_hand(reference, queries, k), atol=1e-5)
    assert all(len(set(row)) == k for row in indices)
    assert (np.diff(distances, axis=1) >= 0).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_row_finds_itself_first(dtype: type) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 8)).astype(dtype)
    distances, indices = nearest(rows, rows, k=3)
    assert indices[:, 0].tolist() == list(range(50))
    np.testing.assert_allclose(distances[:, 0], 0, atol=1e-6)


@pytest.mark.parametrize("cache_bytes", [1, 1000, 1 << 20])
def test_distances_from_rows_of_its_own(cache_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CACHE_BYTES", cache_bytes)
    rng = np.random.default_rng(0)
    rows = rng.normal(200, 1, (30, 6)).astype(np.float32)
    mean = rows.mean(axis=0)
    rows[4] = mean
    units, near = unit_rows(rng.normal(200, 1, (7, 6)), mean), rng.integers(0, 30, (7, 5))
    near[0, 0] = 4  # of no direction: at distance 1
    expected = 1 - np.einsum("qkd,qd->qk", unit_rows(rows, mean)[near], units)
    np.testing.assert_allclose(cosine_distances_to(rows, near, units, mean), expected, atol=1e-6)
    assert cosine_distances_to(rows, near, units, mean)[0, 0] == 1
    assert cosine_distances_to(rows, near[:0], units[:0], mean).shape == (0, 5)


def test_half_precision_is_taken_as_numpy_takes_it() -> None:
    """Every number there is, infinities and NaN among them, and alone."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    for block in (every, every[:124], every[128:252], every[:0]):
        found = _single(block)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, block.astype(np.float32))
    single = np.ones((2, 3), np.float32)
    assert _single(single) is single


@pytest.fixture(scope="module")
def rows(cells_factory: Any) -> np.ndarray:
    values = cells_factory(2000, 48, 6).X
    return unit_rows(values, centre_of(values))


@pytest.fixture(scope="module")
def index(rows: np.ndarray) -> ApproximateIndex:
    return build_index(rows, seed=1)


def test_the_measured_recall_is_that_of_another_count(rows: np.ndarray, index: ApproximateIndex) -> None:
    assert index.measured is not None
    assert index.measured.recall >= 0.95
    assert (index.measured.k, index.measured.n_queries) == (10, 100)
    others = rows[::5]
    found = index.search(index.project(others), k=11)
    truth = nearest_prepared(rows, others, k=11)[1]
    recall = np.mean([len(set(f) & set(t)) / 11 for f, t in zip(found, truth, strict=True)])
    assert abs(recall - index.measured.recall) < 0.05


def test_components_are_orthonormal_and_lists_are_those_of_the_nearest_centroid(
    rows: np.ndarray, index: ApproximateIndex
) -> None:
    width = index.components.shape[1]
    np.testing.assert_allclose(index.components.T @ index.components, np.eye(width), atol=1e-5)
    codes = index.project(rows[:50])
    np.testing.assert_array_equal(codes, index.codes()[:50].astype(np.float32))
    nearest_list = np.linalg.norm(codes[:, None] - index.centroids[None], axis=2).argmin(axis=1)
    np.testing.assert_array_equal(index.faiss_index.quantizer.assign(codes, 1)[:, 0], nearest_list)


def test_fewer_lists_find_less(rows: np.ndarray, index: ApproximateIndex) -> None:
    truth = nearest_prepared(rows, rows[:200], k=11)[1]
    queries = index.project(rows[:200])
    found = [index.search(queries, k=11, probes=probes) for probes in (1, 4, index.n_lists)]
    recalls = [np.mean([np.isin(t, f).mean() for t, f in zip(truth, one, strict=True)]) for one in found]
    assert recalls[0] < recalls[1] <= recalls[2]
    assert recalls[2] > 0.97


def test_a_recall_out_of_reach_searches_all_lists_and_is_reported(rows: np.ndarray, index: ApproximateIndex) -> None:
    measured = index.measure(rows[:200], np.arange(200), np.arange(2000).reshape(200, 10))
    assert measured.probes == index.n_lists
    assert measured.recall < 0.2


def test_only_chosen_rows_are_found_however_far_they_are(rows: np.ndarray, index: ApproximateIndex) -> None:
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[[3, 500, 1999]] = True
    queries = index.project(rows[:20])
    assert set(index.search(queries, k=3, probes=1, chosen=chosen).ravel()) == {3, 500, 1999}
    assert (index.search(queries, k=4, probes=1, chosen=chosen)[:, -1] == -1).all()


def test_it_comes_back_from_its_codes(rows: np.ndarray, index: ApproximateIndex) -> None:
    again = ApproximateIndex.from_codes(index.components, index.centroids, index.codes(), index.measured)
    queries = index.project(rows[:100])
    np.testing.assert_array_equal(again.search(queries, k=7), index.search(queries, k=7))


def test_the_same_seed_gives_the_same_bits(rows: np.ndarray, index: ApproximateIndex, disk_rows: Any) -> None:
    again = build_index(disk_rows(rows), seed=1)
    np.testing.assert_array_equal(again.components, index.components)
    np.testing.assert_array_equal(again.centroids, index.centroids)
    assert again.measured == index.measured


def test_rows_are_read_in_two_passes_and_in_blocks(cells_factory: Any, disk_rows: Any) -> None:
    values = disk_rows(unit_rows(cells_factory(3000, 40, 4).X, np.zeros(40, dtype=np.float32)))
    values.read = 0
    build_index(values, block_bytes=4 * 40 * 100)
    samples = 300 + 2700 + 3000  # held out, for the components, for the lists
    assert values.read <= 2 * 3000 + samples


def test_wide_rows_keep_few_components() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(400, 8)) @ rng.normal(size=(8, 1500))).astype(np.float32)
    index = build_index(unit_rows(values, values.mean(0)))
    assert index.components.shape[1] == 16
    assert index.measured is not None
    assert index.measured.recall > 0.9


def test_equal_rows_do_no_harm() -> None:
    values = np.ones((300, 12), dtype=np.float32)
    index = build_index(unit_rows(values, values.mean(0)))
    assert index.measured is not None
    assert 0 <= index.measured.recall <= 1
    assert (index.search(index.project(np.zeros((3, 12))), k=5, probes=1) >= 0).all()
