"""An AnnData object: in memory, backed by a file, or a view of either."""

from __future__ import annotations

from typing import Any

import pandas as pd
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from scstore.cells.anndata_files import open_matrix
from scstore.cells.matrices import Opened, RowMatrix, SlicedRows, dense_rows, is_numeric, open_compressed, plain_frame
from scstore.errors import CellsError
from scstore.untrusted.guards import Guard


def describe_anndata(adata: AnnData) -> str:
    """Return the path of a backed AnnData, else ``"AnnData in memory"``."""
    return str(adata.filename) if adata.isbacked else "AnnData in memory"


def open_anndata(adata: AnnData) -> Opened:
    """Open the matrices of an AnnData object; nothing in it is changed.

    Views are sliced as they are read, except views of a backed one, which anndata reads whole.
    """
    slots: dict[str, RowMatrix] = {}
    slot_vars: dict[str, pd.DataFrame] = {}
    var, raw = plain_frame(adata.var), None if adata.raw is None else plain_frame(adata.raw.var)
    layers = sorted(f"layers/{name}" for name in adata.layers if name is not None)  # anndata 0.13 lists X under None
    for slot in ("X", *layers, "raw"):
        genes = raw if slot == "raw" else var
        if genes is not None and (rows := _open(adata, slot, shape=(adata.n_obs, len(genes)))) is not None:
            slots[slot], slot_vars[slot] = rows, genes
    return Opened(plain_frame(adata.obs), slots, slot_vars)


def _take(adata: AnnData, slot: str) -> Any:
    if slot == "X":
        return adata.X
    return adata.raw.X if slot == "raw" else adata.layers[slot.removeprefix("layers/")]


def _open(adata: AnnData, slot: str, *, shape: tuple[int, int]) -> RowMatrix | None:
    source = describe_anndata(adata)
    # A view copies what it is asked for: asked by runs of rows, it copies no more than that. Not so a view of a backed
    # AnnData, which anndata reads into memory and does not slice again.
    sliced = adata.is_view and not adata.isbacked and adata.n_obs > 0
    matrix = _take(adata[:1] if sliced else adata, slot)
    if matrix is None:
        return None
    if not (hasattr(matrix, "dtype") and is_numeric(matrix.dtype)):
        if slot.startswith("layers/"):
            return None
        raise CellsError(f"{source}: {slot} is a {type(matrix).__name__}, not a matrix of numbers. Put counts into it.")
    if isinstance(matrix, (CSRDataset, CSCDataset)):
        guard = Guard(source)  # the user opened it
        return open_matrix(matrix.group, shape=shape, name=slot, guard=guard)
    if sparse.issparse(matrix) and (matrix.format != "csr" or not sliced):
        # by column, a run of rows costs a pass over everything: turned round once instead
        whole = _take(adata, slot)
        whole = whole if whole.format in ("csr", "csc") else whole.tocsr()
        parts = {part: getattr(whole, part) for part in ("indptr", "indices", "data")}
        by_column = whole.format == "csc"
        return open_compressed(**parts, shape=shape, by_column=by_column, source=source, name=slot)
    if sliced:
        return SlicedRows(shape, lambda start, stop: _take(adata[start:stop], slot).copy(), source, slot)
    return dense_rows(matrix, source, slot)
