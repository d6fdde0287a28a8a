"""Leaving out each class in turn, to see whether confidence and novelty tell cells of unknown classes."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from scstore.cluster import each
from scstore.errors import LabelsError
from scstore.evaluation.design import EvaluationRow, Split
from scstore.evaluation.features import StoredFeatures
from scstore.evaluation.runs import with_genes
from scstore.heads.fusion import FusedHead
from scstore.heads.preprocessing import EXPRESSION
from scstore.heads.rows import RowSubset
from scstore.progress import Reporter

KEEP = 0.95  # share of the known cells that the threshold is to keep
BLOCK = 4096  # cells that are judged at once


@dataclass(frozen=True)
class LeftOutClass:
    """What a head made of cells of a class that it was not trained on, beside held-out cells of known classes."""

    auroc: float  # of confidence, known above unknown
    auroc_novelty: float  # unknown above known
    rejected: float  # share of the unknown cells below the head's own threshold of confidence
    kept: float  # share of the known ones at or above it
    n_unknown: int
    n_known: int


@dataclass(frozen=True)
class LeftOutClasses:
    title: str
    by_class: Mapping[str, Mapping[str, LeftOutClass]]


def leave_classes_out(
    rows: Sequence[EvaluationRow],
    splits: Sequence[Split],
    features: StoredFeatures,
    *,
    head: FusedHead,
    progress: Reporter,
) -> LeftOutClasses:
    """Train without each class, on the first split, and compare its cells with held-out cells of known ones."""
    rows = [row for row in rows if row.views]
    cases = _cases(splits, features)
    found: dict[str, dict[str, LeftOutClass]] = {row.marked: {} for row in rows}
    pairs = [(row, case) for case in cases for row in rows]
    with progress.track("leaving classes out", len(pairs), "fits") as track:
        for (row, case), told in zip(pairs, each(partial(_tell_apart, features, head), pairs), strict=True):
            found[row.marked][case[0]] = told
            track.advance()
    title = (
        f"cells of {len(cases)} classes, each left out in turn, {head.kind} heads, mean ± sd over classes; AUROC of "
        f"known against unknown cells; threshold: the confidence that {KEEP:.0%} of training cells reach out of fold"
    )
    return LeftOutClasses(title, found)


Case = tuple[str, Split, NDArray[np.int64]]


def _cases(splits: Sequence[Split], features: StoredFeatures) -> list[Case]:
    """Return each class that can be left out, the split without it, and its cells."""
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


def _tell_apart(features: StoredFeatures, untrained: FusedHead, pair: tuple[EvaluationRow, Case]) -> LeftOutClass:
    row, (_, known, unknown) = pair
    views = {source.view: features.view(source, known.train) for source in row.sources}
    head = copy(untrained).fit(
        {name: RowSubset(rows, known.train) for name, rows in views.items()},
        features.cells.labels[known.train],
        gene_names=features.gene_names if EXPRESSION in views else None,
        keep=KEEP,
        groups=features.cells.groups_of(known.train),
        optional=row.optional,
    )
    index = np.concatenate([known.test, unknown])
    if EXPRESSION in views:
        views[EXPRESSION] = with_genes(views[EXPRESSION], head, features.gene_names)
    blocks = np.split(index, range(BLOCK, len(index), BLOCK))
    judged = [head.judge({name: RowSubset(rows, block) for name, rows in views.items()}) for block in blocks]
    confidence = np.concatenate([one.proba.max(axis=1) for one in judged])
    # a head without distances has no novelty: every cell is as far as the others
    far = np.concatenate([np.zeros(len(one.proba)) if one.novelty is None else one.novelty for one in judged])
    own = head.held_out_proba_.max(axis=1)
    threshold = float(np.quantile(own, 1 - KEEP)) if len(own) else 0.0
    is_known = np.arange(len(index)) < len(known.test)
    return LeftOutClass(
        auroc=float(roc_auc_score(is_known, confidence)),
        auroc_novelty=float(roc_auc_score(~is_known, far)),
        rejected=float((confidence[~is_known] < threshold).mean()),
        kept=float((confidence[is_known] >= threshold).mean()),
        n_unknown=len(unknown),
        n_known=len(known.test),
    )
