"""Labels as class numbers, and choices of cells that are stratified by them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from scstore.cells.labels import missing_labels
from scstore.errors import LabelsError
from scstore.heads.rows import Array

# Cells above which one held-out part does in place of folds: it saves fitting each head once per fold.
MANY_ROWS = 50_000
PART_ROWS = 10_000


@dataclass(frozen=True)
class Labels:
    """Sorted distinct labels ``classes`` ``(c,)``, and each cell's place among them, ``codes`` ``(n,) int64``."""

    classes: Array
    codes: Array


def encode_labels(y: Any, n_rows: int) -> Labels:
    """Check one label per row and number the classes; :class:`LabelsError` where they cannot be learned from."""
    values = _check_labels(y, n_rows)
    if n_rows < 2:
        raise LabelsError(f"y: {n_rows} labelled cells (n_samples = {n_rows}). Give at least 2, of different classes.")
    try:
        check_classification_targets(values)
        classes, codes = np.unique(values, return_inverse=True)
    except TypeError as error:
        raise LabelsError(f"y: labels of mixed types cannot be sorted ({error}). Turn them all into text.") from error
    except ValueError as error:
        raise LabelsError(f"y: {error} Labels must be names or whole numbers, not measurements.") from error
    if len(classes) < 2:
        raise LabelsError(f"y: there is one class only ({classes[0]!r}). Give cells of at least two classes.")
    if classes.dtype.kind == "O" and all(isinstance(label, str) for label in classes):
        classes = np.array(classes.tolist())
    return Labels(classes, codes.astype(np.int64))


def _check_labels(y: Any, n_rows: int, *, name: str = "y", what: str = "label") -> Array:
    if y is None:
        raise LabelsError("fit requires y to be passed, but the target y is None: give one label per cell.")
    values: Array = column_or_1d(y, warn=True)
    if len(values) != n_rows:
        raise LabelsError(f"{name}: {len(values):,} {what}s for {n_rows:,} cells. Give exactly one {what} per cell.")
    if (missing := missing_labels(values)).any():
        n, first = int(missing.sum()), int(np.argmax(missing))
        raise LabelsError(
            f"{name}: {n:,} of {n_rows:,} {what}s are missing (first: row {first:,}). Leave those cells out."
        )
    return values


def held_out_folds(codes: Array, groups: Array | None, *, n_folds: int, seed: int) -> list[tuple[Array, Array]]:
    """Return the rows to learn from and those held out, for each fold; of many rows one part is held out once.

    What no row outside a fold shows cannot be right: cells of such classes are not held out.
    """
    rng, every = np.random.default_rng(seed), np.arange(len(codes))
    many = len(codes) > MANY_ROWS
    if groups is not None:
        folds = group_folds(groups, n_folds=n_folds)[: 1 if many else None]
    elif many:
        folds = [stratified_part(codes, size=PART_ROWS, rng=rng)]
    else:
        folds = stratified_folds(codes, n_folds=n_folds, rng=rng)
    most = PART_ROWS if many and groups is not None else None
    found = []
    for fold in folds:
        outside, inside = np.setdiff1d(every, fold), np.sort(rng.permutation(fold)[:most])
        inside = inside[np.isin(codes[inside], codes[outside])]
        if len(inside) and len(np.unique(codes[outside])) > 1:
            found.append((outside, inside))
    return found


def stratified_folds(codes: Array, *, n_folds: int, rng: np.random.Generator) -> list[Array]:
    """Return the rows of each fold, sorted, dealt class by class; the only cell of a class is in no fold."""
    dealt = [rng.permutation(rows) for rows in _rows_by_class(codes) if len(rows) > 1]
    if not dealt:
        return []
    order, step = np.concatenate(dealt), max(2, n_folds)
    folds = [np.sort(order[start::step]) for start in range(step)]
    return [fold for fold in folds if len(fold)]


def encode_groups(groups: Any, n_rows: int) -> Array:
    """Number the groups of cells, ``(n,) int64``; :class:`LabelsError` where a cell has none or there is only one."""
    values = _check_labels(groups, n_rows, name="groups", what="group")
    names, codes = np.unique(values.astype(str), return_inverse=True)
    if len(names) < 2:
        raise LabelsError(
            f"groups: all cells are of {names[0]!r}. Leave the groups out, or give cells of at least two."
        )
    return codes.astype(np.int64)


def group_folds(groups: Array, *, n_folds: int) -> list[Array]:
    """Return the rows of each fold, sorted: whole groups, the folds of about equal size; none of a single group."""
    n_folds = min(n_folds, len(np.unique(groups)))
    return [fold for _, fold in GroupKFold(n_folds).split(groups, groups=groups)] if n_folds > 1 else []


def stratified_part(codes: Array, *, size: int, rng: np.random.Generator) -> Array:
    """Return about ``size`` rows to hold out, sorted, in proportion; every class keeps a cell for training."""
    share = size / max(1, len(codes))
    parts = [rng.permutation(rows)[: min(len(rows) - 1, round(len(rows) * share))] for rows in _rows_by_class(codes)]
    return np.sort(np.concatenate(parts)).astype(np.int64)


def stratified_sample(codes: Array, *, size: int, rng: np.random.Generator) -> Array:
    """Return about ``size`` rows to keep, sorted, in proportion; every class keeps at least one cell."""
    share = size / max(1, len(codes))
    parts = [rng.permutation(rows)[: max(1, int(len(rows) * share))] for rows in _rows_by_class(codes)]
    return np.sort(np.concatenate(parts)).astype(np.int64)


def _rows_by_class(codes: Array) -> list[Array]:
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
