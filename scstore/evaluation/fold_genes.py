"""Means of gene vectors whose genes are chosen again on the training cells of every fold.

A panel that was fitted on labels has seen those of the cells to be tested on. What costs no model is made anew without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore.cells.gene_statistics import ClassSums, top_genes
from scstore.errors import FeatureSpaceError
from scstore.genes.table import expression_genes
from scstore.heads.rows import Array, MappedRows, Rows, RowSubset, iter_raw_blocks
from scstore.store.reader import Store
from scstore.tokens.genept import companion_vectors, weighted_means
from scstore.tokens.sequences import rank_genes


@dataclass(frozen=True, eq=False)
class FoldMeans:
    """Makes a view of a store from its expression, with a panel of the same size that is fitted on given cells."""

    vectors: NDArray[np.float32]  # (n_genes, width), of the columns of X
    n_genes: int  # of the panel
    top_genes: int  # that a cell may keep

    def rows(self, expression: Rows, train: Array, codes: Array) -> Rows:
        """Return the view of all cells, from the genes of largest F between the classes ``codes`` of some of them."""
        sums = ClassSums(int(codes.max()) + 1, expression.shape[1])
        for start, block in iter_raw_blocks(RowSubset(expression, train)):
            sums.add(block, codes[start : start + block.shape[0]])
        f = sums.f_values()
        admitted = np.zeros(expression.shape[1], dtype=bool)
        admitted[top_genes(f if f.any() else sums.variances(), self.n_genes)] = True

        def means(block: Any) -> NDArray[np.float32]:
            ranked = rank_genes(csr_matrix(block), top_genes=self.top_genes, admitted=admitted)
            return weighted_means(ranked, self.vectors)

        return MappedRows(expression, means, width=self.vectors.shape[1])


def fold_means(store: Store, view: str) -> FoldMeans | None:
    """Return how a view is made anew; ``None`` where it takes the model, or where expression or genes are lacking."""
    space, record = store.view(view).space, store.record
    if space["view"] != "genept" or "control" in space or record is None:
        return None
    try:
        table, genes = expression_genes(store, purpose=view)
    except FeatureSpaceError:
        return None
    vectors = companion_vectors(table, genes, names=(view,))[view]
    return FoldMeans(vectors, record["panel"]["n_genes"], space.get("top_genes", len(genes)))
