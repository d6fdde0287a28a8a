"""Feature matrices, read by rows on demand; expression in AnnData's CSR groups, Zarr or HDF5, written in blocks."""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from zarr.codecs import ZstdCodec

from scstore.errors import DamagedError, IncompleteStoreError
from scstore.sealed import Space, fingerprint
from scstore.store.ledger import NOT_YET, REDO, StorePlan, ViewSpec, check_shard, chunk_path, decoding

# Embeddings of a foreign file that are pictures: used only where they are named.
PICTURES = re.compile("umap|tsne|draw_graph|phate", re.IGNORECASE)

# Values in a chunk: 4 MB before compression.
SPARSE_CHUNK = 1 << 20

# Values in a chunk of an HDF5 file, which stores whole chunks without compression.
HDF5_CHUNK = 1 << 16

# How AnnData marks an array.
ARRAY: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}

# In Zarr a damaged chunk is then an error to any reader, and an absent one was lost.
CHECKED: dict[str, Any] = {
    # level 1: expression compresses about as well as at higher levels, in half the time
    "compressors": ZstdCodec(level=1, checksum=True),
    "config": {"write_empty_chunks": True},
}


def write_csr(group: zarr.Group | h5py.Group, blocks: Iterable[csr_matrix], n_columns: int) -> None:
    """Write CSR blocks of ``n_columns`` columns into an empty group, one below the other."""
    parts = {name: _growing(group, name, dtype) for name, dtype in (("data", np.float32), ("indices", np.int32))}
    ends: list[NDArray[np.int64]] = [np.zeros(1, dtype=np.int64)]
    for block in blocks:
        for name, array in parts.items():
            size = array.shape[0]
            array.resize((size + block.nnz,))
            if block.nnz:
                array[size:] = getattr(block, name)
        ends.append(block.indptr[1:].astype(np.int64) + ends[-1][-1])
    indptr = np.concatenate(ends)
    if isinstance(group, h5py.Group):
        group.create_dataset("indptr", data=indptr)
    else:
        group.create_array("indptr", data=indptr, chunks=(SPARSE_CHUNK,), attributes=ARRAY, **CHECKED)
    shape: Any = [len(indptr) - 1, n_columns]
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})


def _growing(group: zarr.Group | h5py.Group, name: str, dtype: type[np.generic]) -> Any:
    if isinstance(group, h5py.Group):
        return group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(HDF5_CHUNK,))
    return group.create_array(name, shape=(0,), dtype=dtype, chunks=(SPARSE_CHUNK,), attributes=ARRAY, **CHECKED)


BLOCK = 4096


class View:
    """Rows of one feature matrix ``(n_obs, width)``, read on demand.

    ``view[10:20]``, ``view[[5, 3, 3]]`` and ``view[:]`` give rows as NumPy arrays; of the view ``X`` as CSR matrices.
    ``space`` is their feature space; little is known of a matrix that scstore did not make.
    """

    def __init__(
        self, name: str, shape: tuple[int, int], dtype: Any, space: Space, read: Callable[[int, int], Any]
    ) -> None:
        self.name, self.shape, self.dtype, self.space = name, shape, np.dtype(dtype), space
        self._read = read
        self.opened_by: tuple[Any, ...] = ()  # a function and its arguments, by which another process opens it

    def __reduce__(self) -> tuple[Any, ...]:
        return self.opened_by

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.space)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.shape[0]:,} × {self.shape[1]:,} {self.dtype}>"

    def __getitem__(self, rows: slice | NDArray[Any] | list[int]) -> Any:
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(len(self))
            return self._run(start, max(stop, start))
        chosen, n = np.asarray(rows), len(self)
        if chosen.dtype.kind not in "iu" or not chosen.size:  # which NumPy knows how to read
            return self._take(np.arange(n)[slice(0) if chosen.shape == (0,) else rows])
        if chosen.min() < -n or chosen.max() >= n:
            raise IndexError(f"{self.name} has {n:,} rows, and row {chosen[(chosen < -n) | (chosen >= n)][0]} is none.")
        return self._take(np.where(chosen < 0, chosen + n, chosen).astype(np.int64))

    def _run(self, start: int, stop: int) -> Any:
        return self._join([self._read(a, min(a + BLOCK, stop)) for a in range(start, stop, BLOCK)])

    def _take(self, index: NDArray[np.int64]) -> Any:
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        blocks = ordered // BLOCK
        pieces = []
        for block in np.unique(blocks):
            inside = ordered[blocks == block]
            first = int(inside[0])
            pieces.append(self._read(first, int(inside[-1]) + 1)[inside - first])
        return self._join(pieces)[np.argsort(order)]

    def _join(self, pieces: list[Any]) -> Any:
        if len(pieces) == 1:
            return pieces[0]
        none = np.zeros((0, self.shape[1]), dtype=self.dtype)
        if self.name == "X":
            return vstack([csr_matrix(none), *pieces], format="csr")
        return np.concatenate([none, *pieces])


