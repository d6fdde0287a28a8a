"""Column means and scales, found in one pass over the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scstore.heads.rows import BLOCK_BYTES, Array, MappedRows, Rows, iter_blocks, to_dense

__all__ = ["Scaling", "column_moments", "fit_scaling", "identity_scaling", "usable_scale"]


@dataclass(frozen=True)
class Scaling:
    """``(row - mean) / scale``.

    Attributes
    ----------
    mean
        ``(d,) float64``, values that float32 can hold: so the difference is exact in float32 even where a mean is a
        thousand times the spread around it (outlier dimensions of language models).
    scale
        ``(d,) float64``, all positive, values that float32 can hold.
    """

    mean: Array
    scale: Array

    def apply(self, block: Any) -> Array:
        """Scale a block, dense or CSR: ``(b, d)`` to ``(b, d) float32``."""
        values: Array = to_dense(block) - self.mean.astype(np.float32)
        values /= self.scale.astype(np.float32)
        return values

    def over(self, rows: Rows) -> MappedRows:
        """The scaled rows, read when asked for."""
        return MappedRows(rows, self.apply, width=rows.shape[1])

    def fold(self, weights: Array, bias: Array) -> tuple[Array, Array]:
        """Weights ``(c, d)`` and bias ``(c,)`` for scaled rows, turned into float64 ones for the rows as they are."""
        folded = weights.astype(np.float64) / self.scale
        return folded, bias.astype(np.float64) - folded @ self.mean

    def unfold(self, weights: Array, bias: Array) -> tuple[Array, Array]:
        """The other way round: weights for the rows as they are, turned into those for scaled rows."""
        return weights * self.scale, bias + weights @ self.mean


def column_moments(rows: Rows, *, block_bytes: int = BLOCK_BYTES) -> tuple[Array, Array]:
    """Mean and population variance of each column, in one pass and float64.

    Blocks are merged by the update of Chan, Golub and LeVeque (1979), which stays exact where a mean is far larger
    than the spread around it.

    Returns
    -------
    mean, variance
        ``(d,) float64`` each.
    """
    mean, squares, seen = np.zeros(rows.shape[1]), np.zeros(rows.shape[1]), 0
    for _, block in iter_blocks(rows, block_bytes=block_bytes):
        values = block.astype(np.float64)
        block_mean = values.mean(axis=0)
        values -= block_mean
        total, shift = seen + len(block), block_mean - mean
        squares += np.einsum("ij,ij->j", values, values) + shift**2 * (seen * len(block) / total)
        mean += shift * (len(block) / total)
        seen = total
    return mean, squares / max(1, seen)


def usable_scale(mean: Array, variance: Array) -> Array:
    """Standard deviations, with 1 for columns that are constant but for rounding in float32."""
    return np.where(variance <= 1e-12 * mean**2, 1.0, np.sqrt(np.where(variance > 0, variance, 1.0)))


def fit_scaling(rows: Rows, *, block_bytes: int = BLOCK_BYTES) -> Scaling:
    """Centre and standardise the columns, then divide by √d: a row's norm is about 1 whatever its width.

    A penalty or a learning rate then means the same for a view of 20 columns and for one of 5,120.
    """
    mean, variance = column_moments(rows, block_bytes=block_bytes)
    scale = usable_scale(mean, variance) * np.sqrt(rows.shape[1])
    return Scaling(mean.astype(np.float32).astype(np.float64), scale.astype(np.float32).astype(np.float64))


def identity_scaling(rows: Rows) -> Scaling:
    """Leave the rows as they are: they were scaled before."""
    return Scaling(np.zeros(rows.shape[1]), np.ones(rows.shape[1]))
