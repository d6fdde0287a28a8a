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
    with decoding(path, "the AnnData"):
        if isinstance(group, zarr.Group):
            whole = anndata.io.read_zarr(group)
        else:
            whole = read_elem(group) if "encoding-type" in group.attrs else anndata.io.read_h5ad(path)
        matrices = [whole.X] if whole.raw is None else [whole.X, whole.raw.X]
        for part in (whole.layers, whole.obsm, whole.varm, whole.obsp, whole.varp):
            matrices += part.values()
        for matrix in matrices:
            if sparse.issparse(matrix) and hasattr(matrix, "indptr"):
                matrix.check_format()
        return whole
