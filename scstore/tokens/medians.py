"""What a gene's expression typically is where it is expressed: medians above zero, streamed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

__all__ = ["ExpressedMedians"]

GENES_AT_ONCE = 4096
BINS = 512
TOP = 10.0  # log1p(CP10k) is below log(10001) = 9.2


class ExpressedMedians:
    """Median of each gene's values above zero, from fixed bins: one pass, the same in any order of cells.

    Parameters
    ----------
    n_genes
        How many genes there are.
    """

    def __init__(self, n_genes: int) -> None:
        self._histogram = np.zeros((n_genes, BINS), dtype=np.uint32)

    def add(self, block: csr_matrix, rows: NDArray[np.int64]) -> None:
        """Add log-normalised expression; ``rows`` says which gene each column is, -1 for none."""
        genes = rows[block.indices]
        used = (block.data > 0) & (genes >= 0)
        bins = np.minimum((block.data[used] * (BINS / TOP)).astype(np.int64), BINS - 1)
        np.add.at(self._histogram, (genes[used], bins), 1)

    @property
    def n_cells(self) -> NDArray[np.int64]:
        """``(n_genes,)``: cells that express each gene."""
        return np.asarray(self._histogram.sum(axis=1, dtype=np.int64))

    def values(self) -> NDArray[np.float64]:
        """``(n_genes,)`` medians, to half a bin (0.01); 1 for a gene that no cell expresses."""
        middle = np.empty(len(self._histogram))
        for start in range(0, len(middle), GENES_AT_ONCE):
            part = self._histogram[start : start + GENES_AT_ONCE]
            below = np.cumsum(part, axis=1, dtype=np.int64) * 2 >= part.sum(axis=1, dtype=np.int64)[:, None]
            middle[start : start + len(part)] = (below.argmax(axis=1) + 0.5) * (TOP / BINS)
        return np.where(self.n_cells > 0, middle, 1.0)
