"""The most expressed genes of each cell, in order.

Source: the top-n ranking of scInterpreter (arXiv 2402.12405); division by a fixed per-gene median as in Geneformer
(Theodoris et al., Nature 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

__all__ = ["RankedCells", "rank_genes"]


@dataclass(frozen=True)
class RankedCells:
    """Genes of a run of cells, each cell's in descending order.

    Attributes
    ----------
    offsets
        ``(n_cells + 1,) int64``: cell ``i`` owns entries ``offsets[i]:offsets[i + 1]``.
    genes
        ``(n_entries,) int64``: column of the expression matrix.
    values
        ``(n_entries,) float32``: log-normalised expression, always above zero.
    """

    offsets: NDArray[np.int64]
    genes: NDArray[np.int64]
    values: NDArray[np.float32]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``(n_cells,) int64``: number of genes of each cell."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1


def rank_genes(
    rows: csr_matrix,
    *,
    top_genes: int,
    admitted: NDArray[np.bool_] | None = None,
    medians: NDArray[np.float32] | None = None,
) -> RankedCells:
    """Rank each cell's expressed genes and keep the first ``top_genes``.

    Parameters
    ----------
    rows
        ``(n_cells, n_genes)`` log-normalised expression, columns in gene-table order.
    top_genes
        How many genes a cell may keep.
    admitted
        ``(n_genes,) bool``: the genes of the panel; all when ``None``.
    medians
        ``(n_genes,) float32``: positive values by which expression is divided for ranking only.

    Returns
    -------
    RankedCells
        Descending by value; ties in gene-table order. Genes that are not expressed never enter.
    """
    n_cells = rows.shape[0]
    values = np.asarray(rows.data, dtype=np.float32)
    genes = np.asarray(rows.indices, dtype=np.int64)
    cells = np.repeat(np.arange(n_cells), np.diff(rows.indptr))
    keep = values > 0
    if admitted is not None:
        keep &= admitted[genes]
    values, genes, cells = values[keep], genes[keep], cells[keep]
    key = values if medians is None else values / medians[genes]
    order = np.lexsort((genes, -key, cells))
    values, genes, cells = values[order], genes[order], cells[order]
    counts = np.bincount(cells, minlength=n_cells)
    starts = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(len(cells)) - starts[cells]
    top = within < top_genes
    offsets = np.concatenate([[0], np.cumsum(np.minimum(counts, top_genes))]).astype(np.int64)
    return RankedCells(offsets=offsets, genes=genes[top], values=values[top])
