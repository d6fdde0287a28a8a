"""An order of the genes that has nothing to do with expression: the control of rank-ordered sequences."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scstore.tokens.ranking import RankedCells

__all__ = ["reordered", "shuffled_order"]


def shuffled_order(symbols: Sequence[str], *, seed: int) -> NDArray[np.int64]:
    """An order drawn once for every gene, by its symbol alone: the same in every cell, run and gene table.

    Parameters
    ----------
    symbols
        ``(n_genes,)`` of the columns of the expression matrix.
    seed
        Another seed gives another order.

    Returns
    -------
    ``(n_genes,) int64``
        Place of each gene; genes of the same symbol in the order given.
    """
    drawn = [hashlib.sha256(f"{seed}\0{symbol}".encode()).digest() for symbol in symbols]
    places = np.empty(len(drawn), dtype=np.int64)
    places[sorted(range(len(drawn)), key=lambda gene: (drawn[gene], gene))] = np.arange(len(drawn))
    return places


def reordered(ranked: RankedCells, places: NDArray[np.int64]) -> RankedCells:
    """The same genes with the same values in every cell, by their places instead of their expression.

    Parameters
    ----------
    ranked
        Genes of a run of cells.
    places
        ``(n_genes,)`` from :func:`shuffled_order`.
    """
    cell = np.repeat(np.arange(len(ranked)), ranked.lengths)
    order = np.lexsort((places[ranked.genes], cell))
    return replace(ranked, genes=ranked.genes[order], values=ranked.values[order])
