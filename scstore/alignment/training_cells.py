"""Labelled cells for a training: ranked once, some of each label held out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scstore.errors import LabelsError
from scstore.extraction.sequence_plan import SequencePlan
from scstore.heads.class_numbers import stratified_part
from scstore.progress import Reporter
from scstore.tokens.sequences import RankedCells, join_cells, take_cells


@dataclass(frozen=True, eq=False)
class LabelledCells:
    """Cells to learn from, each with a label (a number of ``classes``) and a gene; rows to train on and to stop by."""

    ranked: RankedCells
    codes: NDArray[np.int64]
    classes: tuple[str, ...]
    training: NDArray[np.int64]
    held_out: NDArray[np.int64]
    ids: tuple[str, ...] = ()

    def ids_of(self, rows: NDArray[np.int64]) -> tuple[str, ...]:
        return tuple(sorted(self.ids[row] for row in rows))


def read_training_cells(
    plan: SequencePlan, labels: Sequence[str | None], *, label: str, hold_out: float, progress: Reporter
) -> LabelledCells:
    """Rank the cells of a plan that have a label and a gene to read; every label keeps one cell to train on."""
    source = plan.source.cells.source
    parts: list[RankedCells] = []
    kept: list[int] = []
    start = 0
    for block in plan.expression_blocks(progress):
        ranked = plan.rank(block)
        has_label = np.array([value is not None for value in labels[start : start + len(ranked)]], dtype=bool)
        rows = np.flatnonzero(has_label & (ranked.lengths > 0))
        parts.append(take_cells(ranked, rows))
        kept += (start + rows).tolist()
        start += len(ranked)
    names = [str(labels[row]) for row in kept]
    classes, codes = np.unique(names, return_inverse=True)
    if len(classes) < 2:
        held = f"column {label!r} has {len(classes)} label(s) among the cells with a gene to read"
        raise LabelsError(f"{source}: {held}. A projector is trained on at least two.")
    size = max(1, round(hold_out * len(codes)))
    held_out = stratified_part(codes, size=size, rng=np.random.default_rng(plan.options.seed))
    if not len(held_out):
        held = f"{len(codes):,} cells of {len(classes)} labels in column {label!r}"
        raise LabelsError(f"{source}: {held} are too few to hold {hold_out:.0%} out. Give more, or a larger hold_out=.")
    training = np.setdiff1d(np.arange(len(codes)), held_out)
    counts = f"{len(training):,} cells to train on, {len(held_out):,} held out, {len(labels) - len(kept):,} left out"
    progress.note(f"labels: {len(classes)} of {label!r}; {counts} (no label, or no gene that may enter)")
    return LabelledCells(
        ranked=join_cells(parts),
        codes=codes.astype(np.int64),
        classes=tuple(map(str, classes)),
        training=training,
        held_out=held_out,
        ids=tuple(str(plan.source.cells.obs.index[row]) for row in kept),
    )
