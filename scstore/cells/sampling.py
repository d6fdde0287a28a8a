"""What the values of a slot look like, judged from rows spread over the whole file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scstore.cells.cell_file import CellFile
from scstore.escaping import show

__all__ = ["LARGEST_LOG", "Look", "look_at"]

LARGEST_LOG = 20.0
"""No log-normalised value is larger: log1p of half a billion counts."""

RUNS = 16
"""The sample is so many runs of neighbouring rows: few reads, yet from everywhere."""


@dataclass(frozen=True)
class Look:
    """What a sample of a slot's values suggests.

    Attributes
    ----------
    kind
        ``"counts"`` (integers), ``"lognorm"`` (no integers, none past :data:`LARGEST_LOG`), ``"fractional"``
        (no integers, larger ones too), ``"scaled"`` (negative ones that are no integers either), ``"zeros"``
        (no values).
    words
        The same as the end of a sentence that begins with the slot.
    """

    kind: str
    words: str


def look_at(cells: CellFile, slot: str, *, sample_rows: int = 512) -> Look:
    """Look at a sample of rows: the first, the last, and runs between them.

    Single values that are NaN, infinite or negative among counts do not change the kind: they are errors in
    counts, and named where they stand when the values are read.

    Parameters
    ----------
    cells
        The input.
    slot
        One of its slots.
    sample_rows
        About how many rows.
    """
    matrix = cells.matrix(slot)
    n_cells = matrix.shape[0]
    run = max(1, -(-sample_rows // RUNS))
    last = max(0, n_cells - run)
    starts = sorted({round(last * i / (RUNS - 1)) for i in range(RUNS)}) if n_cells > run * RUNS else [0]
    stop = run if n_cells > run * RUNS else n_cells
    blocks = [(start, matrix.rows(start, start + stop)) for start in starts]
    values = np.concatenate([block.data for _, block in blocks])
    values = values[np.isfinite(values) & (values != 0)] if values.dtype.kind == "f" else values[values != 0]
    if not len(values):
        return Look("zeros", "holds nothing but zeros in the rows looked at")
    largest = float(values.max())
    whole = values.dtype.kind in "iu" or bool((values == np.floor(values)).all())
    if whole:
        return Look("counts", f"holds integers (largest {largest:,.0f})")
    if values.min() < 0:
        place = _first(cells, slot, blocks, lambda data: data < 0)
        return Look("scaled", f"holds negative values ({place}), as scaled data does")
    if largest <= LARGEST_LOG:
        return Look("lognorm", f"looks log-normalised (no integers, largest {largest:.3g})")
    place = _first(cells, slot, blocks, lambda data: np.isfinite(data) & (data != np.floor(data)))
    return Look("fractional", f"holds values that are no integers ({place}; largest {largest:,.6g})")


def _first(
    cells: CellFile,
    slot: str,
    blocks: list[tuple[int, sparse.csr_matrix]],
    wanted: Callable[[NDArray[Any]], NDArray[np.bool_]],
) -> str:
    """Say which value of the sample is the first of a kind, and where."""
    for start, block in blocks:
        hits = wanted(block.data)
        if hits.any():
            at = int(hits.argmax())
            row = int(np.searchsorted(block.indptr, at, side="right")) - 1
            cell, gene = cells.obs.index[start + row], cells.var(slot).index[int(block.indices[at])]
            return f"{block.data[at]:.4g} in cell {show(cell)}, gene {show(gene)}"
    return ""
