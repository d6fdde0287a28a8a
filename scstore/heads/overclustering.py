"""Many small clusters of cells, made for their labels to be voted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.utils.extmath import randomized_svd

from scstore.heads.member import EXPRESSION
from scstore.heads.rows import Array, ConcatRows, Rows, iter_blocks, read, widest
from scstore.heads.scaling import usable_scale
from scstore.heads.threads import one_blas_thread

__all__ = ["n_overclusters", "overcluster"]

COMPONENTS = 50
"""Principal components in which the clusters are sought, at most."""

SAMPLE = 50_000
"""Cells that components and centres are fitted to, at most."""

SAMPLE_BYTES = 1 << 27
"""Bytes of float32 that they may take before the components are known."""

MOST = 1_000
"""Clusters, at most."""

BATCH = 4096


def n_overclusters(n: int) -> int:
    """How many clusters n cells are cut into: the root of n, at most 1,000.

    So 100 clusters of 100 cells on average from 10,000 cells: several a cell type, as an over-clustering should have.
    """
    return int(min(MOST, max(1, round(np.sqrt(n)))))


def overcluster(rows: ConcatRows, *, views: Sequence[str], seed: int) -> NDArray[np.int32]:
    """Cluster numbers ``(n,)`` of cells, by k-means in the principal components of their features.

    Columns are standardised, and those of a view divided by the root of its width. What stands for expression are
    components already, whose spread says how much they matter: they keep it. Components and centres come from a sample
    of at most 50,000 cells; then every cell goes to the nearest centre, block by block.

    Parameters
    ----------
    rows
        Features of all cells, views side by side.
    views
        Their names, in order.
    seed
        The same seed and the same cells give the same clusters.
    """
    n, width = rows.shape
    k = n_overclusters(n)
    if k == 1:
        return np.zeros(n, dtype=np.int32)
    rng = np.random.default_rng(seed)
    room = min(n, SAMPLE, max(k, SAMPLE_BYTES // (4 * widest(rows))))
    sample = np.sort(rng.choice(n, room, replace=False))
    values = read(rows, sample)
    mean = values.mean(axis=0, dtype=np.float64)
    scale = _scale(mean, values.var(axis=0, dtype=np.float64), dict(zip(views, rows.below, strict=True)))
    with one_blas_thread():
        scaled = values - mean.astype(np.float32)
        scaled /= scale.astype(np.float32)
        *_, axes = randomized_svd(scaled, min(COMPONENTS, width, room), random_state=seed)
        centres = MiniBatchKMeans(k, batch_size=BATCH, n_init=3, random_state=seed).fit(scaled @ axes.T)
        found = np.empty(n, dtype=np.int32)
        for start, block in iter_blocks(rows):
            placed: Array = ((block - mean) / scale).astype(np.float32) @ axes.T
            found[start : start + len(block)] = centres.predict(placed)
    return found


def _scale(mean: Array, variance: Array, parts: Mapping[str, Rows]) -> Array:
    """By what each column is divided, ``(d,)``."""
    ends = np.cumsum([part.shape[1] for part in parts.values()])
    scales = []
    for (name, part), end in zip(parts.items(), ends.tolist(), strict=True):
        here = slice(end - part.shape[1], end)
        if name == EXPRESSION:
            mean_variance = np.full(part.shape[1], variance[here].mean())
            scales.append(np.sqrt(part.shape[1]) * usable_scale(np.zeros(part.shape[1]), mean_variance))
        else:
            scales.append(np.sqrt(part.shape[1]) * usable_scale(mean[here], variance[here]))
    result: Array = np.concatenate(scales)
    return result
