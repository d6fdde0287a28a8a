"""Leaving out each class in turn, to see whether confidence and novelty tell cells of unknown classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from scstore.errors import LabelsError
from scstore.evaluation.features import StoredFeatures
from scstore.evaluation.fits import INNER_FOLDS, HeadOptions, with_genes
from scstore.evaluation.result import LeftOutClasses
from scstore.evaluation.splits import Split
from scstore.evaluation.table_rows import EvaluationRow
from scstore.heads.fusion import FusedHead
from scstore.heads.preprocessing import EXPRESSION
from scstore.heads.rows import Rows, RowSubset
from scstore.progress import Reporter

KEEP = 0.95  # share of the known cells that the threshold is to keep


# A class that is left out, the split without it, and its cells ``(n_unknown,)``.
Case = tuple[str, Split, NDArray[np.int64]]


def leave_classes_out(
    rows: Sequence[EvaluationRow],
    splits: Sequence[Split],
    features: StoredFeatures,
    *,
    heads: HeadOptions,
    progress: Reporter,
) -> LeftOutClasses:
    """Train without each class, on the first split, and compare its cells with held-out cells of known classes.

    The threshold is fitted as a user could: the confidence that 95 % of the out-of-fold predictions reach.
    """
    rows = [row for row in rows if row.views]
    cases = _cases(splits, features)
    found: dict[str, dict[str, dict[str, float | int]]] = {row.name: {} for row in rows}
    with progress.track("leaving classes out", len(rows) * len(cases), "fits") as track:
        for name, known, unknown in cases:
            for row in rows:
                found[row.name][name] = _tell_apart(row, known, unknown, features, heads)
                track.advance()
    title = (
        f"cells of {len(cases)} classes, each left out in turn, {heads.kind} heads, mean ± sd over classes; AUROC of "
        f"known against unknown cells; threshold: the confidence that {KEEP:.0%} of training cells reach out of fold"
    )
    return LeftOutClasses(title, found, tuple(rows))


def _cases(splits: Sequence[Split], features: StoredFeatures) -> list[Case]:
    cells, first = features.cells, splits[0]
    testable = np.unique(np.concatenate([split.test for split in splits]))
    cases = []
    for code, name in enumerate(cells.classes):
        train = first.train[cells.codes[first.train] != code]
        learned = np.unique(cells.codes[train])
        test = first.test[np.isin(cells.codes[first.test], learned)]
        unknown = testable[cells.codes[testable] == code]
        if len(learned) > 1 and len(test) and len(unknown):
            cases.append((name, Split(0, first.fold, train, test), unknown))
    if not cases:
        raise LabelsError("leave_one_class_out: no class can be left out with two others to train on.")
    return cases


def _tell_apart(
    row: EvaluationRow, known: Split, unknown: NDArray[np.int64], features: StoredFeatures, heads: HeadOptions
) -> dict[str, float | int]:
    """Return how well a head trained on the known classes tells their test cells from the unknown ones."""
    views = {source.view: features.view(source, known.train) for source in row.sources}
    head = FusedHead(heads.kind, n_folds=INNER_FOLDS, prior_adjustment=heads.prior_adjustment, random_state=heads.seed)
    head.fit(
        {name: RowSubset(rows, known.train) for name, rows in views.items()},
        features.cells.labels[known.train],
        gene_names=features.gene_names if EXPRESSION in views else None,
        keep=KEEP,
        groups=features.cells.groups_of(known.train),
        optional=row.optional,
    )
    index = np.concatenate([known.test, unknown])
    test: dict[str, Rows] = {name: RowSubset(rows, index) for name, rows in views.items()}
    if EXPRESSION in views:
        test[EXPRESSION] = with_genes(test[EXPRESSION], head, features.gene_names)
    blocks = [(proba.max(axis=1), novelty) for _, proba, novelty in head.iter_predictions(test)]
    confidence = np.concatenate([block for block, _ in blocks])
    # a head without distances has no novelty: every cell is as far as the others
    far = np.concatenate([np.zeros(len(block)) if novelty is None else novelty for block, novelty in blocks])
    own = head.held_out_proba_.max(axis=1)
    threshold = float(np.quantile(own, 1 - KEEP)) if len(own) else 0.0
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
