"""Exact nearest neighbours between matrices that are read block by block."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.heads.rows import BLOCK_BYTES, Array, MappedRows, Rows, iter_blocks, to_dense
from scstore.heads.threads import in_threads

__all__ = ["apart", "centre_of", "nearest", "nearest_prepared", "unit_rows", "unit_view"]

CACHE_BYTES = 1 << 20
"""Bytes of float32 of the rows that distances are worked out of at a time."""

BEYOND_HALF = 65_536.0
"""What infinity and NaN of half precision become, or more, where they are taken for numbers."""

Float32 = NDArray[np.float32]


def centre_of(rows: Rows, *, block_bytes: int = BLOCK_BYTES) -> Float32:
    """The mean of all rows, ``(d,) float32``, in one pass."""
    total = np.zeros(rows.shape[1], dtype=np.float64)
    for _, block in iter_blocks(rows, block_bytes=block_bytes):
        total += block.sum(axis=0, dtype=np.float64)
    mean: Float32 = (total / rows.shape[0]).astype(np.float32)
    return mean


def unit_rows(block: Any, mean: Float32) -> Float32:
    """Rows minus ``mean``, each of length 1: half the squared Euclidean distance of two is 1 − their cosine."""
    centred: Float32 = to_dense(block) - mean
    centred /= _lengths(centred)[:, None]
    return centred


def _lengths(centred: Float32) -> Float32:
    """Of each row ``(n, d)``, ``(n,)``; tiny where it is 0."""
    lengths: Float32 = np.sqrt(np.einsum("...d,...d->...", centred, centred))
    return np.maximum(lengths, np.finfo(np.float32).tiny)


def _single(block: Array) -> Float32:
    """A block as float32, its own or a copy.

    NumPy takes half precision one number at a time. Here sign, exponent and fraction of all of them are moved to their
    places at once, and the exponent's offset is made up for by a product: the same numbers, seven times as fast.
    """
    if block.dtype != np.float16:
        return block.astype(np.float32, copy=False)
    bits = block.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # all but what the sign has left beside itself
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)
    finite = not values.size or max(values.max(), -values.min()) < BEYOND_HALF
    return values if finite else block.astype(np.float32)


def apart(rows: Array, near: NDArray[np.int64], units: Float32, mean: Float32) -> Float32:
    """Cosine distances of each query from rows of its own, around a mean.

    Parameters
    ----------
    rows
        ``(n, d)``, as they are stored.
    near
        ``(m, k)`` rows of ``rows`` for each query.
    units
        ``(m, d) float32`` queries as :func:`unit_rows` gives them.
    mean
        ``(d,) float32``.

    Returns
    -------
    ``(m, k) float32``: 1 − cosine; NaN where a row is not finite.
    """
    m, k = near.shape
    found = np.empty((m, k), dtype=np.float32)
    # few at a time: what is worked on stays in the processor's cache
    step = max(1, CACHE_BYTES // (4 * k * rows.shape[1]))

    def fill(starts: Sequence[int]) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # the caller looks for what is not finite
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


def unit_view(rows: Rows, mean: Float32) -> MappedRows:
    """:func:`unit_rows` of a whole matrix, worked out when asked for."""
    return MappedRows(rows, lambda block: unit_rows(block, mean), width=rows.shape[1])


def nearest(
    reference: Rows, queries: Rows, *, k: int, mean: Float32 | None = None, block_bytes: int = BLOCK_BYTES
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the nearest reference rows of every query row, by cosine distance around a mean.

    Both sides are streamed, so memory does not grow with the reference; the result is exact.

    Parameters
    ----------
    reference
        ``(n, d)``.
    queries
        ``(m, d)``.
    k
        Neighbours a query, at most ``n``.
    mean
        ``(d,)``; the reference's by default.
    block_bytes
        Bytes of float32 of one block of rows.

    Returns
    -------
    distances
        ``(m, k) float32``: 1 − cosine, ascending, 0 to 2.
    indices
        ``(m, k) int64``: rows of the reference.
    """
    if mean is None:
        mean = centre_of(reference, block_bytes=block_bytes)
    prepared = unit_view(reference, mean)
    distances = np.empty((queries.shape[0], k), dtype=np.float32)
    indices = np.empty((queries.shape[0], k), dtype=np.int64)
    for start, block in iter_blocks(queries, block_bytes=block_bytes):
        part = slice(start, start + len(block))
        ((distances[part], indices[part]),) = nearest_prepared(
            prepared, unit_rows(block, mean), k=k, block_bytes=block_bytes
        )
    return np.clip(distances / 2, 0, 2), indices


def nearest_prepared(
    reference: Rows,
    queries: Float32,
    *,
    k: int,
    block_bytes: int = BLOCK_BYTES,
    through: Sequence[tuple[Callable[[Float32], Float32], Float32]] = (),
) -> list[tuple[Float32, NDArray[np.int64]]]:
    """Exact neighbours by Euclidean distance of some rows among rows as they are, in one pass over the latter.

    Parameters
    ----------
    reference
        ``(n, d)``.
    queries
        ``(m, d) float32``.
    k
        Neighbours a query, at most ``n``.
    block_bytes
        Bytes of float32 of one block of the reference.
    through
        Functions of a block, each with the queries to search for among the blocks as it gives them, in the same pass.

    Returns
    -------
    One ``(distances, indices)`` for the rows as they are and one for each function: squared Euclidean distances
    ``(m, k) float32``, ascending, and rows of the reference ``(m, k) int64``.
    """
    import faiss

    ways = [(_as_they_are, queries), *through]
    heaps = [faiss.ResultHeap(len(wanted), k) for _, wanted in ways]
    for first, rows in iter_blocks(reference, block_bytes=block_bytes):
        size = min(k, len(rows))
        for (way, wanted), heap in zip(ways, heaps, strict=True):
            found, where = faiss.knn(wanted, way(rows), size)
            heap.add_result(found, where + first)
    for heap in heaps:
        heap.finalize()
    return [(heap.D, heap.I) for heap in heaps]


def _as_they_are(rows: Float32) -> Float32:
    return rows
