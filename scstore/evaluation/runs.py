"""Fitting every row on every split, and scoring what it predicts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import LabelsError, ScstoreError
from scstore.evaluation.cells import EvaluationCells
from scstore.evaluation.fits import HeadOptions, RowPredictions, predict_rows
from scstore.evaluation.splits import Split
from scstore.evaluation.table_rows import CELLTYPIST, EvaluationRow, ViewSource
from scstore.heads.rows import Rows
from scstore.heads.scores import prediction_scores, widen
from scstore.progress import Reporter, Track


class Features(Protocol):
    """Gives the views of both sides of a split, and runs the methods that choose their features themselves."""

    @property
    def gene_names(self) -> list[str]:
        """Names of the columns of ``X``."""

    def sides(self, source: ViewSource, split: Split) -> tuple[Rows, Rows]:
        """Return a view of the training cells and of the test cells."""

    def own_proba(self, row: EvaluationRow, split: Split, *, seed: int) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Return classes, and probabilities of the test cells ``(n_test, n_classes)``, by a row without views."""


@dataclass(frozen=True)
class Table:
    """One table to be made: its name, what is done in words, the rows, and where they are trained and tested."""

    name: str
    words: str
    rows: tuple[EvaluationRow, ...]
    splits: tuple[Split, ...]
    features: Features
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoldScores:
    """One row on one split."""

    run: int
    fold: str
    n_train: int
    n_test: int
    metrics: Mapping[str, float | None]
    seconds: float  # of fitting, calibration and prediction, as if the row were alone


@dataclass(frozen=True)
class Scored:
    """All rows on all splits; the mappings are by the row's name."""

    rows: tuple[EvaluationRow, ...]  # those that ran
    folds: Mapping[str, tuple[FoldScores, ...]]
    fold_names: tuple[str, ...]
    truth: NDArray[np.int32]  # (runs, n) class number; -1 where a cell was not scored in a run
    fold: NDArray[np.int32]  # (runs, n) place in fold_names; -1 likewise
    predicted: Mapping[str, NDArray[np.int32]]  # (runs, n) class number
    confidence: Mapping[str, NDArray[np.float32]]  # (runs, n) its probability
    absent: Mapping[str, int]  # test cells, by class, that no training cell shares the class of
    notes: tuple[str, ...]

    def predictions(self, cells: EvaluationCells, regime: str) -> pd.DataFrame:
        """Return one line for each row, run and scored cell: fold, cell id, true label, prediction, confidence."""
        run, cell = np.nonzero(self.truth >= 0)
        classes = list(cells.classes)
        folds = pd.Categorical.from_codes(self.fold[run, cell], list(self.fold_names))
        truth = pd.Categorical.from_codes(self.truth[run, cell], classes)
        frames = [
            pd.DataFrame(
                {
                    "regime": regime,
                    "row": row.name,
                    "run": run,
                    "fold": folds,
                    "cell_id": cells.ids[cell],
                    "label": truth,
                    "predicted": pd.Categorical.from_codes(self.predicted[row.name][run, cell], classes),
                    "confidence": self.confidence[row.name][run, cell],
                }
            )
            for row in self.rows
        ]
        return pd.concat(frames, ignore_index=True)


def score_rows(table: Table, cells: EvaluationCells, *, heads: HeadOptions, progress: Reporter) -> Scored:
    """Train every row on the training side of every split, everything fitted there, and score it on the test side."""
    rows = table.rows
    usable, absent, notes = _usable(table.splits, cells)
    fold_names = tuple(dict.fromkeys(split.fold for split in usable))
    shape = (1 + max(split.run for split in usable), len(cells))
    truth, fold = np.full(shape, -1, dtype=np.int32), np.full(shape, -1, dtype=np.int32)
    predicted = {row.name: np.full(shape, -1, dtype=np.int32) for row in rows}
    confidence = {row.name: np.zeros(shape, dtype=np.float32) for row in rows}
    scores: dict[str, list[FoldScores]] = {row.name: [] for row in rows}
    failed: dict[str, str] = {}
    n_fits = len({source for row in rows for source in row.sources}) + sum(not row.views for row in rows)
    with progress.track(f"evaluating {table.name}", n_fits * len(usable), "fits") as track:
        for split in usable:
            truth[split.run, split.test] = cells.codes[split.test]
            fold[split.run, split.test] = fold_names.index(split.fold)
            for row, found in _predict(table, split, cells, heads=heads, track=track, failed=failed):
                proba = widen(found.proba, found.classes, cells.classes)
                predicted[row.name][split.run, split.test] = proba.argmax(axis=1)
                confidence[row.name][split.run, split.test] = proba.max(axis=1)
                metrics = prediction_scores(cells.codes[split.test], proba)
                sizes = len(split.train), len(split.test)
                scores[row.name].append(FoldScores(split.run, split.fold, *sizes, metrics, found.seconds))
    for message in failed.values():
        progress.warn(message)
    return Scored(
        rows=tuple(row for row in rows if row.name not in failed),
        folds={name: tuple(folds) for name, folds in scores.items()},
        fold_names=fold_names,
        truth=truth,
        fold=fold,
        predicted=predicted,
        confidence=confidence,
        absent=absent,
        notes=(*table.notes, *notes, *failed.values()),
    )


def _predict(
    table: Table, split: Split, cells: EvaluationCells, *, heads: HeadOptions, track: Track, failed: dict[str, str]
) -> Iterator[tuple[EvaluationRow, RowPredictions]]:
    """Yield each row's predictions of the test cells; note rows that fail in ``failed``."""
    features, labels = table.features, cells.labels[split.train]
    sides = partial(features.sides, split=split)
    with_views = [row for row in table.rows if row.views]
    yield from predict_rows(with_views, labels, sides, gene_names=features.gene_names, heads=heads, track=track)
    for row in table.rows:
        if row.views or row.name in failed:
            continue
        begun = time.monotonic()
        try:
            classes, proba = features.own_proba(row, split, seed=heads.seed)
        except Exception as error:
            # too few cells, or another project's failure; our own mistakes are raised
            if row.name != CELLTYPIST and not isinstance(error, ScstoreError):
                raise
            failed[row.name] = f"{row.words} failed and has no row: {type(error).__name__}: {error}"
        else:
            yield row, RowPredictions(classes, proba, time.monotonic() - begun)
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
        raise LabelsError(
            "No split leaves two classes to train on and a cell of one of them to test on. Choose another group=, "
            "train_on= or label."
        )
    return usable, {name: int(n) for name, n in zip(cells.classes, absent, strict=True) if n}, notes
