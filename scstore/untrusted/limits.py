"""What an array in somebody else's file may declare, in HDF5 and in Zarr."""

from __future__ import annotations

import math
from typing import Any

import h5py

EXHAUSTS = "It is damaged or made to exhaust memory: get it again from where it came from."

# Bytes that one chunk may decode to: what Blosc can hold, and half of what HDF5 can.
CHUNK_LIMIT = 1 << 31

# No real file of cells is packed tighter than this; DEFLATE cannot be (1,032 : 1).
RATIO = 1100

# Bytes that any array may declare, however small the file.
FLOOR = 1 << 26

# HDF5's filters that pack no tighter than :data:`RATIO`: deflate, shuffle, fletcher32, szip, LZF.
BOUNDED_FILTERS = frozenset({1, 2, 3, 4, 32000})

# Data sets of more chunks are not asked for the bytes they store: HDF5 would go through the index of them all.
COUNTED_CHUNKS = 10_000


def declared_bytes(array: Any) -> int:
    """Return the bytes of all values of an array, HDF5 or Zarr, as it declares them."""
    return math.prod(array.shape or ()) * int(array.dtype.itemsize)


def too_large(array: Any, stored: int) -> str | None:
    """Return why an array in a file or folder of ``stored`` bytes cannot be what it declares; no value is read.

    Chunks that were never written hold the fill value, which is allowed up to :data:`FLOOR`. Beyond it the bytes that
    are stored must be able to unpack to the array. anndata, scanpy, Cell Ranger and CELLxGENE write every chunk.
    """
    name = str(array.name).strip("/")
    declared = declared_bytes(array)
    if declared > max(FLOOR, RATIO * stored):
        shape = tuple(array.shape)
        return f"{name} declares {declared:,} bytes (shape {shape}), but the whole file has {stored:,}. {EXHAUSTS}"
    chunk = math.prod(array.chunks) * array.dtype.itemsize if array.chunks else 0
    if chunk > CHUNK_LIMIT:
        return f"one chunk of {name} decodes to {chunk:,} bytes, more than {CHUNK_LIMIT:,}. Write smaller chunks."
    if chunk > max(FLOOR, RATIO * stored):
        return f"one chunk of {name} decodes to {chunk:,} bytes, but the whole file has {stored:,}. {EXHAUSTS}"
    if declared > FLOOR and isinstance(array, h5py.Dataset):
        own = _own_bytes(array)
        if own is not None and declared > RATIO * own:
            return f"{name} declares {declared:,} bytes, but only {own:,} bytes of it are stored. {EXHAUSTS}"
    return None


def _own_bytes(dataset: h5py.Dataset) -> int | None:
    """Return the bytes that a data set stores; ``None`` where they say nothing about its size, or are slow to count."""
    chunks, properties = dataset.chunks, dataset.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if len(set(filters)) != len(filters) or not BOUNDED_FILTERS.issuperset(filters):
        return None
    if chunks and math.prod(-(-n // size) for n, size in zip(dataset.shape, chunks, strict=True)) > COUNTED_CHUNKS:
        return None
    return int(dataset.id.get_storage_size())
