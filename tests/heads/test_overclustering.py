from __future__ import annotations

import numpy as np
import pytest

from scstore.heads.overclustering import n_overclusters, overcluster
from scstore.heads.rows import ConcatRows


@pytest.mark.parametrize(("n", "k"), [(0, 1), (1, 1), (2, 1), (100, 10), (10_000, 100), (5_000_000, 1_000)])
def test_the_root_of_the_cells_at_most_a_thousand(n: int, k: int) -> None:
    assert n_overclusters(n) == k


def groups(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cells of five well-separated groups."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, n)
    return (6 * rng.normal(size=(5, 12))[truth] + rng.normal(size=(n, 12))).astype(np.float32), truth


def test_a_cluster_holds_cells_of_one_group() -> None:
    rows, truth = groups(900)
    found = overcluster(ConcatRows([rows[:, :7], rows[:, 7:]]), views=["a", "X"], seed=0)
    assert 20 <= len(np.unique(found)) <= 30
    assert all(len(np.unique(truth[found == cluster])) == 1 for cluster in np.unique(found))


def test_a_view_weighs_the_same_whatever_its_scale_and_width() -> None:
    rows, truth = groups(900)
    noise = 1000 * np.random.default_rng(1).normal(size=(900, 3)).astype(np.float32)
    found = overcluster(ConcatRows([noise, rows]), views=["noise", "rows"], seed=0)
    pure = [np.bincount(truth[found == cluster]).max() / (found == cluster).sum() for cluster in np.unique(found)]
    assert np.mean(pure) > 0.9


def test_the_same_seed_gives_the_same_clusters() -> None:
    rows = ConcatRows([groups(400)[0]])
    first, second, other = (overcluster(rows, views=["a"], seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7])
def test_few_or_equal_cells(n: int) -> None:
    for rows in (np.ones((n, 4), dtype=np.float32), groups(n)[0]):
        found = overcluster(ConcatRows([rows]), views=["X"], seed=0)
        assert found.shape == (n,)
        assert found.min(initial=0) >= 0
