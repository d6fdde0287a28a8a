"""Fitting every row on every split, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import LabelsError, ScstoreError
from scstore.evaluation.cells import EvaluationCells
from scstore.evaluation.celltypist import celltypist_proba
from scstore.evaluation.fits import HeadOptions, predict_rows
from scstore.evaluation.rows import CELLTYPIST, EvaluationRow, ViewSource
from scstore.evaluation.splits import Split
from scstore.heads.member import EXPRESSION
from scstore.heads.metrics import prediction_metrics, widen
from scstore.heads.rows import Rows, RowSubset, fetch
from scstore.progress import Reporter

__all__ = ["Features", "FoldScores", "Scored", "StoredFeatures", "score_rows"]


class Features(Protocol):
    """Gives a view of both sides of a split."""

    @property
    def gene_names(self) -> list[str]:
        """Names of the columns of ``X``."""

    def sides(self, source: ViewSource, split: Split) -> tuple[Rows, Rows]:
        """Rows of the training cells and of the test cells."""

    def judge(self, row: EvaluationRow, split: Split, *, seed: int) -> NDArray[np.float64]:
        """Probabilities of the test cells ``(n, n_classes)`` by a row that reads no view: a method of its own."""


@dataclass(frozen=True)
class StoredFeatures:
    """The features that the stores hold."""

    cells: EvaluationCells

    @property
    def gene_names(self) -> list[str]:
        """Names of the columns of ``X``."""
        return self.cells.gene_names

    def sides(self, source: ViewSource, split: Split) -> tuple[Rows, Rows]:
        """Rows of the training cells and of the test cells."""
        rows = self.cells.features(source.view, source.control)
        return RowSubset(rows, split.train), RowSubset(rows, split.test)

    def judge(self, row: EvaluationRow, split: Split, *, seed: int) -> NDArray[np.float64]:
        """CellTypist's probabilities of the test cells; no other row here reads no view."""
        train, test = (fetch(rows, slice(0, None)) for rows in self.sides(ViewSource(EXPRESSION, ""), split))
        return celltypist_proba(
            train,
            self.cells.labels[split.train],
            test,
            genes=self.gene_names,
            classes=self.cells.classes,
            seed=seed,
        )


@dataclass(frozen=True)
class FoldScores:
    """One row on one split.

    Attributes
    ----------
    run, fold
        Of the split.
    n_train, n_test
        Cells.
    metrics
        From :func:`scstore.heads.metrics.prediction_metrics`.
    seconds
        Fitting (calibration included) and predicting, as if the row were alone: views are fitted once for all rows.
    """

    run: int
    fold: str
    n_train: int
    n_test: int
    metrics: Mapping[str, float | None]
    seconds: float


@dataclass(frozen=True)
class Scored:
    """All rows on all splits.

    Attributes
    ----------
    rows
        Those that ran.
    folds
        Scores of each row, by its name.
    fold_names
        Of all splits.
    truth, fold
        ``(runs, n)``: class number, and place in ``fold_names``; -1 where a cell was not scored in a run.
    predicted, confidence
        ``(runs, n)`` by the row's name: class number, and its probability.
    absent
        Test cells that were not scored since their class is not on the training side, by class; over all splits.
    notes
        What the user should know.
    """

    rows: tuple[EvaluationRow, ...]
    folds: Mapping[str, tuple[FoldScores, ...]]
    fold_names: tuple[str, ...]
    truth: NDArray[np.int32]
    fold: NDArray[np.int32]
    predicted: Mapping[str, NDArray[np.int32]]
    confidence: Mapping[str, NDArray[np.float32]]
    absent: Mapping[str, int]
    notes: tuple[str, ...]

    def predictions(self, cells: EvaluationCells, regime: str) -> pd.DataFrame:
        """One line a row, run and scored cell: ids, fold, true label, predicted label, confidence."""
        run, cell = np.nonzero(self.truth >= 0)
        classes = list(cells.classes)
        folds = self.fold[run, cell]
        frames = [
            pd.DataFrame(
                {
                    "regime": regime,
                    "row": row.name,
                    "run": run,
                    "fold": pd.Categorical.from_codes(folds, list(self.fold_names)),
                    "cell_id": cells.ids[cell],
                    "label": pd.Categorical.from_codes(self.truth[run, cell], classes),
                    "predicted": pd.Categorical.from_codes(self.predicted[row.name][run, cell], classes),
                    "confidence": self.confidence[row.name][run, cell],
                }
            )
            for row in self.rows
        ]
        return pd.concat(frames, ignore_index=True)


