"""The root group of a store or an AnnData on disk, and plain errors for what cannot be decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import zarr
from zarr.storage import LocalStore

from scstore.errors import CellsError, DamagedError, NotAStoreError, ScstoreError
from scstore.untrusted.hdf5 import check_hdf5
from scstore.untrusted.zarr import BoundedStore

__all__ = ["decoding", "open_group"]


@contextmanager
def decoding(source: Path, name: str) -> Iterator[None]:
    """Turn any error of a library that decodes a part of ``source`` into :class:`DamagedError`."""
    try:
        yield
    except (ScstoreError, MemoryError, PermissionError):
        raise
    except Exception as error:  # codecs raise anything on damaged bytes, SystemError among them
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        msg = f"{source}: {name} cannot be read ({reason}). It is damaged: `scstore verify {source}` says where."
        raise DamagedError(msg) from error


def open_group(path: Path) -> Any:
    """Open the root group of a store or an AnnData, Zarr or HDF5; ``NotAStoreError`` if there are no cells in it."""
    if not path.exists():
        msg = f"{path}: no such file or folder."
        raise NotAStoreError(msg)
    if not path.is_dir():
        check_hdf5(path)
    try:
        if path.is_dir():
            store = BoundedStore(LocalStore(path, read_only=True))
            group: Any = zarr.open_group(store, mode="r", use_consolidated=False)
        else:
            group = h5py.File(path, "r")
    except (PermissionError, CellsError):
        raise
    except Exception as error:  # damaged metadata makes Zarr raise anything
        reason = " ".join(str(error).split())[:200]
        msg = f"{path} cannot be opened ({reason}). scstore opens stores and AnnData (.h5ad, Zarr)."
        raise NotAStoreError(msg) from error
    with decoding(path, "its list of parts"):
        has_cells = "obs" in group
    if not has_cells:
        msg = f"{path} is not an AnnData: it has no `obs`."
        raise NotAStoreError(msg)
    return group
