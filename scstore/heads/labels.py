"""Labels to learn from: what is refused, and how the rest is numbered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from scstore.cells.labels import missing_labels
from scstore.errors import LabelsError
from scstore.heads.rows import Array

__all__ = ["Labels", "encode_known_labels", "encode_labels"]


@dataclass(frozen=True)
class Labels:
    """Labels as numbers.

    Attributes
    ----------
    classes
        ``(c,)`` distinct labels, sorted.
    codes
        ``(n,) int64`` place of each cell's label in ``classes``.
    """

    classes: Array
    codes: Array


def encode_labels(y: Any, n_rows: int) -> Labels:
    """Check one label per row and number the classes.

    Raises
    ------
    LabelsError
        If ``y`` is None, of another length, has missing values, fewer than two cells or classes, or is no set of
        classes.
    """
    values = _check_labels(y, n_rows)
    if n_rows < 2:
        msg = f"y: {n_rows} labelled cells (n_samples = {n_rows}); a head needs at least 2, of different classes."
        raise LabelsError(msg)
    try:
        check_classification_targets(values)
        classes, codes = np.unique(values, return_inverse=True)
    except TypeError as error:
        msg = f"y: labels of mixed types cannot be sorted ({error}). Turn them all into text."
        raise LabelsError(msg) from error
    except ValueError as error:
        msg = f"y: {error} Labels must be names or whole numbers, not measurements."
        raise LabelsError(msg) from error
    if len(classes) < 2:
        msg = f"y: one class only ({classes[0]!r}), nothing to tell apart. Give cells of at least two classes."
        raise LabelsError(msg)
    if classes.dtype.kind == "O" and all(isinstance(label, str) for label in classes):
        classes = np.array(classes.tolist())
    return Labels(classes, codes.astype(np.int64))


def encode_known_labels(y: Any, n_rows: int, classes: Array) -> Labels:
    """Check one label per row and number them by classes that are known already.

    Parameters
    ----------
    classes
        ``(c,)`` distinct labels, sorted.

    Raises
    ------
    LabelsError
        If ``y`` is None, of another length, has missing values, or a label that is none of ``classes``.
    """
    values = _check_labels(y, n_rows)
    try:
        known = values.astype(str) if classes.dtype.kind == "U" else values.astype(classes.dtype)
        places = np.searchsorted(classes, known)
        places[places == len(classes)] = 0
        strange = classes[places] != known
    except (TypeError, ValueError) as error:
        msg = f"y: labels of another kind than the head's classes ({error}). Give labels such as {classes[0]!r}."
        raise LabelsError(msg) from error
    if strange.any():
        msg = (
            f"y: {known[strange].tolist()[0]!r} is none of the head's {len(classes)} classes. A new class needs all "
            "cells: fit the head again."
        )
        raise LabelsError(msg)
    return Labels(classes, places.astype(np.int64))


def _check_labels(y: Any, n_rows: int) -> Array:
    """One label a row, ``(n,)``, none of them missing."""
    if y is None:
        msg = "fit requires y to be passed, but the target y is None: give one label per cell."
        raise LabelsError(msg)
    values: Array = column_or_1d(y, warn=True)
    if len(values) != n_rows:
        msg = f"y: {len(values):,} labels for {n_rows:,} cells. Give exactly one label per cell."
        raise LabelsError(msg)
    if (missing := missing_labels(values)).any():
        msg = (
            f"y: {int(missing.sum()):,} of {n_rows:,} labels are missing (first: row {int(np.argmax(missing)):,}). "
            f"Leave those cells out of training, or label them."
        )
        raise LabelsError(msg)
    return values
