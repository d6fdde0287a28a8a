"""Which genes separate classes of cells, or vary without classes: analysis of variance and excess dropout, streamed."""

from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize_scalar

from scstore.errors import CellsError

Array = NDArray[Any]
PRIOR_DF = 4  # degrees of freedom with which the variance within all groups moderates that of each
RARE = 0.1  # mean of log-normalised expression of a gene below which its dispersion says little
# Variance within classes, of log-normalised expression, below which a gene gains nothing from varying less.
LEAST_VARIANCE = 1e-3


class ClassSums:
    """Cells, sums and sums of squares ``(n_classes, n_genes)`` per class and gene, added block by block in float64."""

    def __init__(self, n_classes: int, n_genes: int) -> None:
        self.counts: Array = np.zeros(n_classes, dtype=np.int64)
        self.sums: Array = np.zeros((n_classes, n_genes))
        self.squares: Array = np.zeros((n_classes, n_genes))

    def add(self, block: Any, codes: Array) -> Self:
        """Add ``(b, n_genes)`` values, dense or CSR, of cells of the classes ``codes``; refuse NaN and infinity."""
        codes = np.asarray(codes)
        entries = (np.ones(len(codes)), (codes, np.arange(len(codes))))
        member = sparse.csr_matrix(entries, shape=(len(self.counts), len(codes)))
        values: Any = sparse.csr_matrix(block) if sparse.issparse(block) else np.asarray(block)
        values = values.astype(np.float64)
        with np.errstate(invalid="ignore"):
            if not np.isfinite(values.sum()):
                n = int(self.counts.sum())
                raise CellsError(f"NaN or infinity among cells {n:,} to {n + len(codes) - 1:,} (counted from 0).")
        _accumulate(self.sums, member @ values)
        _accumulate(self.squares, member @ (values.power(2) if sparse.issparse(values) else np.square(values)))
        self.counts += np.bincount(codes, minlength=len(self.counts))
        return self

    def joined(self, others: Sequence[Self]) -> Self:
        """Return the sums of these cells and of others."""
        whole = copy(self)
        for name in vars(self):
            setattr(whole, name, sum(getattr(one, name) for one in (self, *others)))
        return whole

    def f_values(self) -> Array:
        """Return F of each gene, ``(n_genes,)``, 0 where nothing varies; never NaN."""
        split = self._split(np.flatnonzero(self.counts))
        if split is None:
            return np.zeros(self.sums.shape[1])
        between, within, df_between, df_within = split
        return between / np.where(within > 0, within, 1) * (df_within / df_between)

    def grouped_f_values(self, groups: Sequence[Array]) -> Array:
        """Return F of each gene within groups of cells (donors, batches), ``(n_genes,)``: the mean of log(1 + F).

        Each group gives the numbers of its classes. What differs between groups alone is in none of the F. The variance
        within a group is moderated towards that of all, else few cells have F without bound by chance (G. K. Smyth,
        Statistical Applications in Genetics and Molecular Biology 3 (2004), article 3). For one group it is the plain
        F.
        """
        splits = [split for group in groups if (split := self._split(group)) is not None]
        if not splits:
            return np.zeros(self.sums.shape[1])
        pooled = sum(within for _, within, _, _ in splits) / sum(df for _, _, _, df in splits)
        total = np.zeros(self.sums.shape[1])
        for between, within, df_between, df_within in splits:
            error = (within + PRIOR_DF * pooled) / (df_within + PRIOR_DF)
            total += np.log1p(between / df_between / np.where(error > 0, error, 1))
        return np.expm1(total / len(splits))

    def _split(self, classes: Array) -> tuple[Array, Array, int, int] | None:
        """Return sums of squares between and within some classes and their degrees of freedom, if there are any."""
        counts, sums = self.counts[classes][:, None], self.sums[classes]
        n, n_classes = int(counts.sum()), len(counts)
        if n_classes < 2 or n <= n_classes:
            return None
        squares, grand = self.squares[classes].sum(axis=0), sums.sum(axis=0) ** 2 / n
        total = squares - grand
        between = (sums**2 / counts).sum(axis=0) - grand
        # Both come out of differences of sums of squares: what is below their rounding error is nothing.
        rounding = 1e-13 * squares
        within = np.maximum(total - between, rounding)
        varies = total > 1e2 * rounding
        return np.where(varies, np.maximum(between, 0), 0), np.where(varies, within, 0), n_classes - 1, n - n_classes

    def markers(self, n: int) -> Array:
        """Return the ``n`` genes that best tell one class from all others, ``(n,)``; classes take turns."""
        classes = np.flatnonzero(self.counts >= 2)
        split = self._split(classes)
        if split is None:
            return top_genes(self.variances(), n)[: int((self.variances() > 0).sum())]
        between, within, _, df_within = split
        counts, sums = self.counts[classes][:, None], self.sums[classes]
        others = counts.sum() - counts
        difference = np.abs(sums / counts - (sums.sum(axis=0) - sums) / others)
        t = difference / np.sqrt(np.maximum(within / df_within, LEAST_VARIANCE) * (1 / counts + 1 / others))
        order = np.argsort(-t, axis=1, kind="stable")
        turn = np.empty_like(order)
        np.put_along_axis(turn, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
        best = np.lexsort((-t.max(axis=0), turn.min(axis=0)))
        return best[between[best] > 0][:n].astype(np.int64)

    def variances(self) -> Array:
        n = max(1, int(self.counts.sum()))
        mean_square = self.squares.sum(axis=0) / n
        variance = mean_square - (self.sums.sum(axis=0) / n) ** 2
        return np.where(variance > 1e-11 * mean_square, variance, 0.0)

    def dispersions(self) -> Array:
        """Return variance over mean of each gene, ``(n_genes,)``; the mean is raised by that of a rare gene."""
        return np.asarray(self.variances() / (self.sums.sum(axis=0) / max(1, int(self.counts.sum())) + RARE))


def top_genes(f: Array, n: int) -> Array:
    """Return the ``n`` genes of highest score, best first; equal ones in the order of their numbers."""
    return np.argsort(-np.asarray(f), kind="stable")[:n].astype(np.int64)


def _accumulate(total: Array, product: Any) -> None:
    """Add a product of matrices; of a sparse one only what is there, so that many classes cost no dense copy."""
    if not sparse.issparse(product):
        total += np.asarray(product)
        return
    entries = sparse.coo_matrix(product)
    total[entries.row, entries.col] += entries.data  # a product of sparse matrices lists each entry once


class GroupMoments(ClassSums):
    """Sums of each group of cells, streamed, of counts per 10,000, and how many of its cells have each gene."""

    def __init__(self, n_groups: int, n_genes: int) -> None:
        super().__init__(n_groups, n_genes)
        self.detected = np.zeros((n_groups, n_genes), dtype=np.int64)

    def add(self, block: sparse.csr_matrix, codes: Array) -> Self:
        values = sparse.csr_matrix(block, dtype=np.float64, copy=True)
        values.eliminate_zeros()
        np.expm1(values.data, out=values.data)
        np.add.at(self.detected, (np.repeat(codes, np.diff(values.indptr)), values.indices), 1)
        return super().add(values, codes)

    def dropout(self) -> Array:
        n = self.counts[:, None]
        mean, mean_square, detection = self.sums / n, self.squares / n, self.detected / n
        variance = mean_square - mean**2
        variance = np.where(variance > 1e-13 * mean_square, variance * (n / (n - 1)), 0.0)  # 0 but for rounding is 0
        return np.array([excess_dropout(*own) for own in zip(mean, variance, detection, strict=True)])


def excess_dropout(mean: Array, variance: Array, detection: Array) -> Array:
    """Return how many more cells lack a gene than its mean predicts, in standard errors of one cell, ``(n_genes,)``.

    As M3Drop tests it (T. S. Andrews and M. Hemberg, Bioinformatics 35 (2019) 2865-2867): a gene that all cells share
    at its mean S is missing in a share P = K / (K + S) of them, with one K for all genes; here log K of a gene less
    that of all, over ``√(1 / P(1 - P) + Var / S²)``, before the logarithm. NaN for a gene that is in no cell or in all.
    """
    result = np.full(len(mean), np.nan)
    usable = (detection > 0) & (detection < 1)
    if not usable.any():
        return result
    s, p = mean[usable], 1 - detection[usable]
    own = np.log(s * p / (1 - p))

    def misfit(log_k: float) -> float:
        k = np.exp(log_k)
        return float(((p - k / (k + s)) ** 2).sum())

    common = float(minimize_scalar(misfit, bounds=(own.min() - 1, own.max() + 1), method="bounded").x)
    result[usable] = (own - common) / np.sqrt(1 / (p * (1 - p)) + variance[usable] / s**2)
    return result
