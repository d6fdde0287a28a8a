"""Fitting every row on every split, each view once for all rows that read it, and scoring what they predict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.cluster import each
from scstore.errors import LabelsError, ScstoreError
from scstore.evaluation.cells import EvaluationCells
from scstore.evaluation.design import EvaluationRow, Split, ViewSource
from scstore.evaluation.disjoint_genes import GeneSplitFeatures
from scstore.evaluation.features import StoredFeatures
from scstore.heads.calibration import Fusion, earning_members, fit_fusion
from scstore.heads.fusion import FusedHead
from scstore.heads.preprocessing import EXPRESSION
from scstore.heads.rows import Array, MappedRows, Rows
from scstore.heads.scores import METRICS, prediction_scores, widened
from scstore.progress import Reporter, Track


@dataclass(frozen=True)
class Table:
    """One table to be made: its name, what is done in words, the rows, and where they are trained and tested."""

    name: str
    words: str
    rows: tuple[EvaluationRow, ...]
    splits: tuple[Split, ...]
    features: StoredFeatures | GeneSplitFeatures
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scored:
    """The rows that ran on all splits."""

    rows: tuple[EvaluationRow, ...]
    scores: pd.DataFrame  # of each row and split: row, run, fold, n_train, n_test, every metric
    predictions: pd.DataFrame  # of each row, run and scored cell: row, run, fold, cell, code, predicted, confidence
    absent: Mapping[str, int]  # test cells, by class, that no training cell shares the class of
    notes: tuple[str, ...]
    kept: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by row that chooses: view, folds that kept it

    def codes(self, row: str, column: str) -> Array:
        """Return ``code`` (true) or ``predicted``, the class numbers ``(runs, n_scored)``; -1 where a run has none."""
        lines = self.predictions[self.predictions["row"] == row]
        codes: Array = lines.pivot(index="run", columns="cell", values=column).fillna(-1).to_numpy(dtype=np.int64)
        return codes


def score_rows(table: Table, cells: EvaluationCells, *, head: FusedHead, progress: Reporter) -> Scored:
    """Train heads like ``head`` on the training side of every split, and score each row on the test side."""
    rows = table.rows
    usable, absent, notes = _usable(table.splits, cells)
    kept = {row.name: Counter[str](dict.fromkeys(sorted(row.views), 0)) for row in rows if row.optional}
    n_fits = len({source for row in rows for source in row.sources}) + sum(not row.views for row in rows)
    found: list[ScoredSplit] = []
    with progress.track(f"evaluating {table.name}", n_fits * len(usable), "fits") as track:
        work = partial(_score_split, replace(table, splits=()), cells, head, track)
        for one in each(work, usable):
            found.append(one)
            track.reach(n_fits * len(found))
    failed = {name: message for one in reversed(found) for name, message in one.failed.items()}
    for name, views in (pair for one in found for pair in one.kept.items()):
        kept[name].update(views)
    for message in failed.values():
        progress.warn(message)
    trained = f"{len(usable)} {'folds' if table.name == 'folds' else 'trainings'}"
    for name, counts in kept.items():
        listed = ", ".join(f"{view} in {n}" for view, n in counts.most_common())
        notes.append(f"{name}, views kept, of {trained}: {listed}")
    ran = tuple(row for row in rows if row.name not in failed)
    if not ran:
        raise LabelsError(f"No row of the table could be scored. {' '.join(failed.values())}")
    scores = [one.scores[row.name] for row in ran for one in found]
    predictions = [pd.concat([one.predictions[row.name] for one in found]) for row in ran]
    return Scored(
        rows=ran,
        scores=pd.DataFrame(scores).astype(dict.fromkeys(METRICS, float)),
        predictions=pd.concat([part.sort_values(["run", "cell"]) for part in predictions], ignore_index=True),
        absent=absent,
        notes=(*table.notes, *notes, *failed.values()),
        kept=kept,
    )


@dataclass(frozen=True)
class ScoredSplit:
    """By row: its scores, its predictions of the test cells, the views it kept, or why it failed."""

    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    predictions: dict[str, pd.DataFrame] = field(default_factory=dict)
    kept: dict[str, tuple[str, ...]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def _score_split(table: Table, cells: EvaluationCells, head: FusedHead, track: Track, split: Split) -> ScoredSplit:
    truth, scored = cells.codes[split.test], ScoredSplit()
    for row, found in _predict(table, split, cells, head=head, track=track, failed=scored.failed):
        if row.optional:
            scored.kept[row.name] = found.kept
        proba = widened(found.proba, np.searchsorted(cells.classes, found.classes), len(cells.classes))
        about = {"row": row.name, "run": split.run, "fold": split.fold}
        sizes = {"n_train": len(split.train), "n_test": len(split.test)}
        scored.scores[row.name] = about | sizes | prediction_scores(truth, proba)
        columns = {"cell": split.test, "code": truth, "predicted": proba.argmax(axis=1)}
        columns["confidence"] = proba.max(axis=1).astype(np.float32)
        scored.predictions[row.name] = pd.DataFrame(about | columns)
    return scored


def _predict(
    table: Table, split: Split, cells: EvaluationCells, *, head: FusedHead, track: Track, failed: dict[str, str]
) -> Iterator[tuple[EvaluationRow, RowPredictions]]:
    """Yield each row's predictions of the test cells; note rows that fail in ``failed``."""
    yield from predict_rows(
        [row for row in table.rows if row.views],
        cells.labels[split.train],
        partial(table.features.sides, split=split),
        gene_names=table.features.gene_names,
        head=head,
        track=track,
        groups=cells.groups_of(split.train),
    )
    for row in table.rows:
        if not row.views and row.name not in failed:
            try:
                yield row, RowPredictions(*table.features.own_proba(row, split, seed=head.random_state))
            except ScstoreError as error:  # too few cells
                failed[row.name] = f"{row.words} failed and has no row: {type(error).__name__}: {error}"
            track.advance()


