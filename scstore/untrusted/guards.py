"""Reading from a file or folder of somebody else: what an array may declare and unpack to; errors that are plain."""

from __future__ import annotations

import contextlib
import importlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from scstore.errors import CellsError, InputError, ScstoreError
from scstore.fsio import check_read
from scstore.untrusted.packing import CHECKSUMS, zstd_frame

EXHAUSTS = "It is damaged or made to exhaust memory: get it again from where it came from."

# No real file of cells is packed tighter than this; DEFLATE cannot be (1,032 : 1).
RATIO = 1100

# Bytes that any array may declare, however small the file.
FLOOR = 1 << 26

# HDF5's filters that pack no tighter than :data:`RATIO`: deflate, shuffle, fletcher32, szip, LZF.
BOUNDED_FILTERS = frozenset({1, 2, 3, 4, 32000})

# What the filters of the package hdf5plugin are called.
NAMES = {
    307: "bzip2", 32001: "Blosc", 32004: "LZ4", 32008: "bitshuffle", 32013: "ZFP", 32015: "Zstandard", 32017: "SZ",
    32018: "FCIDECOMP", 32024: "SZ3", 32026: "Blosc2", 32028: "Sperr",
}  # fmt: skip


def _zstd_stated(head: bytes) -> int:
    with contextlib.suppress(ValueError, IndexError):
        return zstd_frame(head)[0] or 0
    return 0


# Those whose chunks begin with the bytes that they unpack to.
STATED: dict[int, Callable[[bytes], int]] = {
    32001: lambda head: int.from_bytes(head[4:8], "little"),
    32004: lambda head: int.from_bytes(head[:8], "big"),
    32008: lambda head: int.from_bytes(head[:8], "big"),
    32015: _zstd_stated,
}


def filters_of(dataset: h5py.Dataset) -> list[int]:
    """Return the numbers of a data set's filters, in the order of packing."""
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]


def missing_filter(dataset: h5py.Dataset) -> str | None:
    """Return what to do about a filter that a data set needs and that is not installed."""
    for number in filters_of(dataset):
        if not h5py.h5z.filter_avail(number):
            with contextlib.suppress(ImportError):
                importlib.import_module("hdf5plugin")  # which makes its filters known to HDF5
        if not h5py.h5z.filter_avail(number):
            what = f"{dataset.name} is compressed with {NAMES.get(number, 'a filter')} (HDF5 filter {number})"
            cure = "Install it: pip install hdf5plugin. Or write the file again with compression='gzip'."
            return f"{what}, which is not installed. {cure}"
    return None


def unpacks_too_far(dataset: h5py.Dataset, path: Path) -> str | None:
    """Return which chunk says that it unpacks to more than its data set declares for one, where chunks say it."""
    numbers = filters_of(dataset)
    if not dataset.chunks or not numbers or numbers[-1] not in STATED:
        return None
    limit = 2 * math.prod(dataset.chunks) * dataset.dtype.itemsize + CHECKSUMS  # texts take twice as much there

    with path.open("rb") as file:

        def look(chunk: h5py.h5d.StoreInfo) -> str | None:
            file.seek(chunk.byte_offset)
            size = 0 if chunk.filter_mask else STATED[numbers[-1]](file.read(18))
            return f"a chunk of {dataset.name} unpacks to {size:,} bytes, not {limit:,}" if size > limit else None

        found: str | None = dataset.id.chunk_iter(look)
    return found


def declared_bytes(array: h5py.Dataset) -> int:
    """Return the bytes of all values of a data set, as it declares them."""
    return math.prod(array.shape or ()) * int(array.dtype.itemsize)


def too_large(array: h5py.Dataset, stored: int) -> str | None:
    """Return why a data set in a file of ``stored`` bytes cannot be what it declares; no value is read.

    Chunks that were never written hold the fill value, which is allowed up to :data:`FLOOR`.
    """
    name = str(array.name).strip("/")
    declared = declared_bytes(array)
    if declared > max(FLOOR, RATIO * stored):
        shape = tuple(array.shape)
        return f"{name} declares {declared:,} bytes (shape {shape}), but the whole file has {stored:,}. {EXHAUSTS}"
    chunk = math.prod(array.chunks) * array.dtype.itemsize if array.chunks else 0
    if chunk > max(FLOOR, RATIO * stored):
        return f"one chunk of {name} decodes to {chunk:,} bytes, but the whole file has {stored:,}. {EXHAUSTS}"
    filters = filters_of(array)
    if declared > FLOOR and len(set(filters)) == len(filters) and BOUNDED_FILTERS.issuperset(filters):
        own = int(array.id.get_storage_size())
        if declared > RATIO * own:
            return f"{name} declares {declared:,} bytes, but only {own:,} bytes of it are stored. {EXHAUSTS}"
    return None


AGAIN = "The file is damaged or incomplete: copy or download it again."


def damaged(source: str, problem: str) -> CellsError:
    """Return the error for a file of cells that contradicts itself; the problem is a whole sentence."""
    return CellsError(f"{source}: {problem} {AGAIN}")


@contextlib.contextmanager
def reading(source: object, name: str, *, error: type[ScstoreError] = CellsError, cure: str = AGAIN) -> Iterator[None]:
    """Turn whatever a library raises while it decodes a part of ``source`` into one plain error.

    What the system fails to read is an ``UnreadableError``, for it may be whole.
    """
    try:
        yield
    except (ScstoreError, MemoryError):
        raise
    except Exception as fault:  # codecs raise anything on damaged bytes, SystemError among them
        if isinstance(fault, PermissionError) and issubclass(error, InputError):
            raise error(f"{source}: {name} may not be read (permission denied). Ask its owner.") from fault
        check_read(fault, f"{source}: {name}")
        reason = " ".join(str(fault).split())[:200] or type(fault).__name__
        raise error(f"{source}: {name} cannot be read ({reason}). {cure}") from fault


@dataclass(frozen=True)
class Guard:
    """Opens the members of an HDF5 file or Zarr folder, which was checked as a whole when it was opened."""

    source: str

    def member(self, group: Any, name: str) -> Any:
        """Return a group's member, or ``None``; refuse an array that may not be decoded."""
        with reading(self.source, name):
            if isinstance(group, h5py.Group):  # `in` would take a damaged member for an absent one
                present = group.id.links.exists(name.encode("utf-8", "surrogateescape"))
            else:
                present = name in group
            node = group[name] if present else None
            problem = missing_filter(node) if isinstance(node, h5py.Dataset) else None
        if problem is not None:
            raise CellsError(f"{self.source}: {problem}")
        return node

    def names(self, group: Any) -> list[str]:
        with reading(self.source, str(group.name)), warnings.catch_warnings():
            # Zarr warns of files that are not its own (.DS_Store)
            warnings.simplefilter("ignore")
            return sorted(group.keys())
