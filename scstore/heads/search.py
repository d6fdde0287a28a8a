"""Exact nearest neighbours between matrices that are read block by block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scstore.heads.rows import BLOCK_BYTES, Rows, iter_blocks

__all__ = ["nearest"]


def nearest(
    reference: Rows, queries: Rows, *, k: int, block_bytes: int = BLOCK_BYTES
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the nearest reference rows of every query row, by cosine distance around the reference's mean.

    Both sides are streamed, so memory does not grow with the reference; the result is exact.

    Parameters
    ----------
    reference
        ``(n, d)``.
    queries
        ``(m, d)``.
    k
        Neighbours a query, at most ``n``.
    block_bytes
        Bytes of float32 of one block of rows.

    Returns
    -------
    distances
        ``(m, k) float32``: 1 − cosine, ascending, 0 to 2.
    indices
        ``(m, k) int64``: rows of the reference.
    """
    import faiss

    total = np.zeros(reference.shape[1], dtype=np.float64)
    for _, block in iter_blocks(reference, block_bytes=block_bytes):
        total += block.sum(axis=0, dtype=np.float64)
    mean = (total / reference.shape[0]).astype(np.float32)
    similarities = np.empty((queries.shape[0], k), dtype=np.float32)
    indices = np.empty((queries.shape[0], k), dtype=np.int64)
    for start, block in iter_blocks(queries, block_bytes=block_bytes):
        wanted = _normalised(block, mean)
        heap = faiss.ResultHeap(len(wanted), k, keep_max=True)
        for first, rows in iter_blocks(reference, block_bytes=block_bytes):
            size = min(k, len(rows))
            found, where = faiss.knn(wanted, _normalised(rows, mean), size, metric=faiss.METRIC_INNER_PRODUCT)
            heap.add_result(found, where + first)
        heap.finalize()
        similarities[start : start + len(wanted)] = heap.D
        indices[start : start + len(wanted)] = heap.I
    return np.clip(1 - similarities, 0, 2), indices


def _normalised(rows: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = rows - mean
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.ascontiguousarray(centred / np.maximum(lengths, np.finfo(np.float32).tiny))
