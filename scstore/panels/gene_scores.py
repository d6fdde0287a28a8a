"""Scores of genes, from one pass over the cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scstore.cells.expression import ExpressionSlot, lognorm_rows
from scstore.cells.gene_statistics import ClassSums, GroupMoments
from scstore.cells.opening import CellFile
from scstore.panels.comparison import Design
from scstore.progress import Reporter

Scores = NDArray[np.float64]

# Memory for sums per class and gene; where they need more, the cells are read several times, some genes at a time.
SUMS_BYTES = 1 << 30


def score_genes(
    cells: CellFile,
    slot: ExpressionSlot,
    design: Design,
    *,
    groups: NDArray[np.int64] | None = None,
    progress: Reporter,
) -> Scores:
    """Return ``(n_genes,)`` scores: the F of labels within groups, or excess dropout, its mean over groups.

    NaN for a gene that no compared cell expresses, or that no group scores. ``groups`` as in :func:`lognorm_rows`.
    """
    n_genes = cells.matrix(slot.slot).shape[1]
    # excess dropout compares each gene with all others
    width = max(1, SUMS_BYTES // (16 * design.n_classes)) if design.by_labels else n_genes
    spans = [slice(first, min(first + width, n_genes)) for first in range(0, n_genes, width)]
    found = []
    with progress.track(f"reading {cells.source}", cells.n_cells * len(spans), "cells") as track:
        for span in spans:
            sums = (ClassSums if design.by_labels else GroupMoments)(design.n_classes, span.stop - span.start)
            for start, block in lognorm_rows(cells, slot, groups=groups):
                codes = design.codes[start : start + block.shape[0]]
                known = np.flatnonzero(codes >= 0)
                sums.add(block[known, span], codes[known])
                track.advance(block.shape[0])
            found.append(_values(sums, design))
    return np.concatenate(found)


def _values(sums: ClassSums, design: Design) -> Scores:
    if not isinstance(sums, GroupMoments):
        return np.where(sums.sums.any(axis=0), sums.grouped_f_values(design.classes), np.nan)
    scores = sums.dropout()
    scored = np.isfinite(scores)
    return np.where(scored.any(axis=0), np.where(scored, scores, 0).mean(axis=0), np.nan)
