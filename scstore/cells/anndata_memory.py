"""An AnnData object: in memory, backed by a file, or a view of either."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pandas as pd
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from scstore.cells.anndata_files import open_matrix
from scstore.cells.cell_file import Opened
from scstore.cells.matrices import RowMatrix, SlicedRows, dense_rows, is_numeric, memory_rows
from scstore.errors import CellsError
from scstore.untrusted.guards import Guard


def describe_anndata(adata: AnnData) -> str:
    """Return the path of a backed AnnData, else ``"AnnData in memory"``."""
    return str(adata.filename) if adata.isbacked else "AnnData in memory"


def open_anndata(adata: AnnData) -> Opened:
    """Open the matrices of an AnnData object; nothing in it is changed.

    Views are sliced as they are read, except views of a backed one, which anndata reads whole.
    """
    var = adata.var.copy()
    slots: dict[str, RowMatrix] = {}
    slot_vars: dict[str, pd.DataFrame] = {}

    def add(slot: str, genes: pd.DataFrame, take: Callable[[AnnData], Any], *, needed: bool) -> None:
        rows = _open(adata, take, shape=(adata.n_obs, len(genes)), slot=slot, needed=needed)
        if rows is not None:
            slots[slot], slot_vars[slot] = rows, genes

    add("X", var, lambda part: part.X, needed=True)
    for name in sorted(name for name in adata.layers if name is not None):  # anndata 0.13 lists X under None
        add(f"layers/{name}", var, functools.partial(_layer, name=name), needed=False)
    if adata.raw is not None:
        add("raw", adata.raw.var.copy(), lambda part: part.raw.X, needed=True)
    return Opened(adata.obs.copy(), slots, slot_vars)


def _layer(adata: AnnData, *, name: str) -> Any:
    return adata.layers[name]


def _open(
    adata: AnnData, take: Callable[[AnnData], Any], *, shape: tuple[int, int], slot: str, needed: bool
) -> RowMatrix | None:
    source = describe_anndata(adata)
    # A view copies what it is asked for: asked by runs of rows, it copies no more than that. Not so a view of a backed
    # AnnData, which anndata reads into memory and does not slice again.
    sliced = adata.is_view and not adata.isbacked and adata.n_obs > 0
    matrix = take(adata[:1]) if sliced else take(adata)
    if matrix is None:
        return None
    if not (hasattr(matrix, "dtype") and is_numeric(matrix.dtype)):
        if not needed:
            return None
        raise CellsError(f"{source}: {slot} is a {type(matrix).__name__}, not a matrix of numbers. Put counts into it.")
    if isinstance(matrix, (CSRDataset, CSCDataset)):
        guard = Guard(source, 1 << 60)  # the user opened it
        return open_matrix(matrix.group, shape=shape, name=slot, guard=guard)
    if sparse.issparse(matrix) and (matrix.format != "csr" or not sliced):
        # by column, a run of rows costs a pass over everything: turned round once instead
        return memory_rows(sparse.csr_matrix(take(adata)), source, slot)
    if sliced:
        return SlicedRows(shape, lambda start, stop: take(adata[start:stop]), source, slot)
    return dense_rows(matrix, source, slot)
