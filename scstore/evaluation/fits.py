"""Fitting every view once for all the rows that read it, and fusing the rows from their views."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scstore.evaluation.table_rows import EvaluationRow, ViewSource
from scstore.heads.calibration import fit_fusion
from scstore.heads.fusion import FusedHead
from scstore.heads.member import EXPRESSION
from scstore.heads.rows import MappedRows, Rows
from scstore.progress import Track

# Folds within the training cells of a split, for the temperatures. `fit` takes 5; three cost less.
INNER_FOLDS = 3


@dataclass(frozen=True)
class HeadOptions:
    """Options of every head of an evaluation: ``linear``, ``mlp`` or ``knn``, prior adjustment, seed."""

    kind: str
    prior_adjustment: float
    seed: int


@dataclass(frozen=True, eq=False)
class RowPredictions:
    """A row's calibrated probabilities of the test cells."""

    classes: tuple[str, ...]
    proba: NDArray[np.float64]  # (n_test, n_classes)
    seconds: float  # of fitting, calibration and prediction, as if the row were alone


@dataclass(frozen=True, eq=False)
class _ViewPredictions:
    """Log-probabilities of one view's head before any temperature, out of fold and of the test cells."""

    classes: tuple[str, ...]
    shares: NDArray[np.float64]
    codes: NDArray[np.int64]
    held_out: NDArray[np.float64]
    test: NDArray[np.float64]
    seconds: float


def predict_rows(
    rows: Sequence[EvaluationRow],
    labels: NDArray[np.object_],
    sides: Callable[[ViewSource], tuple[Rows, Rows]],
    *,
    gene_names: Sequence[str],
    heads: HeadOptions,
    track: Track,
) -> Iterator[tuple[EvaluationRow, RowPredictions]]:
    """Train every row on the same cells, with ``labels`` ``(n,)``, and predict the test cells.

    ``sides`` gives a view of the training cells and of the test cells. The numbers are those of a
    :class:`~scstore.heads.fusion.FusedHead` on each row's views: late fusion fits each view by itself, so a view that
    several rows read is fitted once.
    """
    uses = Counter(source for row in rows for source in row.sources)
    fitted: dict[ViewSource, _ViewPredictions] = {}
    for row in rows:
        for source in row.sources:
            if source not in fitted:
                train, test = sides(source)
                fitted[source] = _predict_view(source.view, train, labels, test, gene_names=gene_names, heads=heads)
                track.advance()
        yield row, _fuse([fitted[source] for source in sorted(row.sources)], heads)
        uses.subtract(row.sources)
        for source in row.sources:
            if not uses[source]:  # predictions of many cells are large
                del fitted[source]


def _predict_view(
    view: str, train: Rows, labels: NDArray[np.object_], test: Rows, *, gene_names: Sequence[str], heads: HeadOptions
) -> _ViewPredictions:
    begun = time.monotonic()
    head = FusedHead(heads.kind, n_folds=INNER_FOLDS, random_state=heads.seed)
    head.fit({view: train}, labels, gene_names=gene_names if view == EXPRESSION else None)
    blocks = head.iter_log_probas({view: with_genes(test, head, gene_names)})
    return _ViewPredictions(
        classes=tuple(str(name) for name in head.classes_),
        shares=head.fusion_.shares,
        codes=head.held_out_codes_,
        held_out=head.held_out_log_probas_[view],
        test=np.concatenate([log_probas[0] for _, log_probas in blocks]),
        seconds=time.monotonic() - begun,
    )


def with_genes(rows: Rows, head: FusedHead, gene_names: Sequence[str]) -> Rows:
    """Return the columns of ``X`` that the head reads; rows of another view as they are."""
    if head.genes_ is None:
        return rows
    place = {name: column for column, name in enumerate(gene_names)}
    columns = np.array([place[name] for name in head.genes_])
    return MappedRows(rows, lambda block: block[:, columns], width=len(columns))


def _fuse(parts: Sequence[_ViewPredictions], heads: HeadOptions) -> RowPredictions:
    begun = time.monotonic()
    held_out, first = [part.held_out for part in parts], parts[0]
    fusion = fit_fusion(held_out, first.codes, shares=first.shares, prior_adjustment=heads.prior_adjustment)
    proba = fusion.proba([part.test for part in parts])
    return RowPredictions(first.classes, proba, sum(part.seconds for part in parts) + time.monotonic() - begun)
