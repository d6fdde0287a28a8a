"""What a head says of cells that it was not trained on: out-of-fold probabilities, and how good they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, recall_score

from scstore.heads.calibration import expected_calibration_error, negative_log_likelihood
from scstore.heads.folds import stratified_folds, stratified_part
from scstore.heads.member import Branch
from scstore.heads.rows import Array, Rows, RowSubset

__all__ = ["HeldOut", "choose_held_out", "out_of_fold", "scores"]

MANY_ROWS = 50_000
"""Beyond so many cells one held-out part does, and saves fitting each head once per fold."""

PART_ROWS = 10_000


@dataclass(frozen=True)
class HeldOut:
    """Out-of-fold predictions.

    Attributes
    ----------
    index
        ``(m,) int64`` rows that were held out once each.
    log_probas
        For each branch ``(m, n_classes) float64``, before any temperature.
    measured
        ``(m, …)``: what ``measure`` said of them; ``(m, 0)`` without one.
    """

    index: Array
    log_probas: tuple[Array, ...]
    measured: Array


def choose_held_out(codes: Array, *, n_folds: int, rng: np.random.Generator) -> list[Array]:
    """Rows to hold out, fold by fold; every class keeps a cell on the training side of each fold."""
    if len(codes) > MANY_ROWS:
        part = stratified_part(codes, size=PART_ROWS, rng=rng)
        return [part] if len(part) else []
    return stratified_folds(codes, n_folds=n_folds, rng=rng)


def out_of_fold(
    views: Mapping[str, Rows],
    y: Array,
    *,
    folds: Sequence[Array],
    fit: Callable[[Mapping[str, Rows], Array], Sequence[Branch]],
    measure: Callable[[Sequence[Branch], Array, Array], Array] | None = None,
) -> HeldOut:
    """Fit on the rows outside each fold, everything included, and predict the rows inside.

    Parameters
    ----------
    views
        Rows by name, n each.
    y
        ``(n,)`` labels.
    folds
        Held-out rows of each fold.
    fit
        Gives the fitted branches, the same number each time.
    measure
        Says more of the rows inside a fold, one line each: from the fitted branches, the rows outside and inside.
    """
    found: list[tuple[Array, ...]] = []
    measured: list[Array] = []
    for inside in folds:
        outside = np.setdiff1d(np.arange(len(y)), inside)
        branches = fit({name: RowSubset(rows, outside) for name, rows in views.items()}, y[outside])
        left = {name: RowSubset(rows, inside) for name, rows in views.items()}
        found.append(tuple(branch.log_proba(left, selected=False) for branch in branches))
        measured.append(np.empty((len(inside), 0)) if measure is None else measure(branches, outside, inside))
    if not found:
        return HeldOut(np.zeros(0, dtype=np.int64), (), np.empty((0, 0)))
    log_probas = tuple(np.concatenate(parts) for parts in zip(*found, strict=True))
    return HeldOut(np.concatenate(list(folds)), log_probas, np.concatenate(measured))


def scores(proba: Array, codes: Array) -> dict[str, float | int | None]:
    """Figures of held-out predictions; all but ``n`` are None without any.

    Parameters
    ----------
    proba
        ``(n, n_classes)`` calibrated probabilities.
    codes
        ``(n,)`` true class numbers.

    Returns
    -------
    ``n``, ``accuracy``, ``balanced_accuracy`` and ``macro_f1`` (over the classes held out), ``nll`` (nats) and ``ece``.
    """
    if not len(codes):
        return {"n": 0, "accuracy": None, "balanced_accuracy": None, "macro_f1": None, "nll": None, "ece": None}
    best, present = proba.argmax(axis=1), np.unique(codes)
    recall = recall_score(codes, best, labels=present, average="macro", zero_division=0)
    macro_f1 = f1_score(codes, best, labels=present, average="macro", zero_division=0)
    return {
        "n": len(codes),
        "accuracy": float(accuracy_score(codes, best)),
        "balanced_accuracy": float(recall),
        "macro_f1": float(macro_f1),
        "nll": negative_log_likelihood(proba, codes),
        "ece": expected_calibration_error(proba, codes),
    }
