"""Which genes tell classes of cells apart: one-way analysis of variance, streamed."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scstore.errors import CellsError

__all__ = ["ClassSums", "top_genes"]

Array = NDArray[Any]


class ClassSums:
    """Sums per class and gene, from which the F of an analysis of variance follows.

    Blocks of cells are added one at a time and in float64; nothing else is kept, so memory does not grow with the
    cells.

    Parameters
    ----------
    n_classes
        How many classes there are.
    n_genes
        Genes of every block.

    Attributes
    ----------
    counts
        ``(n_classes,) int64`` cells added.
    sums
        ``(n_classes, n_genes) float64`` sums of the values.
    squares
        ``(n_classes, n_genes) float64`` sums of their squares.

    Examples
    --------
    >>> sums = ClassSums(2, 2).add(np.array([[1.0, 3], [2, 3], [5, 3], [6, 3]]), np.array([0, 0, 1, 1]))
    >>> sums.f_values().tolist()
    [32.0, 0.0]
    """

    def __init__(self, n_classes: int, n_genes: int) -> None:
        self.counts: Array = np.zeros(n_classes, dtype=np.int64)
        self.sums: Array = np.zeros((n_classes, n_genes))
        self.squares: Array = np.zeros((n_classes, n_genes))

    def add(self, block: Any, codes: Array) -> Self:
        """Add a block of cells.

        Parameters
        ----------
        block
            ``(b, n_genes)`` values, dense or CSR.
        codes
            ``(b,)`` class number of each cell.

        Raises
        ------
        CellsError
            If a value is NaN or infinite.
        """
        codes = np.asarray(codes)
        member = sparse.csr_matrix(
            (np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(len(self.counts), len(codes))
        )
        values: Any = sparse.csr_matrix(block) if sparse.issparse(block) else np.asarray(block)
        values = values.astype(np.float64)
        self._check_finite(values)
        self.sums += _dense(member @ values)
        self.squares += _dense(member @ (values.power(2) if sparse.issparse(values) else np.square(values)))
        self.counts += np.bincount(codes, minlength=len(self.counts))
        return self

    def _check_finite(self, values: Any) -> None:
        with np.errstate(invalid="ignore"):
            total = values.sum()
        if np.isfinite(total):
            return
        coordinates = sparse.coo_matrix(values)
        bad = np.flatnonzero(~np.isfinite(coordinates.data))[0]
        cell, gene = int(self.counts.sum()) + int(coordinates.row[bad]), int(coordinates.col[bad])
        msg = (
            f"Expression of cell {cell:,}, gene {gene:,} (counted from 0) is {coordinates.data[bad]}. "
            f"Mend or leave out that cell."
        )
        raise CellsError(msg)

    def f_values(self, *, min_cells: int = 1) -> Array:
        """F of each gene: variance between the classes over variance within.

        Parameters
        ----------
        min_cells
            Classes with fewer cells are left out.

        Returns
        -------
        ``(n_genes,) float64``, never NaN. 0 for a gene that is constant but for rounding, and for all genes where
        no class has a second cell or only one class is left; a gene that is constant in every class but differs
        between them has the largest finite values.
        """
        used = self.counts >= max(1, min_cells)
        counts, sums = self.counts[used][:, None], self.sums[used]
        n, n_classes = int(counts.sum()), len(counts)
        if n_classes < 2 or n <= n_classes:
            return np.zeros(self.sums.shape[1])
        squares, grand = self.squares[used].sum(axis=0), sums.sum(axis=0) ** 2 / n
        total = squares - grand
        between = (sums**2 / counts).sum(axis=0) - grand
        # Both come out of differences of sums of squares: what is below their rounding error is nothing.
        rounding = 1e-13 * squares
        within = np.maximum(total - between, rounding)
        varies = total > 1e2 * rounding
        ratio = np.where(varies, np.maximum(between, 0), 0) / np.where(varies, within, 1)
        return ratio * ((n - n_classes) / (n_classes - 1))

    def variances(self) -> Array:
        """Population variance of each gene over all cells added, ``(n_genes,) float64``."""
        n = max(1, int(self.counts.sum()))
        mean_square = self.squares.sum(axis=0) / n
        variance = mean_square - (self.sums.sum(axis=0) / n) ** 2
        return np.where(variance > 1e-11 * mean_square, variance, 0.0)


def top_genes(f: Array, n: int) -> Array:
    """The ``n`` genes of highest score, best first; equal ones in the order of their numbers.

    Parameters
    ----------
    f
        ``(n_genes,)`` scores.
    n
        How many to take; all where there are fewer.

    Returns
    -------
    ``(min(n, n_genes),) int64`` gene numbers.
    """
    return np.argsort(-np.asarray(f), kind="stable")[:n].astype(np.int64)


def _dense(product: Any) -> Array:
    return product.toarray() if sparse.issparse(product) else np.asarray(product)
