"""Whether a row is better than another, by a paired bootstrap of macro-F1, and what a table says in plain words.

Cells, or whole groups of them, are drawn with replacement, and both are scored on the same draw (Efron and Tibshirani
1993; Field and Welsh 2007). For few units percentile intervals are too narrow: both ends are moved away from the mean
by ``t(n - 1) / z · √(n / (n - 1))`` (Hesterberg 2015): 2.7 for 3 groups, 1.2 for 10, next to nothing for many.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats

from scstore.evaluation.design import ACROSS_RANDOM, DEFAULT, REGRESSION, EvaluationRow
from scstore.evaluation.runs import Scored
from scstore.heads.across_genes import KIND
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
        return np.asarray(np.mean([first(weights) - second(weights) for first, second in scorers], axis=0))

    rng, n_units = np.random.default_rng(seed), int(drawn.sum())
    step = max(1, BLOCK_VALUES // len(drawn))
    draws = [
        mean_difference(rng.multinomial(n_units, drawn / n_units, size=min(step, n_resamples - first)))
        for first in range(0, n_resamples, step)
    ]
    ends = np.quantile(np.concatenate(draws), [1 - UPPER, UPPER])
    mean = float(mean_difference(drawn[None, :])[0])
    stretch = 1.0  # how much wider an interval of so few units has to be
    if n_units > 1:
        stretch = stats.t.ppf(UPPER, n_units - 1) / stats.norm.ppf(UPPER) * np.sqrt(n_units / (n_units - 1))
    low, high = np.clip(mean + (ends - mean) * stretch, -1, 1).tolist()
    return Difference(mean, low, high, int(scored.sum()), n_groups)


def _macro_f1(truth: Array, codes: Array, *, unit: Array, shape: tuple[int, int]) -> Callable[[Array], Array]:
    """Return macro-F1 ``(draws,)``, over the classes that a draw has, as a function of how often units are drawn."""
    scored = truth >= 0

    def count(values: Array, which: Array) -> sparse.csr_matrix:
        return sparse.csr_matrix((np.ones(int(which.sum())), (unit[which], values[which])), shape=shape)

    true, hits, named = count(truth, scored), count(codes, scored & (codes == truth)), count(codes, scored)

    def of_draws(weights: Array) -> Array:
        support = weights @ true
        f1 = 2 * (weights @ hits) / np.maximum(support + weights @ named, 1)
        return np.asarray(np.where(support > 0, f1, 0).sum(axis=1) / np.maximum((support > 0).sum(axis=1), 1))

    return of_draws


# Rows of gene texts, and the same with random vectors.
OF_RANDOM = {"genept": "genept_random", "genept+X": "genept_random+X", KIND: ACROSS_RANDOM}
SUBJECTS = {"model": "the language model", "gene texts": "text about the genes"}
NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@dataclass(frozen=True)
class RowComparison:
    row: str
    baseline: str
    # no model: against the baseline without one; default: against its expression alone; random vectors; or control
    why: str
    difference: Difference  # of macro-F1 over all held-out cells together


def pairs_to_compare(rows: Sequence[EvaluationRow]) -> list[tuple[str, str, str]]:
    """Return rows, baselines and reasons: what is compared is fixed before anybody looks."""
    names, baseline = [row.name for row in rows], baseline_row(rows)
    pairs = [(name, baseline, "no model") for name in names if baseline not in (None, name)]
    named = [(DEFAULT, "X", "default"), *((*pair, "random vectors") for pair in OF_RANDOM.items())]
    pairs += [(row, other, why) for row, other, why in named if {row, other} <= set(names) and other != baseline]
    pairs += [
        (own.name, row.name, "control")
        for row in rows
        for own in rows
        if row.control and not own.control and (own.views, own.optional) == (row.views, row.optional)
    ]
    return pairs


def baseline_row(rows: Iterable[EvaluationRow]) -> str | None:
    """Return the row that the others are compared with: the regression, else expression, else the first control."""
    nothing = [row.name for row in rows if row.uses == "nothing" and not row.seen]
    return next((name for name in (REGRESSION, "X", *nothing) if name in nothing), None)


def main_row(scored: Scored, uses: str) -> str | None:
    """Return the default row if it uses that, else the best of those that do; no row that has seen the labels."""
    means = scored.scores.groupby("row")["macro_f1"].mean()
    mine = [row.name for row in scored.rows if row.uses == uses and not row.seen]
    return DEFAULT if DEFAULT in mine else max(mine, key=lambda name: means[name], default=None)


def conclude(scored: Scored, comparisons: Sequence[RowComparison], *, unit: str) -> tuple[str, tuple[str, ...]]:
    """Return the conclusion, and a sentence with its interval for each pair behind it; ``unit`` names the groups."""
    against = {(c.row, c.why): c for c in comparisons}
    told: dict[str, RowComparison] = {}
    for uses in ("model", "embedding", "gene texts"):
        c = against.get((main_row(scored, uses) or "", "no model"))
        if c is not None:
            own = against.get((c.row, "default"), c)
            # a gain that the default's own expression has as well is the head's
            told[uses] = own if c.difference.is_gain and not own.difference.is_gain else c
    words = {row.name: row.words for row in scored.rows}
    pairs = dict.fromkeys((*told.values(), *(c for c in comparisons if c.why != "no model")))
    says = [f"{words[c.row]} against {words[c.baseline]}: {c.difference.words}: {c.difference.verdict}" for c in pairs]
    first = [_in_words(c, scored, SUBJECTS.get(uses, c.row), unit) for uses, c in told.items()][:1]
    if (c := next(iter(told.values()), None)) is not None and c.difference.is_gain:
        first += [_beside_control(k, scored) for k in comparisons if (k.row, k.why) == (c.row, "control")]
    if "model" not in told and any(row.uses == "model" and row.seen for row in scored.rows):
        first.insert(0, "What the language model adds cannot be told from these cells, whose labels chose its genes.")
    if not first:
        missing = "without the model" if baseline_row(scored.rows) is None else "with the model"
        first = [f"This table has no row {missing}, so it does not say what the model adds."]
    return " ".join(first), tuple(says)


def _in_words(c: RowComparison, scored: Scored, subject: str, unit: str) -> str:
    means, d = scored.scores.groupby("row")["macro_f1"].mean(), c.difference
    values = [float(means[row]) for row in (c.row, c.baseline)]
    digits = 2 if d.is_nothing or abs(values[0] - values[1]) >= TOO_SMALL else 3
    first, second = (f"{value:.{digits}f}".removeprefix("0") for value in values)
    f1, groups = f"F1 {first} with it, {second} without it", _counted(d.n_groups, unit)
    rows = {row.name: row for row in scored.rows}
    row, counted = rows[c.row], f"{groups or f'{d.n_cells:,} cells'}."
    if row.name in scored.kept and not any(scored.kept[row.name].get(view) for view in row.reads(row.uses)):
        left_out = f"{subject} adds nothing: the default head leaves it out in every fold"
        return f"On your cells {left_out}. F1 {first}, against {second} of {rows[c.baseline].words}; {counted}"
    if d.too_few_groups:
        are = "is" if d.n_groups == 1 else "are"
        return f"{groups[0].upper()}{groups[1:]} {are} too few to tell whether {subject} helps: {f1}."
    if d.is_nothing:
        small = abs(d.mean) < TOO_SMALL
        effect = f"{subject} makes no difference" if small else f"no difference can be shown for {subject}"
    else:
        effect = f"{subject} {'helps' if d.is_gain else 'does not help'}"
    return f"On your cells {effect}: {f1}; {counted}"


def _beside_control(c: RowComparison, scored: Scored) -> str:
    control = next(row.control for row in scored.rows if row.name == c.baseline)
    mean = scored.scores.groupby("row")["macro_f1"].mean()[c.baseline]
    f1 = f"the control {control} (F1 {mean:.2f})".replace("0.", ".", 1)
    if c.difference.is_gain:
        return f"It is ahead of {f1} as well: what that makes meaningless counts."
    return f"It is not ahead of {f1}: what that makes meaningless is not the reason."


def _counted(n: int | None, unit: str) -> str:
    """Return ``three donors``, ``12 groups (donor_id)``; nothing without groups."""
    if n is None:
        return ""
    number = NUMBERS[n] if n < len(NUMBERS) else f"{n:,}"
    if not unit.isalpha():
        return f"{number} group{'' if n == 1 else 's'} ({unit})"
    return f"{number} {unit}{'' if n == 1 else 'es' if unit.endswith(('s', 'x', 'ch', 'sh')) else 's'}"
