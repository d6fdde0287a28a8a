"""From a view to what a head reads: streamed moments, scaling, the genes of expression, and the member that does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from scipy import sparse

from scstore.cells.gene_statistics import ClassSums, GroupMoments, top_genes
from scstore.errors import CellsError
from scstore.heads.base import RowClassifier, State, loading, require, take_arrays
from scstore.heads.class_numbers import encode_labels
from scstore.heads.rows import (
    BLOCK_BYTES,
    MEMORY_LIMIT,
    Array,
    ConcatRows,
    MappedRows,
    Rows,
    block_within,
    iter_blocks,
    iter_raw_blocks,
    read,
    to_dense,
    total,
)
from scstore.heads.training import one_blas_thread

# Bytes of a block of expression as if it were dense; it is sparse and takes about a tenth.
EXPRESSION_BLOCK_BYTES = 1 << 27

MARKERS, MARKERS_A_CLASS = 100, 5  # markers among the genes of a head, at least, and for each class

PLACING = 100  # genes of the highest F by which cells are placed, at most
FREE = 200  # genes of the largest excess dropout among those of a head with few labels
ENOUGH = 30  # labelled cells a class from which on these genes are not read on their own

# Axes along which genes vary together, at most, and the least share of a gene's variance that is its own.
FACTORS = 20
LEAST_NOISE = 0.05


@dataclass(frozen=True)
class Scaling:
    """``(row - mean) / scale``, with values that float32 holds: exact where a mean is a thousand times its spread."""

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


def fit_scaling(rows: Rows, *, memory_limit: int = MEMORY_LIMIT, standardize: bool = True) -> Scaling:
    """Standardise columns and divide by √d: one penalty or learning rate then suits views of any width."""
    if not standardize:
        return Scaling(np.zeros(rows.shape[1]), np.ones(rows.shape[1]))
    mean, variance = column_moments(rows, block_bytes=block_within(memory_limit))
    scale = usable_scale(mean, variance) * np.sqrt(rows.shape[1])
    return Scaling(mean.astype(np.float32).astype(np.float64), scale.astype(np.float32).astype(np.float64))


def column_moments(rows: Rows, *, block_bytes: int = BLOCK_BYTES) -> tuple[Array, Array]:
    """Return the mean and population variance of each column, ``(d,) float64`` each, in one pass."""
    return _moments(rows, lambda values: np.einsum("ij,ij->j", values, values), block_bytes)


def usable_scale(mean: Array, variance: Array) -> Array:
    """Return standard deviations, with 1 for columns that are constant but for rounding in float32."""
    return np.where(variance <= 1e-12 * mean**2, 1.0, np.sqrt(np.where(variance > 0, variance, 1.0)))


Moments = tuple[int, Array, Array]  # number of rows, their mean, and the sum of a product of the centred rows


def _moments(rows: Rows, product: Callable[[Array], Array], block_bytes: int) -> tuple[Array, Array]:
    """Return the columns' means and mean product over centred rows, by the update of Chan, Golub, LeVeque (1979)."""

    def together(parts: Sequence[Moments]) -> Moments:
        seen, mean, products = parts[0]
        for n, other, more in parts[1:]:
            shift = other - mean
            products = products + (more + product(shift[None]) * (seen * n / (seen + n)))
            mean = mean + shift * (n / (seen + n))
            seen += n
        return seen, mean, products

    def of_rows(some: Rows) -> Moments:
        found: Moments = (0, np.zeros(some.shape[1]), np.zeros(()))
        for _, block in iter_blocks(some, block_bytes=block_bytes):
            values = block.astype(np.float64)
            mean = values.mean(axis=0)
            values -= mean
            found = together([found, (len(block), mean, product(values))])
        return found

    n, mean, products = total(of_rows, rows, add=together)
    return mean, products / max(1, n)


