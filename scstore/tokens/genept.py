"""Expression-weighted means of gene vectors: GenePT-w, the companion and control of every readout.

Source: GenePT (Chen and Zou, bioRxiv 2023.10.16.562533): the L2-normalised mean of gene vectors, weighted by normalised
expression.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore.tokens.ranking import RankedCells

__all__ = ["weighted_means"]


def weighted_means(ranked: RankedCells, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of each cell's gene vectors, weighted by log-normalised expression, L2-normalised.

    Parameters
    ----------
    ranked
        The cells' genes.
    vectors
        ``(n_genes, width) float32``, in gene-table order.

    Returns
    -------
    ``(n_cells, width) float32``
        Rows of length one; zeros for a cell without genes.
    """
    weights = csr_matrix((ranked.values, ranked.genes, ranked.offsets), shape=(len(ranked), len(vectors)))
    sums = weights @ vectors
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0), dtype=np.float32)