def _usable(splits: Sequence[Split], cells: EvaluationCells) -> tuple[list[Split], dict[str, int], list[str]]:
    """Return the splits without test cells of classes that have no training cell, how many those are, and notes."""
    usable: list[Split] = []
    notes: list[str] = []
    absent = np.zeros(len(cells.classes), dtype=np.int64)
    for split in splits:
        known = np.unique(cells.codes[split.train])
        learnable = np.isin(cells.codes[split.test], known)
        absent += np.bincount(cells.codes[split.test[~learnable]], minlength=len(absent))
        if len(known) < 2 or not learnable.any():
            notes.append(f"fold {split.fold} is not scored: it leaves {len(known)} class(es) to train on")
        else:
            usable.append(Split(split.run, split.fold, split.train, split.test[learnable]))
    if not usable:
        raise LabelsError("No split leaves two classes to train on and cells to test on: change group= or label=.")
    return usable, {name: int(n) for name, n in zip(cells.classes, absent, strict=True) if n}, notes


@dataclass(frozen=True, eq=False)
class RowPredictions:
    """A row's calibrated probabilities of the test cells."""

    classes: tuple[str, ...]
    proba: NDArray[np.float64]  # (n_test, n_classes)
    kept: tuple[str, ...] = ()  # the views that were fused


@dataclass(frozen=True, eq=False)
class _ViewPredictions:
    """Log-probabilities of one view's head before any temperature, out of fold and of the test cells."""

    classes: tuple[str, ...]
    fusion: Fusion  # without prior adjustment where the head weighs the classes
    codes: NDArray[np.int64]
    held_out: NDArray[np.float64]
    test: NDArray[np.float64]


def predict_rows(
    rows: Sequence[EvaluationRow],
    labels: NDArray[np.object_],
    sides: Callable[[ViewSource], tuple[Rows, Rows]],
    *,
    gene_names: Sequence[str],
    head: FusedHead,
    track: Track,
    groups: Array | None = None,
) -> Iterator[tuple[EvaluationRow, RowPredictions]]:
    """Train every row on the same cells and predict the test cells: as ``head`` would, but each view fitted once."""
    uses = Counter(source for row in rows for source in row.sources)
    fitted: dict[ViewSource, _ViewPredictions] = {}

    def fit(source: ViewSource) -> _ViewPredictions:
        (train, test), view = sides(source), source.view
        names = gene_names if view == EXPRESSION else None
        own = copy(head).fit({view: train}, labels, gene_names=names, groups=groups)
        found = own.members_[view].log_proba(with_genes(test, own, gene_names))
        track.advance()
        classes = tuple(str(name) for name in own.classes_)
        return _ViewPredictions(classes, own.fusion_, own.held_out_codes_, own.held_out_log_probas_[view], found)

    for row in rows:
        fitted |= {source: fit(source) for source in row.sources if source not in fitted}
        yield row, _fuse({source.view: fitted[source] for source in sorted(row.sources)}, row.optional)
        uses.subtract(row.sources)
        for source in row.sources:
            if not uses[source]:  # predictions of many cells are large
                del fitted[source]


def with_genes(rows: Rows, head: FusedHead, gene_names: Sequence[str]) -> Rows:
    """Return the columns of ``X`` that the head reads; rows of another view as they are."""
    if head.genes_ is None:
        return rows
    place = {name: column for column, name in enumerate(gene_names)}
    columns = np.array([place[name] for name in head.genes_])
    return MappedRows(rows, lambda block: block[:, columns], width=len(columns))


def _fuse(parts: Mapping[str, _ViewPredictions], optional: Sequence[str]) -> RowPredictions:
    first = next(iter(parts.values()))
    how: dict[str, Any] = {"shares": first.fusion.shares, "prior_adjustment": first.fusion.prior_adjustment}
    held_out, kept = {view: part.held_out for view, part in parts.items()}, tuple(parts)
    if optional:
        kept = earning_members(held_out, first.codes, optional=optional, **how)
    fusion = fit_fusion([held_out[view] for view in kept], first.codes, **how)
    return RowPredictions(first.classes, fusion.proba([parts[view].test for view in kept]), kept)
