"""From columns to rows: a matrix stored by gene, or in no order, becomes a CSR matrix on disk.

A counting sort in two passes over blocks of entries. The first counts the values of each cell, which fixes
where each cell's run begins; the second puts every value into its place in a memory-mapped file. Memory is
one block and one number a cell, whatever the size of the matrix.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse

from scstore.cells.matrices import CompressedRows, check_compressed
from scstore.errors import CellsError
from scstore.untrusted.guards import reading

__all__ = ["BLOCK", "Entries", "Scratch", "SortedByRow", "compressed_columns"]

BLOCK = 1 << 22
"""Entries that are sorted at a time: about 130 MB."""

Entries = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]
"""Rows (cells), columns (genes) and values of some entries, each (n,)."""


@dataclass(frozen=True)
class Scratch:
    """A temporary folder that is made when it is first needed and deleted on :meth:`close`.

    Attributes
    ----------
    parent
        Where it is made; ``None`` means the system's folder for temporary files.
    """

    parent: Path | None = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False, compare=False)

    @functools.cached_property
    def folder(self) -> Path:
        """The folder.

        Raises
        ------
        CellsError
            If it cannot be made.
        """
        try:
            if self.parent is not None:
                self.parent.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.TemporaryDirectory(prefix="scstore-cells-", dir=self.parent)
        except OSError as error:
            msg = (
                f"{self.parent or tempfile.gettempdir()}: no temporary folder can be made there "
                f"({error.strerror}). Free some space, or set TMPDIR to a folder on another disk."
            )
            raise CellsError(msg) from error
        return Path(self._stack.enter_context(temporary))

    def close(self) -> None:
        """Delete the folder and what is in it."""
        self._stack.close()

    def array(self, name: str, *, length: int, dtype: DTypeLike) -> NDArray[Any]:
        """Make a memory-mapped array whose space on disk is really there.

        Raises
        ------
        CellsError
            If the disk has no room for it.
        """
        size = length * np.dtype(dtype).itemsize
        if size == 0:
            return np.zeros(0, dtype)
        descriptor, path = tempfile.mkstemp(prefix=name, dir=self.folder)
        try:
            # A memory map on a full disk kills the process (SIGBUS); reserved space fails here, with a
            # reason.
            if shutil.disk_usage(self.folder).free < size:
                raise OSError("disk full")
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            msg = (
                f"{self.folder.parent}: no room for {size:,} bytes, needed to turn a matrix stored by column "
                "into rows. Free some space, set TMPDIR to a folder on a larger disk, or store the matrix by "
                "row (CSR)."
            )
            raise CellsError(msg) from error
        finally:
            os.close(descriptor)
        return np.memmap(path, dtype=dtype, mode="r+", shape=(length,))


@dataclass(frozen=True, eq=False)
class SortedByRow:
    """A matrix whose entries come in any order; sorted onto disk when a row of it is first asked for.

    Attributes
    ----------
    shape
        ``(n_cells, n_genes)``.
    dtype
        Of the values.
    blocks
        Called once per pass: yields all entries, in blocks.
    scratch
        Where the sorted copy goes.
    source, name
        File and slot, for messages.
    """

    shape: tuple[int, int]
    dtype: DTypeLike
    blocks: Callable[[], Iterator[Entries]]
    scratch: Scratch
    source: str
    name: str

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Read rows ``start`` to ``stop``; see :meth:`scstore.cells.matrices.RowMatrix.rows`."""
        return self._sorted.rows(start, stop)

    @functools.cached_property
    def _sorted(self) -> CompressedRows:
        n_rows = self.shape[0]
        lengths = np.zeros(n_rows, np.int64)
        for rows, columns, _ in self.blocks():
            self._check(rows, n=n_rows, axis="cells")
            self._check(columns, n=self.shape[1], axis="genes")
            lengths += np.bincount(rows, minlength=n_rows)
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        indices = self.scratch.array("indices", length=int(indptr[-1]), dtype=np.int32)
        data = self.scratch.array("data", length=int(indptr[-1]), dtype=self.dtype)
        free = indptr[:-1].copy()
        for rows, columns, values in self.blocks():
            if not len(rows):
                continue
            order = np.argsort(rows, kind="stable")
            in_order = rows[order]
            first = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]]))
            cells = in_order[first]
            counts = np.diff(np.append(first, len(in_order)))
            if (free[cells] + counts > indptr[cells + 1]).any():
                self._changed()
            places = np.repeat(free[cells] - first, counts) + np.arange(len(in_order))
            indices[places] = columns[order]
            data[places] = values[order]
            free[cells] += counts
        if not np.array_equal(free, indptr[1:]):
            self._changed()
        return CompressedRows(self.shape, indptr, indices, data, self.source, self.name)

    def _check(self, positions: NDArray[np.int64], *, n: int, axis: str) -> None:
        if len(positions) and (int(positions.min()) < 0 or int(positions.max()) >= n):
            msg = (
                f"{self.source}: {self.name} has a value outside its {n:,} {axis}. "
                "The file is damaged: copy or download it again."
            )
            raise CellsError(msg)

    def _changed(self) -> None:
        msg = f"{self.source}: {self.name} changed while it was read. Let the program that writes it finish first."
        raise CellsError(msg)


def compressed_columns(
    indptr: Any,
    indices: Any,
    data: Any,
    *,
    shape: tuple[int, int],
    scratch: Scratch,
    source: str,
    name: str,
    block: int = BLOCK,
) -> SortedByRow:
    """Open a CSC matrix (cells × genes) on disk.

    Parameters
    ----------
    indptr, indices, data
        (n_genes + 1,), (n_values,), (n_values,) arrays on disk.
    shape
        ``(n_cells, n_genes)``.
    scratch
        Where the copy by rows goes.
    source, name
        File and slot, for messages.
    block
        Entries read at a time.

    Raises
    ------
    CellsError
        If the parts do not fit each other.
    """
    pointer = check_compressed(indptr, indices, data, major=shape[1], minor=shape[0], source=source, name=name)

    def blocks() -> Iterator[Entries]:
        for low in range(0, int(pointer[-1]), block):
            high = min(low + block, int(pointer[-1]))
            first = int(np.searchsorted(pointer, low, side="right")) - 1
            last = int(np.searchsorted(pointer, high, side="left"))
            bounds = np.clip(pointer[first : last + 1], low, high)
            lengths = bounds[1:] - bounds[:-1]
            with reading(source, name):
                rows = np.asarray(indices[low:high]).astype(np.int64)
                values = np.asarray(data[low:high])
            yield rows, np.repeat(np.arange(first, last), lengths), values

    return SortedByRow(shape, data.dtype, blocks, scratch, source, name)
