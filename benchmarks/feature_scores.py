"""Scores of what rows said of the test cells of several pairs, and how far two rows lie apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from scstore.evaluation.conclusion import Difference, paired_difference


@dataclass(frozen=True)
class Answers:
    """What a row said of the test cells of one pair.

    Attributes
    ----------
    uses
        ``model``, ``gene texts``, ``nothing``, or ``control``.
    truth
        ``(n,)`` text.
    predicted
        ``(runs, n)`` text, empty where the row has nothing to say of a cell: that counts as wrong.
    """

    uses: str
    truth: np.ndarray
    predicted: np.ndarray

    @cached_property
    def macro_f1(self) -> float:
        """Over the labels of the test cells; mean over runs."""
        labels = np.unique(self.truth)
        found = [f1_score(self.truth, run, labels=labels, average="macro", zero_division=0) for run in self.predicted]
        return float(np.mean(found))

    @cached_property
    def accuracy(self) -> float:
        """Mean over runs."""
        return float(np.mean([accuracy_score(self.truth, run) for run in self.predicted]))


@dataclass(frozen=True)
class Gain:
    """Mean macro-F1 of a row less that of another, with a 95 % interval.

    Attributes
    ----------
    mean, low, high
        Over the pairs.
    by_pair
        Of each.
    """

    mean: float
    low: float
    high: float
    by_pair: tuple[float, ...]

    @property
    def words(self) -> str:
        """``+0.012 [−0.004, +0.028]``."""
        return self._difference.words

    @property
    def verdict(self) -> str:
        """Whether the cells show a difference."""
        return self._difference.verdict

    @property
    def _difference(self) -> Difference:
        return Difference(self.mean, self.low, self.high, n_cells=0, n_groups=None)


def gain(rows: list[Answers], baselines: list[Answers]) -> Gain:
    """How much better rows are than baselines, one of each a pair.

    Cells are drawn within the pairs, and the pairs stay as they are: five pairs that share donors and cells are too
    few, and not independent enough, to say what a sixth would show. So the interval is about these data sets. Those of
    the pairs (a paired bootstrap) are joined by the squares of their arms, upper and lower apart: Zou and Donner 2008
    (doi 10.1002/sim.3095).
    """
    found = []
    for row, base in zip(rows, baselines, strict=True):
        truth = np.broadcast_to(row.truth, row.predicted.shape)
        sides = np.stack([truth, row.predicted, base.predicted])
        names = np.unique(sides)
        found.append(paired_difference(*np.searchsorted(names, sides)))
    mean = float(np.mean([one.mean for one in found]))
    below = np.linalg.norm([one.mean - one.low for one in found]) / len(found)
    above = np.linalg.norm([one.high - one.mean for one in found]) / len(found)
    return Gain(mean, mean - float(below), mean + float(above), tuple(one.mean for one in found))


def mean_f1(rows: list[Answers]) -> float:
    """Mean of macro-F1 over the pairs."""
    return float(np.mean([row.macro_f1 for row in rows]))
