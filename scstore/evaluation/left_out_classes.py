"""Leaving out a class in turn, to see whether confidence and novelty tell the cells that a head cannot know."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from scstore.errors import LabelsError
from scstore.evaluation.cells import EvaluationCells
from scstore.evaluation.fits import INNER_FOLDS, HeadOptions, with_genes
from scstore.evaluation.result import Rejection
from scstore.evaluation.rows import EvaluationRow
from scstore.evaluation.splits import Split
from scstore.heads.fusion import FusedHead
from scstore.heads.member import EXPRESSION
from scstore.heads.rows import RowSubset
from scstore.progress import Reporter

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

    And whether they get more novelty, the distance to the training cells of the label they get
    (:class:`scstore.heads.rejection.Rejection`).

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
    with progress.track("leaving classes out", len(rows) * len(cases), "fits") as track:
        for name, known, unknown in cases:
            for row in rows:
                found[row.name][name] = _tell_apart(row, cells, known, unknown, options)
                track.advance()
    title = (
        f"cells of a class that was left out: {len(cases)} classes in turn, {options.kind} heads, mean ± sd over "
        "classes; AUROC of known against unknown cells; threshold: the confidence that "
        f"{KEPT:.0%} of the training cells reach out of fold"
    )
    return Rejection(title, found, tuple(rows))


def _tell_apart(
    row: EvaluationRow,
    cells: EvaluationCells,
    known: Split,
    unknown: NDArray[np.int64],
    options: HeadOptions,
) -> dict[str, float | int]:
    """How well a head trained on the known classes tells their test cells from unknown ones."""
    views = {source.view: cells.features(source.view, source.control) for source in row.sources}
    head = FusedHead(
        options.kind,
        n_folds=INNER_FOLDS,
        prior_adjustment=options.prior_adjustment,
        random_state=options.seed,
    )
    head.fit(
        {name: RowSubset(rows, known.train) for name, rows in views.items()},
        cells.labels[known.train],
        gene_names=cells.gene_names if EXPRESSION in views else None,
        keep=KEPT,
    )
    index = np.concatenate([known.test, unknown])
    test = {
        name: with_genes(RowSubset(rows, index), head, cells.gene_names)
        if name == EXPRESSION
        else RowSubset(rows, index)
        for name, rows in views.items()
    }
    judged = [(proba.max(axis=1), novelty) for _, proba, novelty in head.iter_judged(test)]
    confidence = np.concatenate([sure for sure, _ in judged])
    # a head that knows no distance tells nothing by it
    far = np.concatenate([np.zeros(len(sure)) if novelty is None else novelty for sure, novelty in judged])
    own = head.held_out_proba_.max(axis=1)
    threshold = float(np.quantile(own, 1 - KEPT)) if len(own) else 0.0
    n_known = len(known.test)
    is_known = np.arange(len(index)) < n_known
    return {
        "auroc": float(roc_auc_score(is_known, confidence)),
        "auroc_novelty": float(roc_auc_score(~is_known, far)),
        "rejected": float((confidence[n_known:] < threshold).mean()),
        "kept": float((confidence[:n_known] >= threshold).mean()),
        "n_unknown": len(unknown),
        "n_known": n_known,
    }


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