def score_rows(
    rows: Sequence[EvaluationRow],
    splits: Sequence[Split],
    features: Features,
    cells: EvaluationCells,
    *,
    options: HeadOptions,
    progress: Reporter,
    doing: str,
) -> Scored:
    """Train every row on the training side of every split, everything fitted there, and score it on the test side.

    Parameters
    ----------
    rows, splits, features, cells
        What to fit, where, on what.
    options
        Of the heads.
    progress
        Told after every fit.
    doing
        What the progress is called.

    Raises
    ------
    LabelsError
        If no split has two classes to train on and a cell to test on.
    """
    usable, absent, notes = _usable(splits, cells)
    fold_names = tuple(dict.fromkeys(split.fold for split in usable))
    shape = (1 + max(split.run for split in usable), len(cells))
    truth, fold = np.full(shape, -1, dtype=np.int32), np.full(shape, -1, dtype=np.int32)
    predicted = {row.name: np.full(shape, -1, dtype=np.int32) for row in rows}
    confidence = {row.name: np.zeros(shape, dtype=np.float32) for row in rows}
    scores: dict[str, list[FoldScores]] = {row.name: [] for row in rows}
    failed: dict[str, str] = {}
    with_views = [row for row in rows if row.views]
    foreign = [row for row in rows if not row.views]
    n_fits = len({source for row in rows for source in row.sources}) + len(foreign)

    def score(row: EvaluationRow, split: Split, proba: NDArray[np.float64], seconds: float) -> None:
        predicted[row.name][split.run, split.test] = proba.argmax(axis=1)
        confidence[row.name][split.run, split.test] = proba.max(axis=1)
        metrics = prediction_metrics(cells.codes[split.test], proba)
        sizes = len(split.train), len(split.test)
        scores[row.name].append(FoldScores(split.run, split.fold, *sizes, metrics, seconds))

    with progress.track(doing, n_fits * len(usable), "fits") as track:
        for split in usable:
            truth[split.run, split.test] = cells.codes[split.test]
            fold[split.run, split.test] = fold_names.index(split.fold)
            said = predict_rows(
                with_views,
                cells.labels[split.train],
                partial(features.sides, split=split),
                gene_names=features.gene_names,
                options=options,
                track=track,
            )
            for row, found in said:
                score(row, split, widen(found.others[0], found.classes, cells.classes), found.seconds)
            for row in foreign:
                if row.name not in failed:
                    begun = time.monotonic()
                    try:
                        proba = features.judge(row, split, seed=options.seed)
                    except Exception as error:
                        # what the data does not allow, or another project's failure; a mistake of ours is raised
                        if row.name != CELLTYPIST and not isinstance(error, ScstoreError):
                            raise
                        failed[row.name] = f"{row.words} failed and has no row: {type(error).__name__}: {error}"
                        progress.warn(failed[row.name])
                    else:
                        score(row, split, proba, time.monotonic() - begun)
                track.advance()
    ran = tuple(row for row in rows if row.name not in failed)
    return Scored(
        rows=ran,
        folds={row.name: tuple(scores[row.name]) for row in ran},
        fold_names=fold_names,
        truth=truth,
        fold=fold,
        predicted={row.name: predicted[row.name] for row in ran},
        confidence={row.name: confidence[row.name] for row in ran},
        absent=absent,
        notes=(*notes, *failed.values()),
    )


def _usable(splits: Sequence[Split], cells: EvaluationCells) -> tuple[list[Split], dict[str, int], list[str]]:
    """Splits without the test cells whose class nobody could have learned, and how many those are."""
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
        msg = (
            "No split leaves two classes to train on and a cell of one of them to test on. Choose another --group, "
            "--train-on or --label."
        )
        raise LabelsError(msg)
    return usable, {name: int(n) for name, n in zip(cells.classes, absent, strict=True) if n}, notes
