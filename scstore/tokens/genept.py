"""Expression-weighted means of gene vectors: GenePT-w, the companion and control of every readout.

Source: GenePT (Chen and Zou, bioRxiv 2023.10.16.562533): the L2-normalised mean of gene vectors, weighted by normalised
expression. ``genept_w`` is that, over all expressed genes; ``genept`` is over the genes that the readout sees, with
gene vectors whitened; ``genept_random`` the same with random ones.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore.genes.table import GeneTable
from scstore.genes.vectors import RandomEncoder, whiten
from scstore.tokens.sequences import RankedCells


def companion_vectors(
    table: GeneTable,
    genes: NDArray[np.int64],
    *,
    admitted: NDArray[np.bool_] | None = None,
    names: Sequence[str] = ("genept", "genept_random"),
) -> dict[str, NDArray[np.float32]]:
    """Return gene vectors ``(n_genes, width) float32`` of the views that need no model, by the view's name."""
    vectors = {}
    if "genept" in names:
        vectors["genept"] = table.changed(whiten)[genes]
    if "genept_random" in names:  # seeded by the genes' symbols
        symbols = table.obs["symbol"].iloc[genes].astype(str).to_numpy()
        enter = np.ones(len(genes), dtype=bool) if admitted is None else admitted
        random = np.zeros((len(genes), table.width), dtype=np.float32)
        random[enter] = RandomEncoder(table.width).encode(list(symbols[enter]))
        vectors["genept_random"] = random
    if "genept_w" in names:
        vectors["genept_w"] = table.vectors[genes]
    return vectors


def weighted_means(ranked: RankedCells, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each cell's mean of gene vectors by expression, ``(n_cells, width) float32``, of length one or zero."""
    weights = csr_matrix((ranked.values, ranked.genes, ranked.offsets), shape=(len(ranked), len(vectors)))
    sums = weights @ vectors
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0), dtype=np.float32)
