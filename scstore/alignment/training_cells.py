"""Labelled cells read for a training: ranked once, some of each label held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scstore.alignment.training import LabelledCells
from scstore.errors import LabelsError
from scstore.extraction.sequence_plan import SequencePlan
from scstore.heads.labels import stratified_part
from scstore.progress import Reporter
from scstore.tokens.ranking import RankedCells, join_cells, take_cells

__all__ = ["TrainingCells", "read_training_cells"]


@dataclass(frozen=True)
class TrainingCells:
    """Cells to learn from.

    Attributes
    ----------
    cells
        Their genes and labels.
    ids
        ``(n_cells,)``: their names.
    """

    cells: LabelledCells
    ids: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Cells of each label."""
        numbers = np.bincount(self.cells.codes, minlength=len(self.cells.classes)).tolist()
        return dict(zip(self.cells.classes, numbers, strict=True))

    def ids_of(self, rows: NDArray[np.int64]) -> tuple[str, ...]:
        """Names of some cells, sorted."""
        return tuple(sorted(self.ids[row] for row in rows))


def read_training_cells(
    plan: SequencePlan, labels: Sequence[str | None], label: str, *, hold_out: float, progress: Reporter
) -> TrainingCells:
    """Rank the cells of a plan that have a label and a gene to read, and hold some of each label out.

    Only the ranked genes are kept, a few kilobytes a cell.

    Parameters
    ----------
    plan
        Of an extraction of these cells.
    labels
        One a cell; ``None`` where it has none.
    label
        Name of their column, for messages.
    hold_out
        Fraction of the cells of each label; every label keeps one to train on.
    progress
        Told what was found.

    Raises
    ------
    LabelsError
        If fewer than two labels have cells, or there are too few to hold any out.
    """
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
    counts = Counter(str(labels[i]) for i in kept)
    if len(counts) < 2:
        msg = (
            f"{source}: column {label!r} has {len(counts)} label(s) among the cells with a gene to read. A projector "
            "is trained to tell at least two apart."
        )
        raise LabelsError(msg)
    classes = tuple(sorted(counts))
    codes = np.array([classes.index(str(labels[i])) for i in kept], dtype=np.int64)
    size = max(1, round(hold_out * len(codes)))
    held_out = stratified_part(codes, size=size, rng=np.random.default_rng(plan.options.seed))
    if not len(held_out):
        msg = (
            f"{source}: {len(codes):,} cells of {len(classes)} labels are too few to hold out {hold_out:.0%} of each "
            "label's. Give more cells, or a larger --hold-out."
        )
        raise LabelsError(msg)
    training = np.setdiff1d(np.arange(len(codes)), held_out)
    progress.note(
        f"labels: {len(classes)} of {label!r}; {len(training):,} cells to train on, {len(held_out):,} held out, "
        f"{len(labels) - len(kept):,} left out (no label, or no gene that may enter)"
    )
    ids = tuple(str(plan.source.cells.obs.index[i]) for i in kept)
    return TrainingCells(LabelledCells(join_cells(parts), codes, classes, training, held_out), ids)
