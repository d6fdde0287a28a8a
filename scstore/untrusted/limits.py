"""What an array in a file of somebody else may declare, in HDF5 and in Zarr."""

from __future__ import annotations

import math
from typing import Any

import h5py

__all__ = ["CHUNK_LIMIT", "FLOOR", "RATIO", "declared_bytes", "outside", "too_large"]

CHUNK_LIMIT = 1 << 31
"""Bytes that one chunk may decode to: what Blosc can hold, and half of what HDF5 can."""

RATIO = 1100
"""No real file of cells is packed tighter than this; DEFLATE cannot be (1,032 : 1)."""

FLOOR = 1 << 26
"""Bytes that any array may declare, however small the file."""

BOUNDED_FILTERS = frozenset({1, 2, 3, 4, 32000})
"""HDF5's filters that pack no tighter than :data:`RATIO`: deflate, shuffle, fletcher32, szip, LZF."""

COUNTED_CHUNKS = 10_000
"""Data sets of more chunks are not asked for the bytes they store: HDF5 would go through the index of them all."""


def declared_bytes(array: Any) -> int:
    """Bytes of all values of an array, HDF5 or Zarr, as it declares them."""
    return math.prod(array.shape or ()) * int(array.dtype.itemsize)


def too_large(array: Any, stored: int) -> str | None:
    """Say why an array cannot be what it declares; ``None`` where it can.

    Parameters
    ----------
    array
        An HDF5 data set or a Zarr array; no value of it is read.
    stored
        Bytes of the whole file or folder.

    Notes
    -----
    Chunks that were never written hold the fill value, which is allowed up to :data:`FLOOR`. Beyond it an array must
    be such that the bytes that are there could unpack to it: those of the whole file, and for HDF5 data sets of up to
    10,000 chunks with HDF5's own filters those of the data set itself. anndata, scanpy, Cell Ranger and CELLxGENE write
    every chunk.
    """
    name = str(array.name).strip("/")
    declared = declared_bytes(array)
    if declared > max(FLOOR, RATIO * stored):
        return (
            f"{name} declares {declared:,} bytes (shape {tuple(array.shape)}), but the whole file has {stored:,}. It "
            "is damaged or made to exhaust memory: get it again from where it came from."
        )
    chunks = array.chunks or ()
    chunk = math.prod(chunks) * array.dtype.itemsize if chunks else 0
    if chunk > CHUNK_LIMIT:
        return (
            f"one chunk of {name} decodes to {chunk:,} bytes; at most {CHUNK_LIMIT:,} are read at once. Write the "
            "file again with smaller chunks."
        )
    if chunk > max(FLOOR, RATIO * stored):
        return (
            f"one chunk of {name} decodes to {chunk:,} bytes, but the whole file has {stored:,}. It is damaged or "
            "made to exhaust memory: get it again from where it came from."
        )
    if declared > FLOOR and isinstance(array, h5py.Dataset):
        own = _own_bytes(array)
        if own is not None and declared > RATIO * own:
            return (
                f"{name} says that it has {math.prod(array.shape):,} values, but stores {own:,} bytes of them. It is "
                "damaged or made to exhaust memory: get it again from where it came from."
            )
    return None


def _own_bytes(dataset: h5py.Dataset) -> int | None:
    """Bytes that a data set stores; ``None`` where that says nothing about its size, or takes long to find out."""
    chunks, properties = dataset.chunks, dataset.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if len(set(filters)) != len(filters) or not BOUNDED_FILTERS.issuperset(filters):
        return None
    if chunks and math.prod(-(-n // size) for n, size in zip(dataset.shape, chunks, strict=True)) > COUNTED_CHUNKS:
        return None
    return int(dataset.id.get_storage_size())


def outside(array: h5py.Dataset) -> str | None:
    """Say that the values of a data set lie in other files; ``None`` where they do not."""
    if not (array.external or array.is_virtual):
        return None
    name = str(array.name).strip("/")
    return f"the values of {name} lie in other files, which are not followed. Write a file that holds its own data."
