"""Where an input holds its expression, and reading it as log-normalised values.

Counts become counts per 10,000 of the cell, then ``log1p``: what scanpy's ``normalize_total(target_sum=1e4)`` and
``log1p`` give. Each cell is computed from its own values alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scstore.cells.opening import CellFile
from scstore.errors import CellsError, show

# The sum that the counts of a cell are scaled to.
TARGET_SUM = 1e4

LARGEST_COUNT = float(np.finfo(np.float32).max)

# A larger number is not a logarithm: its exponential is infinite.
LARGEST_EXPONENT = 700.0

# Log-normalised values are smaller: log1p of half a billion counts.
LARGEST_LOG = 20.0

# Where raw counts are looked for, in this order.
SEARCHED = ("X", "layers/counts", "raw")

# A sample is so many runs of neighbouring rows: few reads, yet from everywhere.
RUNS = 16


@dataclass(frozen=True)
class ExpressionSlot:
    """The slot that expression is read from: ``"X"``, ``"layers/NAME"`` or ``"raw"``.

    ``kind`` is ``"counts"``, which are normalised as they are read, or ``"lognorm"``; ``fractional`` counts need not be
    integers (ambient-RNA correction, pseudo-counts).
    """

    slot: str
    kind: str
    fractional: bool = False


@dataclass(frozen=True)
class _Look:
    """What a sample of a slot's values suggests, as a kind and as the end of a sentence.

    ``counts`` are integers, ``lognorm`` other numbers up to :data:`LARGEST_LOG`, ``fractional`` larger ones too,
    ``scaled`` negative ones, ``zeros`` nothing.
    """

    kind: str
    words: str


def find_expression(
    cells: CellFile,
    *,
    expression: str = "counts",
    slot: str | None = None,
    allow_fractional: bool = False,
    sample_rows: int = 512,
) -> ExpressionSlot:
    """Find the slot that holds counts (or ``"lognorm"`` values), by looking at rows spread over the file.

    Raw counts are looked for in ``X``, ``layers/counts`` and ``raw``, in this order; integers stored as floats count.
    Log-normalised values are taken, when declared, from ``X``, else from ``raw`` (where scanpy keeps them when it
    scales ``X``). With ``slot`` only that slot is looked at. :func:`lognorm_rows` checks every value later. The error
    says what each slot holds and which option helps.
    """
    order: tuple[str, ...] = SEARCHED if expression == "counts" else ("X", "raw")
    if slot is not None:
        cells.matrix(slot)
        order = (slot,)
    present = [name for name in order if name in cells.slots and cells.slots[name].shape[1]]
    looks = {name: _look_at(cells, name, sample_rows=sample_rows) for name in present}
    accepted = [expression, "fractional"] if expression == "counts" and allow_fractional else [expression]
    if expression == "lognorm" and slot is None and "X" in looks and looks["X"].kind == "counts":
        cure = "Leave out expression='lognorm', or name the slot with slot=."
        raise CellsError(f"{cells.source}: X holds counts, not log-normalised values as declared. {cure}")
    # a sample without a single value is taken last: whatever it turns out to be is checked as it is read
    for kind in (*accepted, "zeros"):
        for name, look in looks.items():
            if look.kind == kind:
                return ExpressionSlot(name, expression, allow_fractional and expression == "counts")
    found = "; ".join(f"{name} {look.words}" for name, look in looks.items()) or "there is neither X nor raw"
    if expression == "counts":
        cure = _cure(cells, looks, sample_rows)
    elif any(look.kind == "counts" for look in looks.values()):
        cure = "Leave out expression='lognorm' to start from the counts."
    else:
        cure = "Name the slot that holds them with slot=."
    what = "raw counts" if expression == "counts" else "log-normalised values"
    raise CellsError(f"{cells.source}: no {what} found: {found}. {cure}")


def _cure(cells: CellFile, looks: dict[str, _Look], sample_rows: int) -> str:
    """Return what to do about an input without counts."""
    others = [name for name in cells.slots if name not in looks]
    others = [name for name in others if _look_at(cells, name, sample_rows=sample_rows).kind == "counts"]
    if others:
        choices = " or ".join(f"slot='{name}'" for name in others)
        return f"There are counts in {', '.join(others)}: if they are the raw counts, set {choices}."
    by_kind = {look.kind: name for name, look in reversed(looks.items())}
    if "fractional" in by_kind:
        return "If they are corrected counts (SoupX, CellBender, …), accept them with allow_fractional=True."
    if "lognorm" in by_kind:
        name = by_kind["lognorm"]
        named = "" if name in ("X", "raw") else f" and slot='{name}'"
        return f"If {name} is log-normalised, declare that with expression='lognorm'{named}."
    return "Give a file with raw counts; log-normalised values (not scaled ones) are read with expression='lognorm'."


def _look_at(cells: CellFile, slot: str, *, sample_rows: int) -> _Look:
    """Look at the first rows, the last, and runs between them.

    Single values that are NaN, infinite or negative among counts do not change the kind: reading names them.
    """
    matrix = cells.matrix(slot)
    n_cells = matrix.shape[0]
    run = max(1, -(-sample_rows // RUNS))
    starts = [round((n_cells - run) * i / (RUNS - 1)) for i in range(RUNS)] if n_cells > run * RUNS else [0]
    length = run if n_cells > run * RUNS else n_cells
    blocks = [(start, matrix.rows(start, start + length)) for start in sorted(set(starts))]
    values = np.concatenate([block.data for _, block in blocks])
    values = values[np.isfinite(values) & (values != 0)] if values.dtype.kind == "f" else values[values != 0]
    if not len(values):
        return _Look("zeros", "holds nothing but zeros in the rows looked at")
    largest = float(values.max())
    if values.dtype.kind in "iu" or bool((values == np.floor(values)).all()):
        return _Look("counts", f"holds integers (largest {largest:,.0f})")
    if values.min() < 0:
        place = _first(cells, slot, blocks, lambda data: data < 0)
        return _Look("scaled", f"holds negative values ({place}), as scaled data does")
    if largest <= LARGEST_LOG:
        return _Look("lognorm", f"looks log-normalised (not integers, largest {largest:.3g})")
    place = _first(cells, slot, blocks, lambda data: np.isfinite(data) & (data != np.floor(data)))
    return _Look("fractional", f"holds values that are not integers ({place}; largest {largest:,.6g})")


def _first(
    cells: CellFile, slot: str, blocks: list[tuple[int, sparse.csr_matrix]], wanted: Callable[[NDArray[Any]], Any]
) -> str:
    """Return the first value of a kind in a sample, and where it is."""
    start, block = next((start, block) for start, block in blocks if wanted(block.data).any())
    at = int(wanted(block.data).argmax())
    return f"{block.data[at]:.4g} in {_place(cells, slot, start, block, at)}"


def _place(cells: CellFile, slot: str, start: int, block: sparse.csr_matrix, at: int) -> str:
    row = int(np.searchsorted(block.indptr, at, side="right")) - 1
    gene = cells.genes[slot].var.index[int(block.indices[at])]
    return f"cell {show(cells.obs.index[start + row])}, gene {show(gene)}"


def lognorm_rows(
    cells: CellFile, slot: ExpressionSlot, *, chunk_rows: int = 4096, groups: NDArray[np.int64] | None = None
) -> Iterator[tuple[int, sparse.csr_matrix]]:
    """Yield the first row's number and ``(n, n_genes of the slot)`` float32 log-normalised expression, block by block.

    Column indices ascend, and there are no explicit zeros; a cell without counts is an empty row. ``groups`` gives for
    each column the one that its counts are added to, before the logarithm, for genes that occur more than once. The
    values do not depend on ``chunk_rows``. A :class:`CellsError` names the first cell and gene of which the value is
    NaN, infinite, negative or, among counts, not an integer.
    """
    for start in range(0, cells.n_cells, chunk_rows):
        yield start, lognorm_block(cells, slot, start, start + chunk_rows, groups=groups)


def lognorm_block(
    cells: CellFile, slot: ExpressionSlot, start: int, stop: int, *, groups: NDArray[np.int64] | None = None
) -> sparse.csr_matrix:
    """Read cells ``start`` to ``stop`` as :func:`lognorm_rows` does."""
    stored = cells.matrix(slot.slot).rows(start, min(stop, cells.n_cells))
    _check_values(stored, cells=cells, slot=slot, start=start)
    # One dtype from here on: integers and floats of any width then give the same bits.
    rows = stored.astype(np.float64)
    rows.eliminate_zeros()
    if groups is not None:
        repeated = np.bincount(groups, minlength=len(groups)) > 1
        if slot.kind == "lognorm":  # logarithms of one gene's columns are undone, added up, and taken again
            np.expm1(rows.data, out=rows.data, where=repeated[groups[rows.indices]])
        rows = sparse.csr_matrix((rows.data, groups[rows.indices], rows.indptr), shape=rows.shape)
        rows.sum_duplicates()
        if slot.kind == "lognorm":
            np.log1p(rows.data, out=rows.data, where=repeated[rows.indices])
    if slot.kind == "counts":
        _normalise(rows)
    rows = rows.astype(np.float32)
    rows.eliminate_zeros()
    return rows


def _normalise(rows: sparse.csr_matrix) -> None:
    """Turn counts into log1p(counts per 10,000), in place."""
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
    limit = LARGEST_COUNT if slot.kind == "counts" else LARGEST_EXPONENT
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
        fault = f"is not an integer ({value:g})"
        cure = "Take the slot with raw counts (slot=), or accept corrected counts with allow_fractional=True."
    place = _place(cells, slot.slot, start, rows, at)
    raise CellsError(f"{cells.source}: {place}: the value in {slot.slot} {fault}. {cure}")
