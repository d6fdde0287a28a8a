"""Rows of benchmarks/decoder.py: regressions on what was read of the cells, their settings, and their fusions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from lab_pairs import Cut
from plain_rivals import Said
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

VARIABLE = 500
COMPONENTS = (10, 20, 50)
FOLDS = 3
LEAST = 1e-12


@dataclass(frozen=True)
class Matrix:
    """What was read of the cells: ``(n, d)`` of the training side, with labels or without, ``(m, d)`` of the test's."""

    train: np.ndarray
    test: np.ndarray

    def scaled(self) -> Matrix:
        """Centred and divided by the spread of the training side."""
        mean, spread = self.train.mean(axis=0), self.train.std(axis=0) + 1e-6
        return Matrix((self.train - mean) / spread, (self.test - mean) / spread)

    def apart(self, *, scaled: bool) -> Matrix:
        """Each side less its own mean, divided by the training side's spread: every column's, or one for all."""
        train, test = (side - side.mean(axis=0) for side in (self.train, self.test))
        spread = train.std(axis=0) + 1e-6 if scaled else train.std() + 1e-6
        return Matrix(train / spread, test / spread)


@dataclass(frozen=True)
class Known:
    """Labelled training cells: their rows among those that were read, and their labels."""

    rows: np.ndarray
    labels: np.ndarray

    @cached_property
    def folds(self) -> np.ndarray:
        """Number of the fold of each cell: as many cells of each label in every fold as can be."""
        counts = np.unique(self.labels, return_counts=True)[1]
        n, rng = max(2, min(FOLDS, int(counts.min()))), np.random.default_rng(0)
        folds = np.zeros(len(self.labels), dtype=int)
        for label in np.unique(self.labels):
            mine = rng.permutation(np.flatnonzero(self.labels == label))
            folds[mine] = np.arange(len(mine)) % n
        return folds


@dataclass(frozen=True)
class Setting:
    """A regression on one matrix, and how well it labels held-out training cells.

    Attributes
    ----------
    view
        Name of the matrix.
    C
        Strength of the regression, class-balanced.
    rows
        Labelled and test cells, in the space that the labelled ones span: the same regression is found faster there.
    known
        The labelled cells.
    held_out
        Means over the labels, of the share that is right and of the log-likelihood.
    """

    view: str
    C: float
    rows: Matrix
    known: Known
    held_out: tuple[float, ...]

    @cached_property
    def said(self) -> Said:
        """What it says of the test cells, fitted on all labelled ones."""
        model = regression(self.C).fit(self.rows.train, self.known.labels)
        return Said(model.classes_, model.predict_proba(self.rows.test))


def regression(C: float) -> LogisticRegression:
    return LogisticRegression(C=C, class_weight="balanced", max_iter=300)


def settings(views: Mapping[str, Matrix], strengths: Sequence[float], known: Known) -> list[Setting]:
    """Every matrix with every strength."""
    found = []
    for view, matrix in views.items():
        mean = matrix.train[known.rows].mean(axis=0)
        labelled = matrix.train[known.rows] - mean
        _, sizes, directions = np.linalg.svd(labelled, full_matrices=False)
        kept = directions[sizes > 1e-6 * sizes[0]].T
        rows = Matrix(labelled @ kept, (matrix.test - mean) @ kept)
        found += [Setting(view, C, rows, known, _held_out(rows.train, known, C)) for C in strengths]
    return found


def best(offered: Iterable[Setting]) -> Setting:
    """The one that labels held-out training cells best."""
    return max(offered, key=lambda one: one.held_out)


def _held_out(rows: np.ndarray, known: Known, C: float) -> tuple[float, ...]:
    classes, codes = np.unique(known.labels, return_inverse=True)
    logs = np.empty((len(codes), len(classes)))
    for fold in range(known.folds.max() + 1):
        out = known.folds == fold
        model = regression(C).fit(rows[~out], known.labels[~out])
        logs[out] = np.log(np.maximum(model.predict_proba(rows[out]), LEAST))
    right, likely = logs.argmax(axis=1) == codes, logs[np.arange(len(codes)), codes]
    return tuple(
        float(np.mean([values[codes == code].mean() for code in range(len(classes))])) for values in (right, likely)
    )


def components(one: Cut, read: np.ndarray, tested: np.ndarray, panel: np.ndarray) -> dict[str, Matrix]:
    """Principal components of expression, fitted on the whole training side: labelled, read, or neither."""
    variable = np.argsort(-one.train.var(axis=0), kind="stable")[:VARIABLE]
    found = {}
    for name, genes in (("panel", panel), (f"{len(variable)} variable genes", variable)):
        pca = PCA(min(COMPONENTS[-1], len(genes), len(one.train) - 1), random_state=0).fit(one.train[:, genes])
        train, test = pca.transform(one.train[read][:, genes]), pca.transform(one.test[tested][:, genes])
        found |= {f"{n} of {name}": Matrix(train[:, :n], test[:, :n]) for n in COMPONENTS}
    return found


def fused(*parts: Said) -> Said:
    """Mean log-probability."""
    logs = np.mean([np.log(np.maximum(part.proba, LEAST)) for part in parts], axis=0)
    proba = np.exp(logs - logs.max(axis=1, keepdims=True))
    return Said(parts[0].classes, proba / proba.sum(axis=1, keepdims=True))
