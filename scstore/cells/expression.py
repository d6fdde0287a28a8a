"""Where an input holds its expression, and reading it as log-normalised values.

Counts become counts per 10,000 of the cell, then ``log1p``: what scanpy's ``normalize_total(target_sum=1e4)``
and ``log1p`` give. Each cell is computed from its own values alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scstore.cells.cell_file import CellFile
from scstore.cells.sampling import Look, look_at
from scstore.errors import CellsError, OptionError
from scstore.escaping import show

__all__ = ["TARGET_SUM", "ExpressionSlot", "find_expression", "lognorm_block", "lognorm_rows"]

TARGET_SUM = 1e4
"""What the counts of a cell are scaled to sum to."""

LARGEST_COUNT = float(np.finfo(np.float32).max)

LARGEST_EXPONENT = 700.0
"""Past this a number is no logarithm: its exponential is infinite."""

SEARCHED = ("X", "layers/counts", "raw")
"""Where raw counts are looked for, in this order."""


@dataclass(frozen=True)
class ExpressionSlot:
    """The slot that expression is read from.

    Attributes
    ----------
    slot
        ``"X"``, ``"layers/NAME"`` or ``"raw"``.
    kind
        ``"counts"``, which are normalised as they are read, or ``"lognorm"``, which are taken as they are.
    fractional
        Whether the user allowed counts that are no integers (ambient-RNA correction, pseudo-counts).
    """

    slot: str
    kind: str
    fractional: bool = False


def find_expression(
    cells: CellFile,
    *,
    expression: str = "counts",
    slot: str | None = None,
    allow_fractional: bool = False,
    sample_rows: int = 512,
) -> ExpressionSlot:
    """Find the slot that holds what is wanted, by looking at rows spread over the file; nothing is guessed.

    Raw counts are looked for in ``X``, ``layers/counts`` and ``raw``, in this order; integers stored as
    floats count. Log-normalised values are taken, when declared, from ``X``, else from ``raw`` (where scanpy
    keeps them when it scales ``X``). With ``slot`` only that slot is looked at.

    Parameters
    ----------
    cells
        The input.
    expression
        ``"counts"``, or ``"lognorm"``: the user declares that values are log-normalised already.
    slot
        The slot to take, if the user names one.
    allow_fractional
        Accept counts that are no integers, where no slot has integers.
    sample_rows
        How many rows are looked at; :func:`lognorm_rows` checks every value.

    Raises
    ------
    CellsError
        If no slot holds it; says what each slot holds and which option helps.
    OptionError
        If ``expression`` is neither of the two.
    """
    if expression not in ("counts", "lognorm"):
        msg = f"--expression is 'counts' or 'lognorm', not {show(expression)}."
        raise OptionError(msg)
    order: tuple[str, ...] = SEARCHED if expression == "counts" else ("X", "raw")
    if slot is not None:
        cells.matrix(slot)
        order = (slot,)
    looks = {
        name: look_at(cells, name, sample_rows=sample_rows)
        for name in order
        if name in cells.slots and cells.slots[name].shape[1]
    }
    if expression == "lognorm":
        return _find_lognorm(cells, looks, named=slot is not None)
    accepted = ("counts", "fractional") if allow_fractional else ("counts",)
    # a sample without a single value is taken last: whatever it turns out to be is checked as it is read
    for kind in (*accepted, "zeros"):
        for name, look in looks.items():
            if look.kind == kind:
                return ExpressionSlot(name, "counts", allow_fractional)
    raise CellsError(_no_counts(cells, looks, sample_rows=sample_rows))


def _find_lognorm(cells: CellFile, looks: dict[str, Look], *, named: bool) -> ExpressionSlot:
    x = looks.get("X")
    if not named and x is not None and x.kind == "counts":
        msg = (
            f"{cells.source}: X holds counts, not log-normalised values as declared. "
            "Leave out --expression lognorm, or name the slot with --slot."
        )
        raise CellsError(msg)
    for kind in ("lognorm", "zeros"):
        for name, look in looks.items():
            if look.kind == kind:
                return ExpressionSlot(name, "lognorm")
    cure = (
        "Leave out --expression lognorm to start from the counts."
        if any(look.kind == "counts" for look in looks.values())
        else "Name the slot that holds them with --slot."
    )
    msg = f"{cells.source}: no log-normalised values found: {_describe(looks)}. {cure}"
    raise CellsError(msg)


def _no_counts(cells: CellFile, looks: dict[str, Look], *, sample_rows: int) -> str:
    begin = f"{cells.source}: no raw counts found: {_describe(looks)}."
    others = [
        name
        for name in cells.slots
        if name not in looks and look_at(cells, name, sample_rows=sample_rows).kind == "counts"
    ]
    if others:
        choices = " or ".join(f"--slot {name}" for name in others)
        held = f"{others[0]} holds" if len(others) == 1 else f"{', '.join(others)} hold"
        return f"{begin} {held} counts: if these are the raw counts, say so with {choices}."
    kinds = {look.kind for look in looks.values()}
    if "fractional" in kinds:
        return (
            f"{begin} If these are corrected counts (SoupX, CellBender, pseudo-counts), accept them with "
            "--allow-fractional."
        )
    if "lognorm" in kinds:
        name = next(name for name, look in looks.items() if look.kind == "lognorm")
        named = "" if name in ("X", "raw") else f" --slot {name}"
        return f"{begin} If {name} is log-normalised, declare that with --expression lognorm{named}."
    return (
        f"{begin} Give a file with raw counts; log-normalised values (not scaled ones) are read with "
        "--expression lognorm."
    )


def _describe(looks: dict[str, Look]) -> str:
    return "; ".join(f"{name} {look.words}" for name, look in looks.items()) or "there is neither X nor raw"


def lognorm_rows(
    cells: CellFile,
    slot: ExpressionSlot,
    *,
    chunk_rows: int = 4096,
    groups: NDArray[np.int64] | None = None,
) -> Iterator[tuple[int, sparse.csr_matrix]]:
    """Read all cells as log-normalised expression, checking every value.

    Parameters
    ----------
    cells
        The input.
    slot
        From :func:`find_expression`.
    chunk_rows
        Cells read at a time; the values do not depend on it.
    groups
        (n_genes of the slot,) int64, from :attr:`scstore.genes.matching.GeneMatch.groups`: the column that
        each column's counts are added to, for genes that occur more than once. The sum is taken before the
        logarithm.

    Yields
    ------
    ``(start, rows)``: the first row's number, and (n, n_genes of the slot) float32 with ascending column
    indices and no explicit zeros. A cell without counts is an empty row.

    Raises
    ------
    CellsError
        If a value is NaN, infinite, negative or, among counts, no integer: names the first such cell and
        gene.
    """
    for start in range(0, cells.n_cells, chunk_rows):
        yield start, lognorm_block(cells, slot, start, start + chunk_rows, groups=groups)


def lognorm_block(
    cells: CellFile,
    slot: ExpressionSlot,
    start: int,
    stop: int,
    *,
    groups: NDArray[np.int64] | None = None,
) -> sparse.csr_matrix:
    """Read cells ``start`` to ``stop`` as log-normalised expression; see :func:`lognorm_rows`.

    Returns
    -------
    (stop - start, n_genes of the slot) float32.
    """
    stored = cells.matrix(slot.slot).rows(start, min(stop, cells.n_cells))
    _check_values(stored, cells=cells, slot=slot, start=start)
    # One dtype from here on: integers and floats of any width then give the same bits.
    rows = stored.astype(np.float64)
    rows.eliminate_zeros()
    if slot.kind == "counts":
        if groups is not None:
            rows = _add_columns(rows, groups)
        _normalise(rows)
    elif groups is not None:
        _add_logarithms(rows, groups)
        rows = _add_columns(rows, groups)
        np.log1p(rows.data, out=rows.data, where=_repeated(groups)[rows.indices])
    rows = rows.astype(np.float32)
    rows.eliminate_zeros()
    return rows


def _normalise(rows: sparse.csr_matrix) -> None:
    """Turn counts into log1p(counts per 10,000), in place."""
    lengths = np.diff(rows.indptr)
    cell = np.repeat(np.arange(rows.shape[0]), lengths)
    # added up one by one, so that a cell's total does not depend on its place in the block
    totals = np.bincount(cell, weights=rows.data, minlength=rows.shape[0])
    # divided first: the reciprocal of a tiny total of fractional counts could overflow
    rows.data /= totals[cell]
    rows.data *= TARGET_SUM
    np.log1p(rows.data, out=rows.data)


def _repeated(groups: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which columns receive the values of several."""
    return np.asarray(np.bincount(groups, minlength=len(groups)) > 1)