def array_view(name: str, array: Any, space: Space, *, source: Path) -> View:
    """Open rows of a Zarr array or HDF5 data set in the file ``source``, through its own library."""

    def read(start: int, stop: int) -> NDArray[Any]:
        with decoding(source, name):
            return np.asarray(array[start:stop])

    return View(name, (int(array.shape[0]), int(array.shape[1])), array.dtype, space, read)


# Of rows that are read from a shard: which, where they go, and their numbers in the shard.
Part: TypeAlias = tuple[int, slice | NDArray[np.int64], slice | NDArray[np.int64]]


class ShardView(View):
    """Rows of a view that scstore wrote, from the shard files, each compared with its record when first touched."""

    def __init__(self, root: Path, plan: StorePlan, spec: ViewSpec, ids: Sequence[str] | None = None) -> None:
        shape = plan.n_obs, spec.width
        super().__init__(spec.name, shape, spec.dtype, spec.space, self._run)
        self._root, self._plan, self._ids = root, plan, ids
        self._compared: tuple[str, ...] = (spec.name,)  # views whose files are compared with the record
        self._verified: set[int] = set()

    def _shard(self, shard: int) -> NDArray[Any]:
        if shard not in self._verified:
            self._verify(shard)
        file = chunk_path(self._root, self.name, shard)
        return np.memmap(file, mode="r", shape=(self._plan.shard_rows, self.shape[1]), dtype=self.dtype)

    def _verify(self, shard: int) -> None:
        start, stop = self._plan.bounds(shard)
        ids, cells = None if self._ids is None else self._ids[start:stop], f"cells {start:,} to {stop - 1:,}"
        problem = check_shard(self._root, self._plan, shard, ids=ids, views=self._compared)
        if problem == NOT_YET:
            why = f"{cells} are not extracted yet. Run `scstore extract` again, or set allow_partial=True"
            raise IncompleteStoreError(f"{self._root}: {why}.")
        if problem is not None:
            raise DamagedError(f"{problem} ({cells}). {REDO}")
        self._verified.add(shard)

    def _run(self, start: int, stop: int) -> NDArray[Any]:
        n = self._plan.shard_rows
        cuts = [start, *range(start - start % n + n, stop, n), stop]
        runs = [(a // n, a, b) for a, b in pairwise(cuts) if a < b]
        parts: list[Part] = [(s, slice(a - start, b - start), slice(a - s * n, b - s * n)) for s, a, b in runs]
        return self._gather(stop - start, parts)

    def _take(self, index: NDArray[np.int64]) -> NDArray[Any]:
        shards, rows = np.divmod(index, self._plan.shard_rows)
        wanted = [(int(shard), np.flatnonzero(shards == shard)) for shard in np.unique(shards)]
        return self._gather(len(index), [(shard, where, rows[where]) for shard, where in wanted])

    def _gather(self, n_rows: int, parts: Sequence[Part]) -> NDArray[Any]:
        out: NDArray[Any] = np.empty((n_rows, self.shape[1]), dtype=self.dtype)
        for shard, where, rows in parts:
            out[where] = self._shard(shard)[rows]
        return out
