from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scstore.heads import exact_search as search
from scstore.heads.exact_search import _single, cosine_distances_to, nearest, unit_rows


def by_hand(reference: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    mean = reference.mean(0)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (reference - mean, queries - mean)]
    return np.sort(1 - unit[1] @ unit[0].T, axis=1)[:, :k]


@settings(deadline=None)
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
