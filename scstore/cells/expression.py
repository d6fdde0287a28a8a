"""Where an input holds its expression, on which scale, and reading it as log-normalised values.

Counts become counts per 10,000 of the cell, then ``log1p``: what scanpy's ``normalize_total(target_sum=1e4)`` and
``log1p`` give. Each cell is computed from its own values alone. A sample shows the scale: where all genes are there,
counts add up to one number in every cell; divided by the smallest of its cell, each is whole.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scstore.cells.opening import CellFile
from scstore.errors import CellsError, CellsWarning, show
from scstore.progress import Reporter

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
        Scale(NATURAL, np.expm1, 700.0, math.e),  # before arcsinh, which is the same but for small values
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


LARGEST_LOG = 20.0  # log-normalised values are smaller: log1p of half a billion counts
SEARCHED = ("X", "layers/counts", "raw")  # where raw counts are looked for, in this order
RUNS, RUN_ROWS = 16, 32  # a sample is so many runs of so many neighbouring rows: few reads, yet from everywhere


@dataclass(frozen=True)
class ExpressionSlot:
    """The slot that expression is read from, and how it becomes log-normalised counts per 10,000."""

    slot: str  # "X", "layers/NAME" or "raw"
    kind: str  # "counts", which are normalised as they are read, or "lognorm"
    fractional: bool = False  # counts need not be integers (ambient-RNA correction, pseudo-counts)
    scale: str | None = None  # key of SCALES, of values that are undone and normalised anew
    remark: str = ""  # for the user

    def report(self, name: str, cells: CellFile, progress: Reporter) -> None:
        size = f"{cells.n_cells:,} cells × {len(cells.var(self.slot)):,} genes"
        progress.note(f"cells: {name}: {size}, {self.kind} from {self.slot}")
        for line in cells.notes(self.slot):
            progress.note(line)
        if self.remark:
            progress.warn(f"{name}: {self.slot} {self.remark}", CellsWarning)


@dataclass(frozen=True)
class _Look:
    """What a sample of a slot suggests, as a kind and as the end of a sentence, and the scale that can be undone."""

    kind: str
    words: str
    scale: str | None = None
    remark: str = ""


# Kinds that are taken where counts, corrected counts and log-normalised values are declared; the last needs that.
WHOLE, CORRECTED = ("counts",), ("fractional", "unclear", "linear")
LOGARITHMS, DECLARED = ("lognorm", "rescaled", "linear"), "unclear"


def find_expression(
    cells: CellFile,
    *,
    expression: str = "counts",
    slot: str | None = None,
    allow_fractional: bool = False,
    declared: bool = True,
) -> ExpressionSlot:
    """Find the slot of counts or log-normalised values by a sample; undeclared, only what is recognised."""
    order: tuple[str, ...] = SEARCHED if expression == "counts" else ("X", "raw")
    if slot is not None:
        cells.matrix(slot)
        order = (slot,)
    present = [name for name in order if name in cells.slots and cells.slots[name].shape[1]]
    looks = {name: _look_at(cells, name) for name in present}
    fractional = expression == "counts" and allow_fractional
    if expression == "lognorm" and slot is None and "X" in looks and looks["X"].kind == "counts":
        cure = "Leave out expression='lognorm', or name the slot with slot=."
        raise CellsError(f"{cells.source}: X holds counts, not log-normalised values as declared. {cure}")
    passes: list[tuple[str, ...]] = [WHOLE, CORRECTED] if fractional else [WHOLE]
    if expression == "lognorm":
        passes = [(*LOGARITHMS, DECLARED) if declared else LOGARITHMS]
    for kinds in passes:
        for name, look in looks.items():
            if look.kind in kinds:
                undone = (look.scale, look.remark) if expression == "lognorm" else (None, "")
                return ExpressionSlot(name, expression, fractional, *undone)
    # a sample without a single value is taken where there is nothing else: reading checks what it turns out to be
    others = {name: _look_at(cells, name) for name in cells.slots if name not in looks}
    seen = looks if slot is not None else looks | others
    if looks and all(look.kind == "zeros" for look in seen.values()):
        return ExpressionSlot(next(iter(looks)), expression, fractional)
    if unread := [look.words for look in looks.values() if look.kind == "unread"]:
        raise CellsError(unread[0])
    found = "; ".join(f"{name} {look.words}" for name, look in looks.items()) or "there is neither X nor raw"
    what = "raw counts" if expression == "counts" else "log-normalised values"
    raise CellsError(f"{cells.source}: no {what} found: {found}. {_cure(looks, others, expression)}")


def _cure(looks: dict[str, _Look], others: dict[str, _Look], expression: str) -> str:
    """Return what to do about an input without what was declared, from its looks and those of its other slots."""
    by_kind = {look.kind: name for name, look in reversed(looks.items())}
    if expression == "lognorm":
        if "counts" in by_kind:
            return "Leave out expression='lognorm' to start from the counts."
        if "other" in by_kind:
            return "Genes were removed, so it cannot be rescaled: give all genes, the counts, or natural logarithms."
        return "Name the slot that holds them with slot=, or start from counts (corrected: allow_fractional=True)."
    if counts := [name for name, look in others.items() if look.kind == "counts"]:
        choices = " or ".join(f"slot='{name}'" for name in counts)
        return f"There are counts in {', '.join(counts)}: if they are the raw counts, set {choices}."
    if "linear" in by_kind:
        return "Accept them with allow_fractional=True: every cell is scaled to 10,000 anyway."
    corrected = "If they are corrected counts (SoupX, CellBender, …), accept them with allow_fractional=True"
    if "fractional" in by_kind:
        return f"{corrected}."
    for kind in ("lognorm", "rescaled", "unclear"):
        if (name := by_kind.get(kind)) is not None:
            named = "" if name in ("X", "raw") else f" and slot='{name}'"
            if kind == "unclear":
                return f"{corrected}; if they are log-normalised, declare that with expression='lognorm'{named}."
            return f"If {name} is log-normalised, declare that with expression='lognorm'{named}."
    return "Give a file with raw counts; log-normalised values (not scaled ones) are read with expression='lognorm'."


def _look_at(cells: CellFile, slot: str) -> _Look:
    """Look at a sample of a slot; single values that are NaN, infinite or negative do not change the kind."""
    matrix, n, size = cells.matrix(slot), cells.n_cells, RUN_ROWS
    starts = np.linspace(0, n - RUN_ROWS, RUNS).round().astype(int).tolist()
    if n <= RUNS * RUN_ROWS:
        starts, size = [0], n
    numbers = np.concatenate([np.arange(start, start + size) for start in starts])
    try:
        rows = sparse.vstack([matrix.rows(start, start + size) for start in starts], format="csr")
    except CellsError as error:  # a slot that is not used does not decide
        return _Look("unread", str(error))
    if rows.dtype.kind == "f":
        rows.data[~np.isfinite(rows.data)] = 0
    rows.eliminate_zeros()
    values = rows.data
    if not len(values):
        return _Look("zeros", "holds nothing but zeros in the rows looked at")
    largest, is_fraction = float(values.max()), values != np.floor(values)
    if not is_fraction.any():
        return _Look("counts", f"holds integers (largest {largest:,.0f})")
    odd = values < 0 if values.min() < 0 else is_fraction
    place = f"{values[odd.argmax()]:.9g} in {_place(cells, slot, numbers, rows, int(odd.argmax()))}"
    if values.min() < 0:
        return _Look("scaled", f"holds negative values ({place}), as scaled data does")
    found = recognise(rows)
    if found is not None and (look := _recognised(found, rows)) is not None:
        return look
    words = f"holds values that are not integers ({place}; largest {largest:,.6g})"
    if found is not None or largest > LARGEST_LOG:
        return _Look("fractional", words)
    if sums_above_target(rows):
        return _Look("fractional", f"{words}; as logarithms they would be of more than 10,000 a cell")
    return _Look("unclear", words)


def _recognised(found: Recognised, rows: sparse.csr_matrix) -> _Look | None:
    """Return the look of values on a scale that was recognised; ``None`` for counts times a factor."""
    scale, total = found.scale, found.total
    if scale.name == NATURAL and found.is_per_ten_thousand:
        return _Look("lognorm", "looks log-normalised (natural logarithms of counts per 10,000)")
    if scale.name == LINEAR and total is None:
        return None
    of = "counts" if found.is_unscaled else "values that differ in their sum"
    if total is not None:
        of = f"values that add up to {total:{',.0f' if total > 10 else '.3g'}} in every cell"
    words = f"holds {of}, as CPM and TPM are," if scale.name == LINEAR else f"holds {scale.name} of {of}"
    if total is not None or found.is_unscaled or (scale.base and rows.shape[1] >= ALL_GENES):
        remark = f"{words}: read as natural logarithms of counts per 10,000 in each cell"
        return _Look("linear" if scale.name == LINEAR else "rescaled", words, scale.name, remark)
    if scale.name == NATURAL and not sums_above_target(rows):
        remark = "is log-normalised to another sum than 10,000 a cell, which cannot be undone, since genes are missing"
        remark += ": its values are not quite those of other data. Better give the counts, or all genes."
        return _Look("lognorm", f"{words}, with genes missing", None, remark)
    cure = f": adata.X = adata.X * {np.log(scale.base):.9f} makes them natural" if scale.base not in (0, math.e) else ""
    return _Look("other", f"{words}, with genes missing{cure}")


def _place(cells: CellFile, slot: str, numbers: NDArray[np.int64], rows: sparse.csr_matrix, at: int) -> str:
    row = int(np.searchsorted(rows.indptr, at, side="right")) - 1
    gene = cells.genes[slot].var.index[int(rows.indices[at])]
    return f"cell {show(cells.obs.index[numbers[row]])}, gene {show(gene)}"


def lognorm_rows(
    cells: CellFile, slot: ExpressionSlot, *, chunk_rows: int = 4096, groups: NDArray[np.int64] | None = None
) -> Iterator[tuple[int, sparse.csr_matrix]]:
    for start in range(0, cells.n_cells, chunk_rows):
        yield start, lognorm_block(cells, slot, start, start + chunk_rows, groups=groups)


def lognorm_block(
    cells: CellFile, slot: ExpressionSlot, start: int, stop: int, *, groups: NDArray[np.int64] | None = None
) -> sparse.csr_matrix:
    """Return ``(n, n_genes of the slot)`` float32 log-normalised expression of some cells, without zeros."""
    stored = cells.matrix(slot.slot).rows(start, min(stop, cells.n_cells))
    _check_values(stored, cells=cells, slot=slot, start=start)
    # One dtype from here on: integers and floats of any width then give the same bits.
    rows = stored.astype(np.float64)
    rows.eliminate_zeros()
    if slot.scale is not None:
        rows.data = SCALES[slot.scale].undo(rows.data)
    is_linear = slot.kind == "counts" or slot.scale is not None
    if groups is not None:  # the column that the counts of each one are added to
        repeated = np.bincount(groups, minlength=len(groups)) > 1
        if not is_linear:  # logarithms of one gene's columns are undone, added up, and taken again
            np.expm1(rows.data, out=rows.data, where=repeated[groups[rows.indices]])
        rows = sparse.csr_matrix((rows.data, groups[rows.indices], rows.indptr), shape=rows.shape)
        rows.sum_duplicates()
        if not is_linear:
            np.log1p(rows.data, out=rows.data, where=repeated[rows.indices])
    if is_linear:
        _normalise(rows)
    rows = rows.astype(np.float32)
    rows.eliminate_zeros()
    return rows


def _normalise(rows: sparse.csr_matrix) -> None:
    cell = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    # added up one by one, so that a cell's total does not depend on its place in the block
    totals = np.bincount(cell, weights=rows.data, minlength=rows.shape[0])
    # divided first: the reciprocal of a tiny total of fractional counts could overflow
    rows.data /= totals[cell]
    rows.data *= TARGET_SUM
    np.log1p(rows.data, out=rows.data)


def _check_values(rows: sparse.csr_matrix, *, cells: CellFile, slot: ExpressionSlot, start: int) -> None:
    """Refuse values that are not expression: every value that is read passes here."""
    values = rows.data
    limit = LARGEST_COUNT if slot.kind == "counts" else SCALES[slot.scale or NATURAL].limit
    bad: NDArray[Any] = np.zeros(0, dtype=bool)
    if values.dtype.kind == "f":
        bad = ~((values >= 0) & (values <= limit))  # NaN fails every comparison
        if slot.kind == "counts" and not slot.fractional:
            bad |= values != np.floor(values)
    elif values.dtype.kind == "i":
        bad = values < 0
    if not bad.any():
        return
    at = int(bad.argmax())
    value = values[at]
    if np.isnan(value) or value > limit:
        fault = "is NaN" if np.isnan(value) else f"is {value:g}"
        cure = "Repair or remove the cell, or take another slot with slot=."
    elif value < 0:
        fault, cure = f"is negative ({value:g})", "Scaled or corrected values cannot be used: set another slot=."
    else:
        fault = f"is not an integer ({value:.9g})"
        cure = "Take the slot with raw counts (slot=), or accept corrected counts with allow_fractional=True."
    place = _place(cells, slot.slot, start + np.arange(rows.shape[0]), rows, at)
    raise CellsError(f"{cells.source}: {place}: the value in {slot.slot} {fault}. {cure}")