@dataclass(frozen=True, eq=False)
class ExpressionReducer:
    """The genes that tell cells apart, best first, and the leading axes along which they vary in the training cells.

    First come the markers of the classes, then genes of the highest F (``places`` among the selected, where an unseen
    class differs); then those for which no label is needed: where few cells have one, of the largest excess dropout
    (``free``), and of large dispersion. A head reads ``n_components`` of the axes, or with 0 the genes; the axes are
    also the factor model that estimates genes not measured.
    """

    selected: Array
    mean: Array
    scale: Array
    axes: Array
    spread: Array
    places: Array
    free: Array
    n_components: int

    @classmethod
    def fit(cls, rows: Rows, y: Any, *, n_genes: int, n_components: int, background: Rows | None = None) -> Self:
        """Learn from log-normalised expression and labels in two passes; what needs none, from ``background``."""
        labels = encode_labels(y, rows.shape[0])
        of_labels = partial(_class_sums, (ClassSums,), len(labels.classes))
        (sums,) = total(of_labels, rows, labels.codes, add=_joined)
        dispersion, dropout = sums.dispersions(), np.zeros(0)
        if background is not None:
            few = not n_components and few_share(rows.shape[0], len(labels.classes)) > 0
            dispersion, dropout = _unlabelled(background, few=few)
        selected, places, free = _informative(sums, dispersion, dropout, n_genes)
        if not len(selected):
            raise CellsError("X: no gene varies among the training cells. Leave out the view X.")
        chosen = columns_of(rows if background is None else background, selected)
        with one_blas_thread():
            mean, covariance = _moments(chosen, lambda values: values.T @ values, EXPRESSION_BLOCK_BYTES)
            scale = usable_scale(mean, np.diag(covariance))
            spread, axes = np.linalg.eigh(covariance / np.outer(scale, scale))
        spanned = int((spread > 1e-9 * spread[-1]).sum())
        spread, axes = spread[::-1], axes[:, ::-1][:, : max(1, min(FACTORS, spanned))].T
        largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
        axes = np.ascontiguousarray(axes * np.where(largest < 0, -1.0, 1.0)[:, None])
        return cls(selected, mean, scale, axes, spread[: len(axes)].copy(), places, free, min(n_components, len(axes)))

    @property
    def width(self) -> int:
        """Columns that a head reads."""
        return self.n_components or len(self.selected)

    def over(self, rows: Rows) -> Rows:
        """Return what a head reads, ``(n, width)``, of rows of the genes ``selected``."""

        def project(block: Any) -> Array:
            # Row by row in float64: a cell has the same components alone or among a million.
            z = (to_dense(block) - self.mean) / self.scale
            return (z @ self.axes[: self.n_components].T).astype(np.float32)

        return MappedRows(rows, project, width=self.width) if self.n_components else rows

    def estimate(self, measured: Array) -> GeneEstimate:
        """Return how the genes that are not in ``measured`` ``(g,) bool`` follow from those that are."""
        loadings = self.axes.T * np.sqrt(self.spread)
        noise = np.maximum(1 - (loadings**2).sum(axis=1), LEAST_NOISE)
        seen, unseen = loadings[measured], loadings[~measured]
        weighted = seen / noise[measured][:, None]
        information = seen.T @ weighted
        posterior = np.linalg.solve(np.eye(len(information)) + information, np.eye(len(information)))
        explained = np.einsum("gk,kl,gl->g", unseen, np.eye(len(posterior)) - posterior, unseen)
        return GeneEstimate(self, measured, weighted @ posterior @ unseen.T, np.clip(explained, 0, 1))

    def to_state(self) -> State:
        """Return what was learned as JSON values and arrays; :meth:`from_state` takes it back."""
        return dict(vars(self))

    @classmethod
    @loading()
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the fitted reducer; :class:`DamagedError` where its parts do not fit together."""
        shapes = {"selected": "g", "mean": "g", "scale": "g", "axes": "kg", "spread": "k", "places": "p", "free": "f"}
        arrays = take_arrays(state, shapes, integers=("selected", "places", "free"))
        reducer = cls(**arrays, n_components=int(state["n_components"]))
        places, n_axes = np.concatenate([reducer.places, reducer.free]), len(reducer.axes)
        in_range = reducer.places.size and places.min() >= 0 and places.max() < len(reducer.selected)
        fits = in_range and n_axes and 0 <= reducer.n_components <= n_axes
        require(fits, "reducer: its genes or components are missing or out of range.")
        require((reducer.scale > 0).all() and (reducer.spread > 0).all(), "reducer: its scales are not positive.")
        return reducer


@dataclass(frozen=True, eq=False)
class GeneEstimate:
    """The conditional mean of unmeasured genes, given the measured ones of the same cell.

    A factor model (Tipping and Bishop 1999, with a noise variance for each gene) of the standardised genes: ``weights``
    lead from measured to unmeasured ones, of whose variance the share ``explained`` follows.
    """

    reducer: ExpressionReducer
    measured: Array
    weights: Array
    explained: Array

    def complete(self, values: Array) -> Array:
        """Return expression ``(b, g)`` with its unmeasured genes estimated, never below 0, as ``float32``."""
        mean, scale, seen = self.reducer.mean, self.reducer.scale, self.measured
        completed = np.array(values, dtype=np.float64)
        z = (completed[:, seen] - mean[seen]) / scale[seen]
        completed[:, ~seen] = np.maximum(mean[~seen] + (z @ self.weights) * scale[~seen], 0)
        return completed.astype(np.float32)

    def over(self, rows: Rows) -> Rows:
        """Return rows with their unmeasured genes estimated, when read."""
        return MappedRows(rows, lambda block: self.complete(to_dense(block)), width=rows.shape[1])


def marker_count(n_classes: int) -> int:
    """Return how many of the genes of a head are markers."""
    return max(MARKERS, MARKERS_A_CLASS * n_classes)


def few_share(n_cells: int, n_classes: int) -> float:
    """Return the weight of what cells without labels show: it falls with √n, 0 from 30 labelled cells a class on."""
    return max(0.0, 1 - float(np.sqrt(n_cells / n_classes / ENOUGH)))


def _unlabelled(rows: Rows, *, few: bool) -> tuple[Array, Array]:
    """Return the dispersion of each gene, and where labels are few its excess dropout, ``(d,)`` or ``(0,)``."""
    kinds = (ClassSums, GroupMoments) if few else (ClassSums,)
    together = np.zeros(rows.shape[0], dtype=np.int64)
    sums, *moments = total(partial(_class_sums, kinds, 1), rows, together, add=_joined)
    return sums.dispersions(), next((one.dropout()[0] for one in moments if isinstance(one, GroupMoments)), np.zeros(0))


def _class_sums(kinds: Sequence[type[ClassSums]], n_classes: int, rows: Rows, codes: Array) -> list[ClassSums]:
    """Return sums of each kind over classes of cells, in one pass over expression."""
    sums = [kind(n_classes, rows.shape[1]) for kind in kinds]
    for start, block in iter_raw_blocks(rows, block_bytes=EXPRESSION_BLOCK_BYTES):
        part = slice(start, start + block.shape[0])
        try:
            for one in sums:
                one.add(block, codes[part])
        except CellsError:
            read(rows, part)  # which names the row
            raise
    return sums


def _joined(parts: Sequence[Sequence[ClassSums]]) -> list[ClassSums]:
    return [first.joined(others) for first, *others in zip(*parts, strict=True)]


def _informative(sums: ClassSums, dispersion: Array, dropout: Array, n_genes: int) -> tuple[Array, Array, Array]:
    """Return the genes, best first, and the numbers among them of those of highest F and of largest dropout."""
    markers = sums.markers(min(n_genes, marker_count(len(sums.counts))))
    f_values, dispersed, absent = sums.f_values(), top_genes(dispersion, n_genes), top_genes(dropout, FREE)
    placing, absent = top_genes(f_values, PLACING), absent[np.isfinite(dropout[absent])]
    every = np.concatenate([markers, placing[f_values[placing] > 0], absent, dispersed[dispersion[dispersed] > 0]])
    genes = np.asarray(every[np.sort(np.unique(every, return_index=True)[1])][:n_genes])
    places, free = (np.flatnonzero(np.isin(genes, some)) for some in (placing, absent))
    return genes, places if len(places) else np.arange(len(genes)), free


def columns_of(rows: Rows, columns: Array) -> Rows:
    """Return some columns ``(k,)`` of a matrix, read when asked for as ``(n, k) float32``."""

    def some(block: Any) -> Array:
        return to_dense((sparse.csr_matrix(block) if sparse.issparse(block) else np.asarray(block))[:, columns])

    return MappedRows(rows, some, width=len(columns))


EXPRESSION = "X"  # the view that passes through an :class:`ExpressionReducer`
Views = Mapping[str, Rows]  # rows of the same cells, by the view's name


@dataclass(frozen=True)
class Member:
    """A fitted head on one view, and the reducer before it where the view is ``X``: rows then are its genes alone."""

    head: RowClassifier
    reducer: ExpressionReducer | None = None

    def places(self, rows: Rows) -> Rows:
        """Return where the cells lie: the genes of the highest F of expression, or the rows of another view."""
        return rows if self.reducer is None else columns_of(rows, self.reducer.places)

    @property
    def n_places(self) -> int:
        """Columns of :meth:`places`."""
        return self.head.n_features_in_ if self.reducer is None else len(self.reducer.places)

    def log_proba(self, rows: Rows) -> Array:
        """Return log-probabilities ``(n, n_classes)`` before any temperature."""
        return self.head.predict_log_proba(rows if self.reducer is None else self.reducer.over(rows))

    def to_state(self) -> State:
        """Return the member as nested JSON values and arrays; :meth:`from_state` takes them back."""
        return {"head": self.head.to_state()} | ({} if self.reducer is None else {"reducer": self.reducer.to_state()})

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, kind: type[RowClassifier], reduced: bool) -> Self:
        """Return the member; :class:`DamagedError` where its parts do not fit together."""
        head = kind.from_state(state["head"])
        reducer = ExpressionReducer.from_state(state["reducer"]) if reduced else None
        fits = reducer is None or reducer.width == head.n_features_in_
        require(fits, f"reducer: another number of columns than the {head.n_features_in_} that its head reads.")
        return cls(head, reducer)


Members = Mapping[str, Member]


def selected_genes(members: Members, views: Views) -> Views:
    """Return views of all genes with those alone that the members read."""
    reducer = members[EXPRESSION].reducer if EXPRESSION in members else None
    return views if reducer is None else {**views, EXPRESSION: columns_of(views[EXPRESSION], reducer.selected)}


def place_views(members: Members, views: Views, names: Sequence[str]) -> ConcatRows:
    """Return the named views side by side, of ``X`` the genes that cells are placed by."""
    return ConcatRows([members[name].places(views[name]) for name in names])
