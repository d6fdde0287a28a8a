"""Every view fitted once for all the rows that read it, and the rows fused from what their views say."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scstore.evaluation.rows import EvaluationRow, ViewSource
from scstore.heads.calibrated_fusion import fit_fusion
from scstore.heads.fusion import FusedHead
from scstore.heads.member import EXPRESSION
from scstore.heads.rows import MappedRows, Rows
from scstore.progress import Track

__all__ = ["INNER_FOLDS", "HeadOptions", "RowPredictions", "predict_rows", "with_genes"]

INNER_FOLDS = 3
"""Folds inside the training cells of a split, for the temperatures. `fit` takes 5; three cost less."""

Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class HeadOptions:
    """How every head of an evaluation is made.

    Attributes
    ----------
    kind
        ``linear``, ``mlp`` or ``knn``.
    prior_adjustment
        How much of the classes' shares among the training cells is taken back, 0 to 1.
    seed
        Of folds and heads.
    """

    kind: str
    prior_adjustment: float
    seed: int


@dataclass(frozen=True, eq=False)
class RowPredictions:
    """What a row says, calibrated.

    Attributes
    ----------
    classes
        Names of the columns.
    held_out
        ``(m, n_classes)`` probabilities of training cells, out of fold.
    others
        Probabilities of each further set of cells.
    seconds
        Fitting (calibration included) and predicting, as if the row were alone.
    """

    classes: tuple[str, ...]
    held_out: Probabilities
    others: tuple[Probabilities, ...]
    seconds: float


@dataclass(frozen=True, eq=False)
class _ViewPredictions:
    """Log-probabilities of one view's head before any temperature; the head itself is gone."""

    classes: tuple[str, ...]
    shares: NDArray[np.float64]
    codes: NDArray[np.int64]
    held_out: Probabilities
    others: tuple[Probabilities, ...]
    seconds: float


def predict_rows(
    rows: Sequence[EvaluationRow],
    labels: NDArray[np.object_],
    sides: Callable[[ViewSource], tuple[Rows, ...]],
    *,
    gene_names: Sequence[str],
    options: HeadOptions,
    track: Track,
) -> Iterator[tuple[EvaluationRow, RowPredictions]]:
    """Train every row on the same cells and let it label others.

    The numbers are those of a :class:`~scstore.heads.fusion.FusedHead` on each row's views. Late fusion fits each view
    by itself, so a view that several rows read is fitted once.

    Parameters
    ----------
    rows
        Those that read views.
    labels
        ``(n,)`` of the training cells.
    sides
        Gives a view of the training cells, then of each set of cells to be labelled.
    gene_names
        Names of the columns of ``X``.
    options
        Of the heads.
    track
        Told after every fit.
    """
    uses = Counter(source for row in rows for source in row.sources)
    fitted: dict[ViewSource, _ViewPredictions] = {}
    for row in rows:
        for source in row.sources:
            if source not in fitted:
                fitted[source] = _predict_view(
                    source.view, *sides(source), labels=labels, gene_names=gene_names, options=options
                )
                track.advance()
        yield row, _fuse([fitted[source] for source in sorted(row.sources)], options)
        uses.subtract(row.sources)
        for source in row.sources:
            if not uses[source]:  # predictions of many cells are large
                del fitted[source]


def _predict_view(
    view: str,
    train: Rows,
    *others: Rows,
    labels: NDArray[np.object_],
    gene_names: Sequence[str],
    options: HeadOptions,
) -> _ViewPredictions:
    begun = time.monotonic()
    head = FusedHead(options.kind, n_folds=INNER_FOLDS, random_state=options.seed)
    head.fit({view: train}, labels, gene_names=gene_names if view == EXPRESSION else None)
    said = []
    for rows in others:
        blocks = head.iter_log_probas({view: with_genes(rows, head, gene_names)})
        said.append(np.concatenate([log_probas[0] for _, log_probas in blocks]))
    return _ViewPredictions(
        classes=tuple(str(name) for name in head.classes_),
        shares=head.shares_,
        codes=head.held_out_codes_,
        held_out=head.held_out_log_probas_[view],
        others=tuple(said),
        seconds=time.monotonic() - begun,
    )


def with_genes(rows: Rows, head: FusedHead, gene_names: Sequence[str]) -> Rows:
    """Of ``X``, whose columns have these names, the genes that the head wants; of a head without ``X`` the rows."""
    if head.genes_ is None:
        return rows
    place = {name: column for column, name in enumerate(gene_names)}
    columns = np.array([place[name] for name in head.genes_])
    return MappedRows(rows, lambda block: block[:, columns], width=len(columns))


def _fuse(parts: Sequence[_ViewPredictions], options: HeadOptions) -> RowPredictions:
    begun = time.monotonic()
    first = parts[0]
    held_out = [part.held_out for part in parts]
    fusion = fit_fusion(held_out, first.codes, shares=first.shares, prior_adjustment=options.prior_adjustment)
    own = fusion.proba(held_out)
    others = tuple(fusion.proba(together) for together in zip(*(part.others for part in parts), strict=True))
    seconds = sum(part.seconds for part in parts) + time.monotonic() - begun
    return RowPredictions(first.classes, own, others, seconds)
