"""Expression in AnnData's CSR groups, Zarr or HDF5: written block by block, read by rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from zarr.codecs import ZstdCodec

from scstore.cells.anndata_files import check_chunks
from scstore.cells.matrices import open_compressed
from scstore.errors import CellsError, DamagedError
from scstore.store.root_group import decoding

__all__ = ["ARRAY", "SPARSE_CHUNK", "open_csr", "write_csr"]

SPARSE_CHUNK = 1 << 20
"""Values in a chunk: 4 MB before compression."""

HDF5_CHUNK = 1 << 16
"""Values in a chunk of an HDF5 file, which stores whole chunks without compression."""

ARRAY: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}
"""How AnnData marks an array."""

CHECKED: dict[str, Any] = {
    # level 1: expression compresses about as well as at higher levels, in half the time
    "compressors": ZstdCodec(level=1, checksum=True),
    "config": {"write_empty_chunks": True},
}
"""In Zarr a damaged chunk is then an error to any reader, and an absent one was lost."""


def write_csr(group: zarr.Group | h5py.Group, blocks: Iterable[csr_matrix], n_columns: int) -> None:
    """Write CSR blocks of ``n_columns`` columns into an empty group, one below the other."""
    data = _GrowingArray(group, "data", np.float32)
    indices = _GrowingArray(group, "indices", np.int32)
    ends: list[NDArray[np.int64]] = [np.zeros(1, dtype=np.int64)]
    for block in blocks:
        data.extend(block.data)
        indices.extend(block.indices)
        ends.append(block.indptr[1:].astype(np.int64) + ends[-1][-1])
    data.flush()
    indices.flush()
    indptr = np.concatenate(ends)
    if isinstance(group, h5py.Group):
        group.create_dataset("indptr", data=indptr)
    else:
        group.create_array("indptr", data=indptr, chunks=(SPARSE_CHUNK,), attributes=ARRAY, **CHECKED)
    shape: Any = [len(indptr) - 1, n_columns]
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})


class _GrowingArray:
    """A one-dimensional array of unknown length, written in whole chunks."""

    def __init__(self, group: zarr.Group | h5py.Group, name: str, dtype: type[np.generic]) -> None:
        self._array: Any
        if isinstance(group, h5py.Group):
            self._array = group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(HDF5_CHUNK,))
        else:
            options = {"chunks": (SPARSE_CHUNK,), "attributes": ARRAY, **CHECKED}
            self._array = group.create_array(name, shape=(0,), dtype=dtype, **options)
        self._waiting: list[NDArray[Any]] = []
        self._size = 0

    def extend(self, values: NDArray[Any]) -> None:
        """Append values."""
        self._waiting.append(values.astype(self._array.dtype, copy=False))
        if sum(map(len, self._waiting)) >= 4 * SPARSE_CHUNK:
            self.flush(SPARSE_CHUNK)

    def flush(self, multiple: int = 1) -> None:
        """Write what waits, up to a multiple of some number of values."""
        values = np.concatenate([np.zeros(0, dtype=self._array.dtype), *self._waiting])
        ready = len(values) // multiple * multiple
        self._array.resize((self._size + ready,))
        if ready:
            self._array[self._size : self._size + ready] = values[:ready]
        self._size += ready
        self._waiting = [values[ready:].copy()]


def open_csr(group: Any, name: str, *, source: Path) -> tuple[tuple[int, int], Callable[[int, int], csr_matrix]]:
    """Return the shape of a CSR group, ``name`` in ``source``, and a function that reads a run of its rows."""
    with _damage(source, name):
        parts = {part: group[part] for part in ("indptr", "indices", "data")}
        for array in parts.values():
            check_chunks(array, str(source))
        n_rows, n_columns = (int(n) for n in group.attrs["shape"])
        matrix = open_compressed(**parts, shape=(n_rows, n_columns), source=str(source), name=name)

    def rows(start: int, stop: int) -> csr_matrix:
        with _damage(source, name):
            return matrix.rows(start, stop)

    return (n_rows, n_columns), rows


@contextmanager
def _damage(source: Path, name: str) -> Iterator[None]:
    """Turn :class:`CellsError` into damage: scstore itself wrote this expression."""
    try:
        with decoding(source, name):
            yield
    except CellsError as error:
        raise DamagedError(str(error)) from error
