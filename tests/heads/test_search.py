from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scstore.heads.search import nearest


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
