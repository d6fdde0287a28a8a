"""Fitting every view once for all the rows that read it, and fusing the rows from their views."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.evaluation.table_rows import EvaluationRow, ViewSource
from scstore.heads.calibration import earning_members, fit_fusion
from scstore.heads.fusion import FusedHead
from scstore.heads.preprocessing import EXPRESSION
from scstore.heads.rows import Array, MappedRows, Rows
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
    kept: tuple[str, ...] = ()  # the views that were fused


@dataclass(frozen=True, eq=False)
class _ViewPredictions:
    """Log-probabilities of one view's head before any temperature, out of fold and of the test cells."""

    classes: tuple[str, ...]
    shares: NDArray[np.float64]
    prior_adjustment: float  # of the fusion: none where the head weighs the classes
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
    groups: Array | None = None,
) -> Iterator[tuple[EvaluationRow, RowPredictions]]:
    """Train every row on the same cells and predict the test cells: as a FusedHead would, each view fitted once."""
    uses = Counter(source for row in rows for source in row.sources)
    fitted: dict[ViewSource, _ViewPredictions] = {}
    for row in rows:
        for source in row.sources:
            if source not in fitted:
                train, test = sides(source)
                how: dict[str, Any] = {"gene_names": gene_names, "heads": heads, "groups": groups}
                fitted[source] = _predict_view(source.view, train, labels, test, **how)
                track.advance()
        yield row, _fuse({source.view: fitted[source] for source in sorted(row.sources)}, row.optional)
        uses.subtract(row.sources)
        for source in row.sources:
            if not uses[source]:  # predictions of many cells are large
                del fitted[source]


def _predict_view(
    view: str,
    train: Rows,
    labels: NDArray[np.object_],
    test: Rows,
    *,
    gene_names: Sequence[str],
    heads: HeadOptions,
    groups: Array | None,
) -> _ViewPredictions:
    begun = time.monotonic()
    how: dict[str, Any] = {"prior_adjustment": heads.prior_adjustment, "random_state": heads.seed}
    head = FusedHead(heads.kind, n_folds=INNER_FOLDS, **how)
    head.fit({view: train}, labels, gene_names=gene_names if view == EXPRESSION else None, groups=groups)
    blocks = head.iter_log_probas({view: with_genes(test, head, gene_names)})
    return _ViewPredictions(
        classes=tuple(str(name) for name in head.classes_),
        shares=head.fusion_.shares,
        prior_adjustment=head.fusion_.prior_adjustment,
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


def _fuse(parts: Mapping[str, _ViewPredictions], optional: Sequence[str]) -> RowPredictions:
    begun, first = time.monotonic(), next(iter(parts.values()))
    shares, prior = first.shares, first.prior_adjustment
    held_out, kept = {view: part.held_out for view, part in parts.items()}, tuple(parts)
    if optional:
        kept = earning_members(held_out, first.codes, optional=optional, shares=shares, prior_adjustment=prior)
    fusion = fit_fusion([held_out[view] for view in kept], first.codes, shares=shares, prior_adjustment=prior)
    proba = fusion.proba([parts[view].test for view in kept])
    seconds = sum(part.seconds for part in parts.values()) + time.monotonic() - begun
    return RowPredictions(first.classes, proba, seconds, kept)
