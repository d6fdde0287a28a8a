"""What the numbers of cells are: counts on which scale, recognised from a sample of cells.

Where all genes are there, what belongs to a cell's counts adds up to one number in every cell. Where genes were
removed sums mislead, but the counts still show: divided by the smallest of its cell, each is whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[Any]
TARGET_SUM = 1e4  # the sum that the counts of a cell are scaled to
LARGEST_COUNT = float(np.finfo(np.float32).max)
SAME = 0.005  # sums of cells that differ by less are the same: values are rounded, a few genes may be missing
ALL_GENES = 10_000  # slots of so many genes lack none that matters to a cell's sum
MOST_VALUES = 2_000_000  # values that are looked at: seven arrays of them are held
TELLING, ENOUGH = (1.5, 200.0), 20  # quotients between these tell whole numbers from others; so many are needed


@dataclass(frozen=True)
class Scale:
    """A function that programs apply to counts: its name, its inverse, and the largest value that can be undone."""

    name: str
    undo: Callable[[Array], Array]
    limit: float
    base: float = 0.0  # of a logarithm


NATURAL, LINEAR = "ln(x + 1)", "x"
SCALES = {
    scale.name: scale
    for scale in (
        Scale(LINEAR, np.copy, LARGEST_COUNT),  # before others: powers of whole numbers are whole
        Scale(NATURAL, np.expm1, 700.0, np.e),  # before arcsinh, which is the same but for small values
        Scale("log2(x + 1)", lambda values: np.expm1(values * np.log(2)), 1000.0, 2),
        Scale("log10(x + 1)", lambda values: np.expm1(values * np.log(10)), 300.0, 10),
        Scale("sqrt(x)", np.square, 1e18),
        Scale("arcsinh(x)", np.sinh, 700.0),
        Scale("ln(ln(x + 1) + 1)", lambda values: np.expm1(np.expm1(values)), 6.5),
    )
}


@dataclass(frozen=True)
class Recognised:
    """A scale, and what a cell's values add up to once it is undone, if that is the same in every cell."""

    scale: Scale
    total: float | None
    smallest: Array  # (n,): each cell's smallest value, undone: that of one count, where sums differ
    telling: float  # whether numbers above are whole is below the precision of the values

    @property
    def is_per_ten_thousand(self) -> bool:
        """Whether 10,000 is the sum that cells were scaled to: then it is a whole number of smallest values."""
        if self.total is not None:
            return abs(self.total / TARGET_SUM - 1) <= SAME
        counts = TARGET_SUM / self.smallest
        counts = counts[counts < self.telling]
        whole = np.abs(counts - np.rint(counts)) < 0.05
        if not len(counts) or whole.mean() <= 0.5:
            return not len(counts)
        # where all are multiples of 10, the sum was 1,000
        return len(counts) < 5 or int(np.gcd.reduce(np.rint(counts[whole]).astype(np.int64))) == 1

    @property
    def is_unscaled(self) -> bool:
        """Whether one count is 1 in most cells: nothing was divided by the cell's sum."""
        return self.total is None and bool((np.abs(self.smallest - 1) < 1e-3).mean() > 0.8)


def recognise(rows: sparse.csr_matrix) -> Recognised | None:
    """Recognise the scale of positive values of some cells ``(n, n_genes)``, which must not be counts themselves."""
    rows = rows[:: rows.nnz // MOST_VALUES + 1]
    with np.errstate(all="ignore"):
        is_half = bool((rows.data == rows.data.astype(np.float16)).all())
        telling = 50.0 if is_half else 50_000.0
        rows = rows[np.diff(rows.indptr) > 0].astype(np.float64)
        starts, lengths = rows.indptr[:-1], np.diff(rows.indptr)
        scales = [scale for scale in SCALES.values() if rows.nnz and rows.data.max() <= scale.limit]
        undone = [scale.undo(rows.data) for scale in scales]
        smallest = [np.minimum.reduceat(values, starts) for values in undone]
        totals = [_same_total(np.add.reduceat(values, starts)) for values in undone]
        if same := [(*found, i) for i, found in enumerate(totals) if found is not None]:
            _, total, best = min(same)  # small values are nearly their own logarithms: the closest sums decide
            return Recognised(scales[best], total, smallest[best], telling)
        for scale, values, least in zip(scales, undone, smallest, strict=True):
            if _are_whole(values / np.repeat(least, lengths)):
                return Recognised(scale, None, least, telling)
    return None


def sums_above_target(rows: sparse.csr_matrix) -> bool:
    """Whether natural logarithms belong to more than 10,000 in many cells: they are none of counts per 10,000."""
    rows = rows[np.diff(rows.indptr) > 0].astype(np.float64)
    return bool((np.add.reduceat(np.expm1(rows.data), rows.indptr[:-1]) > TARGET_SUM * (1 + SAME)).mean() > 0.05)


def _same_total(totals: Array) -> tuple[float, float] | None:
    """Return the middle one of cells' sums, and how far most are from it at the most, if they are the same."""
    middle = float(np.median(totals))
    spread = float(np.quantile(np.abs(totals / middle - 1), 0.95))
    usual = any(abs(middle / total - 1) <= SAME for total in (TARGET_SUM, 1e6))
    return (spread, middle) if spread <= SAME and (len(totals) > 2 or usual) else None


def _are_whole(quotients: Array) -> bool:
    telling = quotients[(quotients > TELLING[0]) & (quotients < TELLING[1])]
    return len(telling) >= ENOUGH and bool((np.abs(telling - np.rint(telling)) < 0.02).mean() > 0.8)
