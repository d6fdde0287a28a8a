"""Columns made comparable before a head reads them: streamed moments, scaling, and the reduction of expression."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy import sparse

from scstore.cells.gene_statistics import ClassSums, top_genes
from scstore.errors import CellsError, FeatureSpaceError
from scstore.heads.base import State, loading, require, take_arrays
from scstore.heads.class_numbers import encode_labels
from scstore.heads.rows import (
    BLOCK_BYTES,
    MEMORY_LIMIT,
    Array,
    MappedRows,
    Rows,
    block_within,
    iter_blocks,
    iter_raw_blocks,
    to_dense,
)
from scstore.heads.training import one_blas_thread

# Bytes of a block of expression as if it were dense; it is sparse and takes about a tenth.
EXPRESSION_BLOCK_BYTES = 1 << 27


@dataclass(frozen=True)
class Scaling:
    """``(row - mean) / scale``.

    ``mean`` and ``scale`` are ``(d,) float64`` with values that float32 can hold. So the difference is exact in float32
    even where a mean is a thousand times the spread around it (outlier dimensions of language models).
    """

    mean: Array
    scale: Array

    def apply(self, block: Any) -> Array:
        """Scale a block, dense or CSR: ``(b, d)`` to ``(b, d) float32``."""
        values: Array = to_dense(block) - self.mean.astype(np.float32)
        values /= self.scale.astype(np.float32)
        return values

    def over(self, rows: Rows) -> MappedRows:
        """Return the scaled rows, read when asked for."""
        return MappedRows(rows, self.apply, width=rows.shape[1])

    def fold(self, weights: Array, bias: Array) -> tuple[Array, Array]:
        """Turn weights ``(c, d)`` and bias ``(c,)`` for scaled rows into float64 ones for the rows as they are."""
        folded = weights.astype(np.float64) / self.scale
        return folded, bias.astype(np.float64) - folded @ self.mean


def fit_scaling(rows: Rows, *, memory_limit: int = MEMORY_LIMIT) -> Scaling:
    """Centre and standardise the columns, then divide by √d, so that a row has a norm of about 1 whatever its width.

    A penalty or a learning rate then means the same for a view of 20 columns and for one of 5,120.
    """
    mean, variance = column_moments(rows, block_bytes=block_within(memory_limit))
    scale = usable_scale(mean, variance) * np.sqrt(rows.shape[1])
    return Scaling(mean.astype(np.float32).astype(np.float64), scale.astype(np.float32).astype(np.float64))


def column_moments(rows: Rows, *, block_bytes: int = BLOCK_BYTES) -> tuple[Array, Array]:
    """Return the mean and population variance of each column, ``(d,) float64`` each, in one pass."""
    return _moments(rows, lambda values: np.einsum("ij,ij->j", values, values), block_bytes)


def usable_scale(mean: Array, variance: Array) -> Array:
    """Return standard deviations, with 1 for columns that are constant but for rounding in float32."""
    return np.where(variance <= 1e-12 * mean**2, 1.0, np.sqrt(np.where(variance > 0, variance, 1.0)))


def _moments(rows: Rows, product: Callable[[Array], Array], block_bytes: int) -> tuple[Array, Array]:
    """Return the columns' means and the mean of the product over centred rows, such as their variances.

    Blocks are merged by the update of Chan, Golub and LeVeque (1979), which stays exact where a mean is far larger
    than the spread around it.
    """
    mean, products, seen = np.zeros(rows.shape[1]), np.zeros(()), 0
    for _, block in iter_blocks(rows, block_bytes=block_bytes):
        values = block.astype(np.float64)
        block_mean = values.mean(axis=0)
        values -= block_mean
        total, shift = seen + len(block), block_mean - mean
        products = products + (product(values) + product(shift[None]) * (seen * len(block) / total))
        mean += shift * (len(block) / total)
        seen = total
    return mean, products / max(1, seen)


@dataclass(frozen=True, eq=False)
class ExpressionReducer:
    """The genes of highest ANOVA F on the training cells, standardised, and their first principal components.

    ``selected`` ``(g,) int64`` are columns of the ``n_features_in`` genes, best first; ``mean`` and ``scale`` are
    ``(g,)``, ``components`` ``(n_components, g)``. Nothing is random: the components are eigenvectors of the genes'
    correlation matrix, each with its largest loading positive.
    """

    selected: Array
    mean: Array
    scale: Array
    components: Array
    n_features_in: int

    @classmethod
    def fit(cls, rows: Rows, y: Any, *, n_genes: int = 200, n_components: int = 20) -> Self:
        """Learn from log-normalised expression ``(n, genes)`` and labels ``(n,)``, in two passes and bounded memory.

        :class:`LabelsError` if the labels cannot be learned from, :class:`CellsError` if a value is not finite, or no
        gene varies.
        """
        n, n_features_in = rows.shape
        labels = encode_labels(y, n)
        sums = ClassSums(len(labels.classes), n_features_in)
        for start, block in iter_raw_blocks(rows, block_bytes=EXPRESSION_BLOCK_BYTES):
            sums.add(block, labels.codes[start : start + block.shape[0]])
        # A gene that only the one cell of a class expresses would have an infinite F, so such classes do not count.
        score = sums.f_values(min_cells=2)
        if not score.any():
            score = sums.variances()
        best = top_genes(score, n_genes)
        selected = best[score[best] > 0]
        if not len(selected):
            raise CellsError("X: no gene varies among the training cells. Leave out the view X.")
        chosen = MappedRows(rows, lambda block: _columns(block, selected), width=len(selected))
        with one_blas_thread():
            mean, covariance = _moments(chosen, lambda values: values.T @ values, EXPRESSION_BLOCK_BYTES)
            scale = usable_scale(mean, np.diag(covariance))
            spread, axes = np.linalg.eigh(covariance / np.outer(scale, scale))
        spanned = int((spread > 1e-9 * spread[-1]).sum())
        axes = axes[:, ::-1][:, : max(1, min(n_components, spanned))].T
        largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
        components = np.ascontiguousarray(axes * np.where(largest < 0, -1.0, 1.0)[:, None])
        return cls(selected, mean, scale, components, n_features_in)

    def over(self, rows: Rows, *, selected: bool) -> MappedRows:
        """Return the components ``(n, n_components) float32``, computed when asked for.

        ``rows`` have all genes of the fit, or with ``selected`` the genes ``selected`` alone, in that order.
        """
        width = len(self.selected) if selected else self.n_features_in
        if rows.shape[1] != width:
            raise FeatureSpaceError(f"X: {rows.shape[1]:,} genes in place of {width:,}. Give the head's, in its order.")

        def project(block: Any) -> Array:
            # Row by row in float64: a cell has the same components alone or among a million.
            values = to_dense(block) if selected else _columns(block, self.selected)
            return (((values - self.mean) / self.scale) @ self.components.T).astype(np.float32)

        return MappedRows(rows, project, width=len(self.components))

    def to_state(self) -> State:
        """Return what was learned as JSON values and arrays; :meth:`from_state` takes it back."""
        return dict(vars(self))

    @classmethod
    @loading()
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the fitted reducer; :class:`DamagedError` where its parts do not fit together."""
        shapes = {"selected": "g", "mean": "g", "scale": "g", "components": "pg"}
        reducer = cls(**take_arrays(state, shapes, integers=("selected",)), n_features_in=int(state["n_features_in"]))
        selected = reducer.selected
        in_range = selected.size and selected.min() >= 0 and selected.max() < reducer.n_features_in
        require(in_range and len(reducer.components), "reducer: its genes or components are missing or out of range.")
        require((reducer.scale > 0).all(), "reducer: its scales are not positive.")
        return reducer


def _columns(block: Any, columns: Array) -> Array:
    return to_dense((sparse.csr_matrix(block) if sparse.issparse(block) else np.asarray(block))[:, columns])
