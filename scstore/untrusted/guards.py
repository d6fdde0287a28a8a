"""What an HDF5 file or a Zarr folder may ask of its reader.

A file is somebody else's data. Before an array is read, what it declares is held against the bytes that are
really there, so that a damaged or hostile file is refused in a moment and not by running out of memory; and
nothing in it may run code (Zarr's pickle codec) or reach outside it (HDF5's external links and virtual data
sets).
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import zarr
from zarr.storage import LocalStore

from scstore.errors import CellsError, ScstoreError
from scstore.untrusted.bounded_store import BoundedStore
from scstore.untrusted.hdf5 import check_hdf5
from scstore.untrusted.limits import outside, too_large

__all__ = ["Guard", "folder_bytes", "open_hdf5", "open_zarr", "reading"]

DEPTH = 8
"""Groups nested deeper than this are no data frame; also ends links that run in a circle."""


@contextlib.contextmanager
def reading(source: str, name: str) -> Iterator[None]:
    """Turn whatever a storage library raises while it decodes into one plain :class:`CellsError`."""
    try:
        yield
    except (ScstoreError, MemoryError):
        raise
    except PermissionError as error:
        msg = f"{source}: {name} may not be read (permission denied). Ask its owner for the right to read it."
        raise CellsError(msg) from error
    except Exception as error:  # codecs raise anything on damaged bytes, SystemError among them
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        msg = (
            f"{source}: {name} cannot be read ({reason}). The file is damaged or incomplete: copy or download it again."
        )
        raise CellsError(msg) from error


@dataclass(frozen=True)
class Guard:
    """Holds what one file declares against what it is.

    Attributes
    ----------
    source
        The path, for messages.
    stored
        Bytes of the whole file or folder on disk.
    """

    source: str
    stored: int

    def member(self, group: Any, name: str) -> Any:
        """Return a group's member, or ``None``; refuse one that lives in another file.

        Raises
        ------
        CellsError
            If it is an HDF5 external link, or a member array declares what cannot be true.
        """
        with reading(self.source, name):
            if isinstance(group, h5py.Group):
                # the link itself: `name in group` would already follow it
                links, key = group.id.links, name.encode("utf-8", "surrogateescape")
                if not links.exists(key):
                    return None
                if links.get_info(key).type == h5py.h5l.TYPE_EXTERNAL:
                    msg = (
                        f"{self.source}: {name} is a link into another file, which is not followed. "
                        "Write a file that holds its own data."
                    )
                    raise CellsError(msg)
            elif name not in group:
                return None
            node = group[name]
        if isinstance(node, (h5py.Dataset, zarr.Array)):
            self.array(node)
        return node

    def names(self, group: Any) -> list[str]:
        """Names of a group's members, sorted."""
        with reading(self.source, str(group.name)), warnings.catch_warnings():
            # Zarr warns of files that are not its own (.DS_Store)
            warnings.simplefilter("ignore")
            return sorted(group.keys())

    def array(self, array: Any) -> None:
        """Refuse an array whose declaration cannot be true or whose decoding may not be tried.

        Raises
        ------
        CellsError
            If it declares far more than the file holds, chunks past 2 GiB, data in other files, or a pickle
            codec.
        """
        name = str(array.name).strip("/")
        with reading(self.source, name):
            problem = (outside(array) if isinstance(array, h5py.Dataset) else None) or too_large(array, self.stored)
        if problem is not None:
            msg = f"{self.source}: {problem}"
            raise CellsError(msg)
        if isinstance(array, zarr.Array) and any("pickle" in codec for codec in _codecs(array)):
            msg = (
                f"{self.source}: {name} is stored as a Python pickle, which can run code when it is read. "
                "It is refused; write the array again without it."
            )
            raise CellsError(msg)

    def tree(self, group: Any, *, depth: int = DEPTH) -> None:
        """Check every array below a group before any of them is read.

        Raises
        ------
        CellsError
            As :meth:`array` and :meth:`member`, or if groups are nested without end.
        """
        if depth == 0:
            msg = (
                f"{self.source}: groups below {str(group.name).strip('/')} are nested without end. The file is damaged."
            )
            raise CellsError(msg)
        for name in self.names(group):
            node = self.member(group, name)
            if isinstance(node, (h5py.Group, zarr.Group)):
                self.tree(node, depth=depth - 1)


def _codecs(array: zarr.Array[Any]) -> list[str]:
    metadata: Any = array.metadata
    used = [*(getattr(metadata, "filters", None) or ()), getattr(metadata, "compressor", None)]
    names = [str(getattr(codec, "codec_id", "")) for codec in used]
    return [*names, *(type(codec).__name__.lower() for codec in getattr(metadata, "codecs", ()))]


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises
    ------
    CellsError
        If it is truncated, damaged, written by a newer HDF5, or locked by another process, or as
        :func:`scstore.untrusted.hdf5.check_hdf5` says.
    """
    check_hdf5(path, error=CellsError)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = str(error)
        if "truncated" in reason:
            msg = (
                f"{path}: the file is truncated: it is shorter ({path.stat().st_size:,} bytes) than its own "
                "header says. A copy or download broke off: get it again."
            )
        elif "lock" in reason:
            msg = f"{path}: another program has it open for writing ({reason}). Close it there, or copy the file."
        else:
            msg = f"{path}: not readable as HDF5 ({reason}). The file is damaged: copy or download it again."
        raise CellsError(msg) from error


def open_zarr(path: Path) -> zarr.Group | zarr.Array[Any]:
    """Open a local Zarr group or array (v2 or v3) for reading, through :class:`BoundedStore`.

    Raises
    ------
    CellsError
        If its metadata cannot be read.
    """
    with reading(str(path), "the Zarr folder"):
        # each array's own metadata, not the consolidated copy, which is stale where somebody changed one
        store = BoundedStore(LocalStore(path, read_only=True))
        return zarr.open(store, mode="r", use_consolidated=False)


def folder_bytes(path: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(Path(root, name).stat().st_size for root, _, names in os.walk(path) for name in names)
