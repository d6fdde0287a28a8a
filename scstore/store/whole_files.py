"""A file of cells that scstore did not make, read with everything in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import zarr
from anndata.io import read_elem
from scipy import sparse

from scstore.errors import CellsError
from scstore.store.layout import decoding
from scstore.untrusted.hdf5 import first_missing_filter
from scstore.untrusted.zarr import BoundedStore


def read_whole(group: Any, path: Path) -> anndata.AnnData:
    """Read the AnnData in a group, Zarr or HDF5; what it holds is checked before compiled code sees it."""
    if isinstance(group, zarr.Group) and isinstance(group.store, BoundedStore):
        group.store.check_whole()
    elif (problem := first_missing_filter(group)) is not None:
        raise CellsError(f"{path}: {problem}")
    try:
        with decoding(path, "the AnnData"):
            whole = _decoded(group, path)
    except UnicodeDecodeError as error:
        what = f"it has text in another encoding than it declares ({error.reason})"
        raise CellsError(f"{path}: {what}. Write a table (.csv, .parquet), or the file again with anndata.") from error
    return whole


def _decoded(group: Any, path: Path) -> anndata.AnnData:
    whole: anndata.AnnData
    if isinstance(group, zarr.Group):
        whole = anndata.io.read_zarr(group)
    elif "encoding-type" in group.attrs:
        whole = read_elem(group)
    else:
        whole = anndata.io.read_h5ad(path)
    raw = [] if whole.raw is None else [whole.raw.X]
    for part in (whole.layers, whole.obsm, whole.varm, whole.obsp, whole.varp):
        raw += part.values()
    for matrix in (whole.X, *raw):
        if sparse.issparse(matrix) and hasattr(matrix, "indptr"):
            matrix.check_format()
    return whole
