"""Leaving out a class in turn, to see whether confidence tells the cells that a head cannot know."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from scstore.errors import LabelsError
from scstore.heads.rows import Rows, RowSubset
from scstore.heads.splits import Split
from scstore.progress import Reporter
from scstore.workflows.evaluation_cells import EvaluationCells
from scstore.workflows.evaluation_fits import HeadOptions, predict_rows
from scstore.workflows.evaluation_result import Rejection
from scstore.workflows.evaluation_rows import EvaluationRow, ViewSource

__all__ = ["KEPT", "leave_classes_out"]

KEPT = 0.95
"""Share of the known cells that the threshold is to keep."""


def leave_classes_out(
    rows: Sequence[EvaluationRow],
    splits: Sequence[Split],
    cells: EvaluationCells,
    *,
    options: HeadOptions,
    progress: Reporter,
) -> Rejection:
    """For each class, train without it and see whether its cells get less confidence than held-out known cells.

    Each class is left out once, on the first split. Known cells are the split's test cells; unknown ones are all cells
    of the class that some split tests. The threshold is fitted as a user could, on the training cells: the confidence
    that 95 % of the head's own out-of-fold predictions reach.

    Parameters
    ----------
    rows
        Those that read views.
    splits
        Of the evaluation.
    cells, options, progress
        As everywhere.

    Raises
    ------
    LabelsError
        If there are fewer than three classes, or none can be left out.
    """
    first, testable = splits[0], np.unique(np.concatenate([split.test for split in splits]))
    cases = [case for code in range(len(cells.classes)) if (case := _case(code, first, testable, cells)) is not None]
    if not cases:
        msg = (
            f"--leave-one-class-out: {len(cells.classes)} classes of which none can be left out with two others to "
            "train on and to test. Use a --label of at least three classes."
        )
        raise LabelsError(msg)
    rows = [row for row in rows if row.views]
    found: dict[str, dict[str, dict[str, float | int]]] = {row.name: {} for row in rows}
    n_fits = len({source for row in rows for source in row.sources})
    with progress.track("leaving classes out", n_fits * len(cases), "fits") as track:
        for name, known, unknown in cases:
            sides = partial(_sides, cells, (known.train, known.test, unknown))
            said = predict_rows(
                rows, cells.labels[known.train], sides, gene_names=cells.gene_names, options=options, track=track
            )
            for row, predicted in said:
                own, inside, outside = (proba.max(axis=1) for proba in (predicted.held_out, *predicted.others))
                threshold = float(np.quantile(own, 1 - KEPT)) if len(own) else 0.0
                is_known = np.repeat([True, False], [len(inside), len(outside)])
                found[row.name][name] = {
                    "auroc": float(roc_auc_score(is_known, np.concatenate([inside, outside]))),
                    "rejected": float((outside < threshold).mean()),
                    "kept": float((inside >= threshold).mean()),
                    "n_unknown": len(outside),
                    "n_known": len(inside),
                }
    title = (
        f"cells of a class that was left out: {len(cases)} classes in turn, {options.kind} heads, mean ± sd over "
        f"classes; threshold: what {KEPT:.0%} of the training cells reach out of fold"
    )
    return Rejection(title, found, tuple(rows))


def _sides(cells: EvaluationCells, sides: Sequence[NDArray[np.int64]], source: ViewSource) -> tuple[Rows, ...]:
    rows = cells.features(source.view, source.control)
    return tuple(RowSubset(rows, cells_of_side) for cells_of_side in sides)


def _case(
    code: int, split: Split, testable: NDArray[np.int64], cells: EvaluationCells
) -> tuple[str, Split, NDArray[np.int64]] | None:
    """A class's name, the split without it, and its cells; ``None`` where nothing is left to learn or to tell."""
    train = split.train[cells.codes[split.train] != code]
    learned = np.unique(cells.codes[train])
    test = split.test[np.isin(cells.codes[split.test], learned)]
    unknown = testable[cells.codes[testable] == code]
    if len(learned) < 2 or not len(test) or not len(unknown):
        return None
    return cells.classes[code], Split(0, split.fold, train, test), unknown