def _add_logarithms(rows: sparse.csr_matrix, groups: NDArray[np.int64]) -> None:
    """Undo the logarithm in columns that are about to be added up, in place."""
    np.expm1(rows.data, out=rows.data, where=_repeated(groups)[groups[rows.indices]])


def _add_columns(rows: sparse.csr_matrix, groups: NDArray[np.int64]) -> sparse.csr_matrix:
    moved = sparse.csr_matrix((rows.data, groups[rows.indices], rows.indptr), shape=rows.shape)
    moved.sum_duplicates()
    return moved


def _check_values(rows: sparse.csr_matrix, *, cells: CellFile, slot: ExpressionSlot, start: int) -> None:
    values = rows.data
    whole = slot.kind == "counts" and not slot.fractional
    limit = LARGEST_COUNT if slot.kind == "counts" else LARGEST_EXPONENT
    bad: NDArray[Any] = np.zeros(0, dtype=bool)
    if values.dtype.kind == "f":
        bad = ~((values >= 0) & (values <= limit))  # NaN fails every comparison
        if whole:
            bad |= values != np.floor(values)
    elif values.dtype.kind == "i":
        bad = values < 0
    if not bad.any():
        return
    at = int(bad.argmax())
    row = int(np.searchsorted(rows.indptr, at, side="right")) - 1
    cell = show(cells.obs.index[start + row])
    gene = show(cells.var(slot.slot).index[int(rows.indices[at])])
    value = values[at]
    other = "take another slot with --slot."
    if np.isnan(value):
        fault, cure = "is NaN", f"Repair or remove the cell, or {other}"
    elif value > limit:
        fault, cure = f"is {value:g}", f"Repair or remove the cell, or {other}"
    elif value < 0:
        fault, cure = f"is negative ({value:g})", f"Scaled or corrected values cannot be used: {other}"
    else:
        fault = f"is no integer ({value:g})"
        cure = "Take the slot with raw counts (--slot), or accept corrected counts with --allow-fractional."
    msg = f"{cells.source}: cell {cell}, gene {gene}: the value in {slot.slot} {fault}. {cure}"
    raise CellsError(msg)
