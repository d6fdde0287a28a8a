"""Stratified choices of cells that never take a class away from the training side."""

from __future__ import annotations

import numpy as np

from scstore.heads.rows import Array

__all__ = ["stratified_folds", "stratified_part", "stratified_sample"]


def stratified_folds(codes: Array, *, n_folds: int, rng: np.random.Generator) -> list[Array]:
    """Held-out rows of each fold.

    The cells of a class are dealt to the folds in turn, so no fold holds all of them; a class's only cell is in no
    fold.

    Parameters
    ----------
    codes
        ``(n,)`` class numbers.
    n_folds
        How many, at least 2; fewer come back when there are fewer cells to hold out.

    Returns
    -------
    Sorted row numbers, one array per fold, none of them empty.
    """
    dealt = [rng.permutation(rows) for rows in _rows_by_class(codes) if len(rows) > 1]
    if not dealt:
        return []
    order, step = np.concatenate(dealt), max(2, n_folds)
    folds = [np.sort(order[start::step]) for start in range(step)]
    return [fold for fold in folds if len(fold)]


def stratified_part(codes: Array, *, size: int, rng: np.random.Generator) -> Array:
    """About ``size`` rows to hold out, each class by its share; every class keeps a cell for training. Sorted."""
    share = size / max(1, len(codes))
    parts = [rng.permutation(rows)[: min(len(rows) - 1, round(len(rows) * share))] for rows in _rows_by_class(codes)]
    return np.sort(np.concatenate(parts)).astype(np.int64)


def stratified_sample(codes: Array, *, size: int, rng: np.random.Generator) -> Array:
    """About ``size`` rows to keep, each class by its share and none left out. Sorted."""
    share = size / max(1, len(codes))
    parts = [rng.permutation(rows)[: max(1, int(len(rows) * share))] for rows in _rows_by_class(codes)]
    return np.sort(np.concatenate(parts)).astype(np.int64)


def _rows_by_class(codes: Array) -> list[Array]:
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
