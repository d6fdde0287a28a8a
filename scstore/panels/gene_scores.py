"""Which cells are compared with which, from their labels and groups, and the scores of genes that this gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.cells.expression import ExpressionSlot, lognorm_rows
from scstore.cells.gene_statistics import ClassSums, GroupMoments
from scstore.cells.opening import CellFile
from scstore.errors import LabelsError
from scstore.progress import Reporter

# Memory for sums per class and gene; where they need more, the cells are read several times, some genes at a time.
SUMS_BYTES = 1 << 30
MIN_CELLS = 2  # of a label within a group: a gene of a single cell would have an infinite F
MIN_GROUP_CELLS = 10  # of a group without labels: fewer give no variance to speak of
Column = Sequence[str | None]
Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Design:
    """Which cells of a data set are compared with which."""

    codes: NDArray[np.int64]  # (n_cells,): number of the cell's class, a label within a group; -1 for none
    classes: tuple[NDArray[np.int64], ...]  # numbers of each group's classes
    seen: NDArray[np.bool_]  # (n_cells,): cells with labels used
    left_out: tuple[str, ...]  # groups that do not count
    by_labels: bool

    @property
    def n_classes(self) -> int:
        return sum(map(len, self.classes))


def design(labels: Column | None, groups: Column | None = None, *, n_cells: int, source: str) -> Design:
    """Compare the labels of cells within each group; without labels, let each group count by itself."""
    by_labels = labels is not None
    of_group, of_label = ([""] * n_cells if column is None else column for column in (groups, labels))
    pairs: list[Any] = list(zip(of_group, of_label, strict=True))
    least = MIN_CELLS if by_labels else MIN_GROUP_CELLS
    enough = sorted(pair for pair, n in Counter(pairs).items() if None not in pair and n >= least)
    n_labels = Counter(group for group, _ in enough)
    used = [pair for pair in enough if not by_labels or n_labels[pair[0]] > 1]
    if not used and by_labels:
        most = max(n_labels.values(), default=0)
        within = "" if groups is None else " within one group"
        raise LabelsError(f"{source}: {most} label(s) have two cells or more{within}. A panel separates at least two.")
    if not used:
        raise LabelsError(f"{source}: no group has {MIN_GROUP_CELLS} cells, too few to score genes without labels.")
    counted = sorted({group for group, _ in used})
    number = {pair: i for i, pair in enumerate(used)}
    return Design(
        codes=np.array([number.get(pair, -1) for pair in pairs], dtype=np.int64),
        classes=tuple(np.array([number[pair] for pair in used if pair[0] == group]) for group in counted),
        seen=np.array([None not in pair and pair[0] in counted for pair in pairs]),
        left_out=tuple(sorted({group for group in of_group if group is not None}.difference(counted))),
        by_labels=by_labels,
    )


def score_genes(
    cells: CellFile,
    slot: ExpressionSlot,
    design: Design,
    *,
    groups: NDArray[np.int64] | None = None,
    progress: Reporter,
) -> Scores:
    """Return ``(n_genes,)`` scores, F of labels or excess dropout, over the groups; NaN where nothing is expressed."""
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
