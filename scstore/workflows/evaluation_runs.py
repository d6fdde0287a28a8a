"""Fitting every row on every split, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import LabelsError
from scstore.heads.branch import EXPRESSION
from scstore.heads.fusion import FusedHead
from scstore.heads.metrics import prediction_metrics, widen
from scstore.heads.rows import MappedRows, Rows, RowSubset, fetch
from scstore.heads.splits import Split
from scstore.progress import Reporter
from scstore.workflows.celltypist import celltypist_proba
from scstore.workflows.evaluation_cells import EvaluationCells
from scstore.workflows.evaluation_rows import EvaluationRow

__all__ = ["INNER_FOLDS", "Features", "FoldScores", "Scored", "StoredFeatures", "fit_head", "give_genes", "score_rows"]

INNER_FOLDS = 3
"""Folds inside the training cells of a split, for the temperatures. `fit` takes 5; three cost less."""


class Features(Protocol):
    """Gives a row's features of both sides of a split."""

    @property
    def gene_names(self) -> list[str]:
        """Names of the columns of ``X``."""

    def sides(self, row: EvaluationRow, split: Split) -> tuple[dict[str, Rows], dict[str, Rows]]:
        """Views by name of the training cells and of the test cells."""


@dataclass(frozen=True)
class StoredFeatures:
    """The features that the stores hold."""

    cells: EvaluationCells

    @property
    def gene_names(self) -> list[str]:
        """Names of the columns of ``X``."""
        return self.cells.gene_names

    def sides(self, row: EvaluationRow, split: Split) -> tuple[dict[str, Rows], dict[str, Rows]]:
        """Views by name of the training cells and of the test cells; CellTypist gets ``X``."""
        # the cells' expression is one and the same; a control differs in what was made of it
        views = {
            view: self.cells.features(view, "" if view == EXPRESSION else row.control)
            for view in row.views or (EXPRESSION,)
        }
        train: dict[str, Rows] = {name: RowSubset(rows, split.train) for name, rows in views.items()}
        test: dict[str, Rows] = {name: RowSubset(rows, split.test) for name, rows in views.items()}
        return train, test


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
        Fitting (calibration included) and predicting.
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


def fit_head(
    train: Mapping[str, Rows], labels: NDArray[Any], *, kind: str, seed: int, gene_names: Sequence[str]
) -> FusedHead:
    """A head as ``fit`` makes it, calibrated on fewer inner folds."""
    head = FusedHead(kind, n_folds=INNER_FOLDS, random_state=seed)
    return head.fit(train, labels, gene_names=gene_names if EXPRESSION in train else None)


def give_genes(test: Mapping[str, Rows], head: FusedHead, gene_names: Sequence[str]) -> dict[str, Rows]:
    """The views as the head wants them: of ``X`` its genes alone."""
    views = dict(test)
    if head.genes_ is not None:
        place = {name: column for column, name in enumerate(gene_names)}
        columns = np.array([place[name] for name in head.genes_])
        views[EXPRESSION] = MappedRows(test[EXPRESSION], lambda block: block[:, columns], width=len(columns))
    return views


def score_rows(
    rows: Sequence[EvaluationRow],
    splits: Sequence[Split],
    features: Features,
    cells: EvaluationCells,
    *,
    head: str,
    seed: int,
    progress: Reporter,
    doing: str,
) -> Scored:
    """Train every row on the training side of every split, everything fitted there, and score it on the test side.

    Parameters
    ----------
    rows, splits, features, cells
        What to fit, where, on what.
    head
        ``linear``, ``mlp`` or ``knn``.
    seed
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
    with progress.track(doing, len(rows) * len(usable), "fits") as track:
        for split in usable:
            truth[split.run, split.test] = cells.codes[split.test]
            fold[split.run, split.test] = fold_names.index(split.fold)
            for row in rows:
                if row.name not in failed:
                    begun = time.monotonic()
                    try:
                        proba = _proba(row, split, features, cells, head=head, seed=seed)
                    except Exception as error:  # another project's code: its failure is not the evaluation's
                        if row.views:
                            raise
                        failed[row.name] = f"{row.words} failed and has no row: {type(error).__name__}: {error}"
                        progress.warn(failed[row.name])
                        continue
                    seconds = time.monotonic() - begun
                    predicted[row.name][split.run, split.test] = proba.argmax(axis=1)
                    confidence[row.name][split.run, split.test] = proba.max(axis=1)
                    metrics = prediction_metrics(cells.codes[split.test], proba)
                    sizes = len(split.train), len(split.test)
                    scores[row.name].append(FoldScores(split.run, split.fold, *sizes, metrics, seconds))
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


def _proba(
    row: EvaluationRow, split: Split, features: Features, cells: EvaluationCells, *, head: str, seed: int
) -> NDArray[np.float64]:
    train, test = features.sides(row, split)
    labels = cells.labels[split.train]
    if not row.views:
        whole = slice(0, None)
        return celltypist_proba(
            fetch(train[EXPRESSION], whole),
            labels,
            fetch(test[EXPRESSION], whole),
            genes=features.gene_names,
            classes=cells.classes,
            seed=seed,
        )
    names = features.gene_names if EXPRESSION in train else []
    fitted = fit_head(train, labels, kind=head, seed=seed, gene_names=names)
    proba = fitted.predict_proba(give_genes(test, fitted, names))
    return widen(proba, [str(name) for name in fitted.classes_], cells.classes)
