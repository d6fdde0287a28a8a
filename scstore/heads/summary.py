"""The answer of a head, cell by cell, read off its probabilities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scstore.heads.rows import Array

__all__ = ["Summary", "summarise"]


class Summary(NamedTuple):
    """The answer for each cell.

    Attributes
    ----------
    label
        ``(n,)`` the class.
    confidence
        ``(n,) float64`` its probability.
    margin
        ``(n,) float64`` how far ahead it is of the best other one; negative where a coarser label overruled that.
    """

    label: Array
    confidence: Array
    margin: Array


def summarise(proba: Array, classes: Array, *, chosen: Array | None = None) -> Summary:
    """Label, confidence and margin of each cell.

    Parameters
    ----------
    proba
        ``(n, n_classes)``, at least two classes.
    classes
        Their names.
    chosen
        ``(n,)`` the class of each cell; the most probable by default, of equal ones the first.
    """
    best = (proba.argmax(axis=1) if len(proba) else np.zeros(0, dtype=np.int64)) if chosen is None else chosen
    rows = np.arange(len(proba))
    others = proba.copy()
    others[rows, best] = -np.inf
    first = proba[rows, best]
    return Summary(np.asarray(classes)[best], first, first - others.max(axis=1, initial=-np.inf))
