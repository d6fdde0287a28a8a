"""HDF5's filters, which pack the chunks of a data set: whether they are installed, and what chunks unpack to."""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable
from pathlib import Path

import h5py

from scstore.untrusted.packing import CHECKSUMS, zstd_frame

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
