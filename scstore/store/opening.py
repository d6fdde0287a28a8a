"""The root group of a store or an AnnData on disk, opened with care."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import zarr
from zarr.storage import LocalStore

from scstore.errors import CellsError, NotAStoreError
from scstore.store.decoding import decoding
from scstore.untrusted.hdf5 import check_hdf5
from scstore.untrusted.zarr import BoundedStore

__all__ = ["open_group"]


def open_group(path: Path) -> Any:
    """Open the root group of a store or an AnnData, Zarr or HDF5, for reading.

    Raises
    ------
    NotAStoreError
        If there is no such group, or no cells in it.
    DamagedError
        If HDF5 cannot be trusted with the file.
    """
    if not path.exists():
        msg = f"{path}: no such file or folder."
        raise NotAStoreError(msg)
    if path.is_dir():
        try:
            store = BoundedStore(LocalStore(path, read_only=True))
            group = zarr.open_group(store, mode="r", use_consolidated=False)
        except (PermissionError, CellsError):
            raise
        except Exception as error:  # damaged metadata makes Zarr raise anything
            reason = " ".join(str(error).split())[:200]
            msg = f"{path} holds no Zarr group ({reason}). scstore opens stores and AnnData (.h5ad, Zarr)."
            raise NotAStoreError(msg) from error
    else:
        check_hdf5(path)
        try:
            group = h5py.File(path, "r")
        except OSError as error:
            msg = f"{path} is no HDF5 file, or a truncated one. scstore opens stores and AnnData (.h5ad, Zarr)."
            raise NotAStoreError(msg) from error
    with decoding(path, "its list of parts"):
        has_cells = "obs" in group
    if not has_cells:
        msg = f"{path} is no AnnData: it has no `obs`."
        raise NotAStoreError(msg)
    return group
