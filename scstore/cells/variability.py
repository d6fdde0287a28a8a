"""Which genes vary more than their mean explains, without any label: streamed."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize_scalar

from scstore.cells.anova import ClassSums

__all__ = ["GroupMoments", "excess_dropout"]

Array = NDArray[Any]


class GroupMoments:
    """Mean, variance and detection of genes in each group of cells, streamed, in counts per 10,000."""

    def __init__(self, n_groups: int, n_genes: int) -> None:
        self._values = ClassSums(n_groups, n_genes)
        self._detected = np.zeros((n_groups, n_genes), dtype=np.int64)

    def add(self, block: sparse.csr_matrix, codes: Array) -> Self:
        """Add log-normalised expression ``(b, n_genes)`` of cells of the groups ``codes``."""
        values = sparse.csr_matrix(block, dtype=np.float64, copy=True)
        values.eliminate_zeros()
        np.expm1(values.data, out=values.data)
        self._values.add(values, codes)
        groups = np.repeat(codes, np.diff(values.indptr))
        np.add.at(self._detected, (groups, values.indices), 1)
        return self

    @property
    def n_cells(self) -> Array:
        """``(n_groups,) int64``."""
        return self._values.counts

    def mean(self, group: int) -> Array:
        """Return the mean of each gene in a group, ``(n_genes,)``."""
        return np.asarray(self._values.sums[group] / self.n_cells[group])

    def variance(self, group: int) -> Array:
        """Return the sample variance (n - 1) of each gene in a group, ``(n_genes,)``; 0 but for rounding is 0."""
        n = self.n_cells[group]
        mean_square = self._values.squares[group] / n
        variance = mean_square - self.mean(group) ** 2
        return np.where(variance > 1e-13 * mean_square, variance * (n / (n - 1)), 0.0)

    def detection(self, group: int) -> Array:
        """Return the share of a group's cells that have each gene, ``(n_genes,)``."""
        return np.asarray(self._detected[group] / self.n_cells[group])


def excess_dropout(mean: Array, variance: Array, detection: Array) -> Array:
    r"""Return how many more cells lack a gene than its mean predicts, in standard errors of one cell, ``(n_genes,)``.

    A gene that all cells share at its mean S is missing in a share P = K / (K + S) of them, with one K for all genes
    (Michaelis-Menten; fitted by least squares). A gene of its own K = S P / (1 - P) above that is high in some cells
    and absent from others. As M3Drop tests it [1]_: the difference of the logarithms over its standard error,
    :math:`\sqrt{1 / P (1 - P) + \mathrm{Var} / S^2}`; without the number of cells, so that groups of any size
    compare. NaN for a gene that is in no cell or in all. Mean and variance are of expression before the logarithm.

    References
    ----------
    .. [1] T. S. Andrews and M. Hemberg, Bioinformatics 35 (2019) 2865-2867.
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
