"""Whether one classifier is better than another on the same cells: a paired bootstrap of macro-F1.

Cells, or whole groups of them, are drawn with replacement, and both are scored on the same draw (Efron and Tibshirani
1993; Field and Welsh 2007). For few units percentile intervals are too narrow: both ends are moved away from the mean
by ``t(n - 1) / z · √(n / (n - 1))`` (Hesterberg 2015): 2.7 for 3 groups, 1.2 for 10, next to nothing for many.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats

from scstore.heads.rows import Array

# An interval over fewer groups than that is not shown, and gives no verdict.
MIN_GROUPS = 5
TOO_SMALL = 0.01  # a difference of macro-F1 that means nothing
N_RESAMPLES, UPPER = 2000, 0.975
BLOCK_VALUES = 1 << 22  # weights of drawn units held at a time


@dataclass(frozen=True)
class Difference:
    """Macro-F1 of one classifier less that of another, with the bounds of its interval."""

    mean: float  # over all scored cells together, mean over runs
    low: float
    high: float
    n_cells: int  # that are scored
    n_groups: int | None  # drawn where there are two or more

    @property
    def too_few_groups(self) -> bool:
        """Whether there are groups, but fewer than an interval or a verdict needs."""
        return self.n_groups is not None and self.n_groups < MIN_GROUPS

    @property
    def is_nothing(self) -> bool:
        """Whether the interval contains zero; without one, whether the difference is below a hundredth."""
        return abs(self.mean) < TOO_SMALL if self.too_few_groups else self.low <= 0 <= self.high

    @property
    def is_gain(self) -> bool:
        return self.mean > 0 and not self.is_nothing

    @property
    def words(self) -> str:
        """``+0.012 [−0.004, +0.028]``; of too few groups ``+0.012``."""
        mean, low, high = (f"{value:+.3f}".replace("-", "−") for value in (self.mean, self.low, self.high))
        return mean if self.too_few_groups else f"{mean} [{low}, {high}]"

    @property
    def verdict(self) -> str:
        if self.too_few_groups:
            return f"no verdict, since {self.n_groups} group(s) are too few; {MIN_GROUPS} are needed"
        if self.is_nothing:
            return "nothing that these cells can show"
        return "a gain that these cells show" if self.is_gain else "a loss that these cells show"


def paired_difference(
    truth: Array,
    predicted: Array,
    baseline: Array,
    *,
    groups: Array | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Return the difference of macro-F1 with its 95 % interval; class numbers are ``(runs, n)``, -1 if not scored."""
    scored = (truth >= 0).any(axis=0)
    sides = [part[:, scored] for part in (truth, predicted, baseline)]
    n_classes = 1 + max(int(part.max(initial=0)) for part in sides)
    # Cells that both classifiers treat alike are interchangeable: to draw their number is to draw them.
    patterns, drawn = np.unique(np.concatenate(sides), axis=1, return_counts=True)
    unit, n_groups = np.arange(patterns.shape[1]), None
    if groups is not None:
        names, place = np.unique(groups[scored], return_inverse=True)
        n_groups = len(names)
    if n_groups is not None and n_groups > 1:
        unit, drawn = place, np.ones(n_groups, dtype=np.int64)
    else:
        sides = np.split(patterns, 3)
    shape = len(drawn), n_classes
    scorers = [
        [_macro_f1(true, codes, unit=unit, shape=shape) for codes in pair] for true, *pair in zip(*sides, strict=True)
    ]

    def mean_difference(weights: Array) -> Array:
        mean: Array = np.mean([first(weights) - second(weights) for first, second in scorers], axis=0)
        return mean

    rng, n_units = np.random.default_rng(seed), int(drawn.sum())
    step = max(1, BLOCK_VALUES // len(drawn))
    draws = [
        mean_difference(rng.multinomial(n_units, drawn / n_units, size=min(step, n_resamples - first)))
        for first in range(0, n_resamples, step)
    ]
    ends = np.quantile(np.concatenate(draws), [1 - UPPER, UPPER])
    mean = float(mean_difference(drawn[None, :])[0])
    low, high = np.clip(mean + (ends - mean) * _stretch(n_units), -1, 1).tolist()
    return Difference(mean, low, high, int(scored.sum()), n_groups)


def _stretch(n: int) -> float:
    """Return how much wider an interval of so few units has to be."""
    return 1.0 if n < 2 else float(stats.t.ppf(UPPER, n - 1) / stats.norm.ppf(UPPER) * np.sqrt(n / (n - 1)))


def _macro_f1(truth: Array, codes: Array, *, unit: Array, shape: tuple[int, int]) -> Callable[[Array], Array]:
    """Return macro-F1 ``(draws,)``, over the classes that a draw has, as a function of how often units are drawn."""
    scored = truth >= 0

    def count(values: Array, which: Array) -> sparse.csr_matrix:
        return sparse.csr_matrix((np.ones(int(which.sum())), (unit[which], values[which])), shape=shape)

    true, hits, named = count(truth, scored), count(codes, scored & (codes == truth)), count(codes, scored)

    def of_draws(weights: Array) -> Array:
        support = weights @ true
        f1 = 2 * (weights @ hits) / np.maximum(support + weights @ named, 1)
        result: Array = np.where(support > 0, f1, 0).sum(axis=1) / np.maximum((support > 0).sum(axis=1), 1)
        return result

    return of_draws
