"""Expression as a head takes it: the genes that tell the classes apart, then a small PCA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from scipy import sparse

from scstore.cells.anova import ClassSums, top_genes
from scstore.errors import CellsError, DamagedError, FeatureSpaceError
from scstore.heads.base import check_positive, take_array
from scstore.heads.labels import encode_labels
from scstore.heads.rows import Array, MappedRows, Rows, iter_blocks, iter_raw_blocks, materialise, to_dense
from scstore.heads.scaling import usable_scale
from scstore.heads.threads import one_blas_thread

__all__ = ["ExpressionReducer"]

BLOCK_BYTES = 1 << 27
"""As if dense; expression is sparse and takes about a tenth."""


class ExpressionReducer:
    """The genes of highest ANOVA F on the training cells, standardised, and their first principal components.

    Everything is learned from the rows given to :meth:`fit`, in two passes and bounded memory. Nothing is random:
    the components are eigenvectors of the selected genes' correlation matrix, each with its largest loading
    positive.

    Parameters
    ----------
    n_genes
        Genes to select; fewer where fewer vary.
    n_components
        Principal components; fewer where the cells or genes do not span as many.

    Attributes
    ----------
    selected_
        ``(g,) int64`` columns at fit, best gene first.
    mean_, scale_
        ``(g,) float64``.
    components_
        ``(n_components, g) float64``.
    n_features_in_
        Genes of the rows at fit.
    """

    selected_: Array
    mean_: Array
    scale_: Array
    components_: Array
    n_features_in_: int

    def __init__(self, n_genes: int = 200, *, n_components: int = 20) -> None:
        self.n_genes = n_genes
        self.n_components = n_components

    def fit(self, rows: Rows, y: Any) -> Self:
        """Learn from log-normalised expression ``(n, genes)`` and labels ``(n,)``.

        Raises
        ------
        LabelsError
            If the labels cannot be learned from.
        CellsError
            If a value is not finite, or no gene varies.
        """
        check_positive(n_genes=self.n_genes, n_components=self.n_components)
        n, self.n_features_in_ = rows.shape
        labels = encode_labels(y, n)
        sums = ClassSums(len(labels.classes), self.n_features_in_)
        for start, block in iter_raw_blocks(rows, block_bytes=BLOCK_BYTES):
            sums.add(block, labels.codes[start : start + block.shape[0]])
        # Every gene that only the one cell of a class expresses would have an infinite F, so such classes do not
        # vote.
        score = sums.f_values(min_cells=2)
        if not score.any():
            score = sums.variances()
        best = top_genes(score, self.n_genes)
        self.selected_ = best[score[best] > 0]
        if not len(self.selected_):
            msg = "X: no gene varies among the training cells, so expression says nothing. Leave out the view X."
            raise CellsError(msg)
        with one_blas_thread():
            self._fit_components(MappedRows(rows, self._select, width=len(self.selected_)))
        return self

    def _fit_components(self, rows: Rows) -> None:
        n, width = rows.shape
        mean, products, seen = np.zeros(width), np.zeros((width, width)), 0
        for _, block in iter_blocks(rows, block_bytes=BLOCK_BYTES):
            values = block.astype(np.float64)
            block_mean = values.mean(axis=0)
            values -= block_mean
            total, shift = seen + len(values), block_mean - mean
            products += values.T @ values + np.outer(shift, shift) * (seen * len(values) / total)
            mean += shift * (len(values) / total)
            seen = total
        covariance = products / n
        self.mean_, self.scale_ = mean, usable_scale(mean, np.diag(covariance))
        spread, axes = np.linalg.eigh(covariance / np.outer(self.scale_, self.scale_))
        spanned = int((spread > 1e-9 * spread[-1]).sum())
        axes = axes[:, ::-1][:, : max(1, min(self.n_components, spanned))].T
        largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
        self.components_ = np.ascontiguousarray(axes * np.where(largest < 0, -1.0, 1.0)[:, None])

    def transform(self, rows: Rows) -> Array:
        """Components ``(n, n_components) float32`` of rows that have all genes of the fit, ``(n, genes)``."""
        return materialise(self.over(rows))

    def transform_selected(self, rows: Rows) -> Array:
        """Components ``(n, n_components) float32`` of rows that have the selected genes alone, in order: ``(n, g)``."""
        return materialise(self.over_selected(rows))

    def over(self, rows: Rows) -> MappedRows:
        """:meth:`transform`, row by row when asked for."""
        self._check_width(rows, self.n_features_in_)
        return MappedRows(rows, lambda block: self._project(self._select(block)), width=len(self.components_))

    def over_selected(self, rows: Rows) -> MappedRows:
        """:meth:`transform_selected`, row by row when asked for."""
        self._check_width(rows, len(self.selected_))
        return MappedRows(rows, lambda block: self._project(to_dense(block)), width=len(self.components_))

    def _check_width(self, rows: Rows, width: int) -> None:
        if rows.shape[1] != width:
            msg = (
                f"X: {rows.shape[1]:,} genes where {width:,} belong. Give the genes that the head names, in its order."
            )
            raise FeatureSpaceError(msg)

    def _select(self, block: Any) -> Array:
        if sparse.issparse(block):
            return to_dense(sparse.csr_matrix(block)[:, self.selected_])
        return to_dense(np.asarray(block)[:, self.selected_])

    def _project(self, values: Array) -> Array:
        # Row by row in float64: a cell has the same components alone or among a million.
        scaled = (values - self.mean_) / self.scale_
        result: Array = (scaled @ self.components_.T).astype(np.float32)
        return result

    def to_arrays(self) -> dict[str, Array]:
        """What was learned: ``selected``, ``mean``, ``scale``, ``components``, and the number of genes at fit."""
        width = np.array([self.n_features_in_], dtype=np.int64)
        names = ("selected", "mean", "scale", "components")
        return {**{name: getattr(self, f"{name}_") for name in names}, "n_features_in": width}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """A fitted reducer from what :meth:`to_arrays` gave; :class:`DamagedError` where the arrays do not fit."""
        selected = take_array(arrays, "selected", shape=(-1,), kind="i")
        width = len(selected)
        components = take_array(arrays, "components", shape=(-1, width))
        reducer = cls(width, n_components=len(components))
        reducer.n_features_in_ = int(take_array(arrays, "n_features_in", shape=(1,), kind="i")[0])
        reducer.selected_, reducer.components_ = selected, components
        reducer.mean_ = take_array(arrays, "mean", shape=(width,))
        reducer.scale_ = take_array(arrays, "scale", shape=(width,))
        in_range = width and selected.min() >= 0 and selected.max() < reducer.n_features_in_
        if not in_range or not len(components) or not (reducer.scale_ > 0).all():
            msg = (
                "reducer: no genes, genes out of range, no components, or scales that are not positive. It is damaged."
            )
            raise DamagedError(msg)
        return reducer
