"""Exact nearest neighbours between matrices that are read block by block."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.heads.rows import BLOCK_BYTES, Array, MappedRows, Rows, iter_blocks, to_dense
from scstore.heads.training import in_threads

__all__ = ["centre_of", "cosine_distances_to", "nearest", "nearest_prepared", "unit_rows", "unit_view"]

CACHE_BYTES = 1 << 20
"""Bytes of float32 of the rows whose distances are computed at a time: they stay in the processor's cache."""

BEYOND_HALF = 65_536.0
"""Infinity and NaN of half precision become this or more where their bits are read as a number."""

Float32 = NDArray[np.float32]


def centre_of(rows: Rows, *, block_bytes: int = BLOCK_BYTES) -> Float32:
    """Return the mean of all rows, ``(d,)``."""
    total = np.zeros(rows.shape[1], dtype=np.float64)
    for _, block in iter_blocks(rows, block_bytes=block_bytes):
        total += block.sum(axis=0, dtype=np.float64)
    mean: Float32 = (total / rows.shape[0]).astype(np.float32)
    return mean


def unit_rows(block: Any, mean: Float32) -> Float32:
    """Return rows minus ``mean``, each of length 1: half the squared distance of two is 1 - their cosine."""
    centred: Float32 = to_dense(block) - mean
    centred /= _lengths(centred)[:, None]
    return centred


def unit_view(rows: Rows, mean: Float32) -> MappedRows:
    """Return :func:`unit_rows` of a matrix, computed when read."""
    return MappedRows(rows, lambda block: unit_rows(block, mean), width=rows.shape[1])


def cosine_distances_to(rows: Array, near: NDArray[np.int64], units: Float32, mean: Float32) -> Float32:
    """Return 1 - cosine of each unit query ``(m, d)`` and its own rows ``near`` ``(m, k)`` of ``rows``: ``(m, k)``.

    NaN where a row is not finite.
    """
    m, k = near.shape
    found = np.empty((m, k), dtype=np.float32)
    step = max(1, CACHE_BYTES // (4 * k * rows.shape[1]))

    def fill(starts: Sequence[int]) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            for start in starts:
                part = slice(start, start + step)
                centred = _single(rows[near[part]])
                centred -= mean
                cosines = np.matmul(centred, units[part, :, None])[:, :, 0] / _lengths(centred)
                np.subtract(1, cosines, out=found[part])

    every = range(0, m, step)
    share = max(1, -(-len(every) // (os.cpu_count() or 1)))
    for _ in in_threads(fill, [every[first : first + share] for first in range(0, len(every), share)]):
        pass
    return found


def nearest(
    reference: Rows, queries: Rows, *, k: int, mean: Float32 | None = None, block_bytes: int = BLOCK_BYTES
) -> tuple[Float32, NDArray[np.int64]]:
    """Find the ``k`` nearest reference rows of every query by cosine distance around a mean, streaming both sides.

    Returns 1 - cosine, ascending, 0 to 2, and rows of the reference: ``(m, k)`` each. The mean is the reference's
    where none is given.
    """
    if mean is None:
        mean = centre_of(reference, block_bytes=block_bytes)
    prepared = unit_view(reference, mean)
    distances = np.empty((queries.shape[0], k), dtype=np.float32)
    indices = np.empty((queries.shape[0], k), dtype=np.int64)
    for start, block in iter_blocks(queries, block_bytes=block_bytes):
        part = slice(start, start + len(block))
        distances[part], indices[part] = nearest_prepared(
            prepared, unit_rows(block, mean), k=k, block_bytes=block_bytes
        )
    return np.clip(distances / 2, 0, 2), indices


def nearest_prepared(
    reference: Rows, queries: Float32, *, k: int, block_bytes: int = BLOCK_BYTES
) -> tuple[Float32, NDArray[np.int64]]:
    """Find the ``k`` nearest of some rows ``(n, d)`` by Euclidean distance, in one pass over them.

    Returns squared distances, ascending, and row numbers: ``(m, k)`` each.
    """
    import faiss

    heap = faiss.ResultHeap(len(queries), k)
    for first, rows in iter_blocks(reference, block_bytes=block_bytes):
        found, where = faiss.knn(queries, rows, min(k, len(rows)))
        heap.add_result(found, where + first)
    heap.finalize()
    return heap.D, heap.I


def _lengths(centred: Float32) -> Float32:
    """Return the length of each row, at least a tiny one."""
    lengths: Float32 = np.sqrt(np.einsum("...d,...d->...", centred, centred))
    return np.maximum(lengths, np.finfo(np.float32).tiny)


def _single(block: Array) -> Float32:
    """Return a block as float32, the same numbers as ``astype`` seven times as fast from half precision.

    NumPy converts one number at a time. This moves sign, exponent and fraction of all to their places at once and
    corrects the exponent's offset by a product.
    """
    if block.dtype != np.float16:
        return block.astype(np.float32, copy=False)
    bits = block.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # clears the copies of the sign bit
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)
    finite = not values.size or max(values.max(), -values.min()) < BEYOND_HALF
    return values if finite else block.astype(np.float32)
