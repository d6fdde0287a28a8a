"""Parts and unions of ranked cells, for passes that visit some cells at a time and some cells again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scstore.tokens.ranking import RankedCells

__all__ = ["drop_genes", "join_cells", "take_cells"]


def join_cells(parts: Sequence[RankedCells]) -> RankedCells:
    """Put runs of cells one behind the other."""
    lengths = np.concatenate([np.zeros(0, dtype=np.int64), *(part.lengths for part in parts)])
    return RankedCells(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        genes=np.concatenate([np.zeros(0, dtype=np.int64), *(part.genes for part in parts)]),
        values=np.concatenate([np.zeros(0, dtype=np.float32), *(part.values for part in parts)]),
    )


def take_cells(ranked: RankedCells, cells: NDArray[np.int64]) -> RankedCells:
    """Some cells, in the order given.

    Parameters
    ----------
    ranked
        The ranked genes of a run of cells.
    cells
        ``(n,) int64`` rows of it.
    """
    lengths = ranked.lengths[cells]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    entries = np.arange(offsets[-1]) + np.repeat(ranked.offsets[cells] - offsets[:-1], lengths)
    return RankedCells(offsets=offsets, genes=ranked.genes[entries], values=ranked.values[entries])


def drop_genes(ranked: RankedCells, *, rate: float, rng: np.random.Generator) -> RankedCells:
    """Leave each gene of each cell out by chance, as a shallower sequencing run would; the first is always kept.

    Parameters
    ----------
    ranked
        The ranked genes of a run of cells.
    rate
        Chance of a gene to be left out, from 0 to below 1.
    rng
        Decides; one number is drawn a gene.
    """
    keep = rng.random(len(ranked.genes)) >= rate
    keep[ranked.offsets[:-1][ranked.lengths > 0]] = True
    offsets = np.concatenate([[0], np.cumsum(keep)])[ranked.offsets].astype(np.int64)
    return RankedCells(offsets=offsets, genes=ranked.genes[keep], values=ranked.values[keep])
