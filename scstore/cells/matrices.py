"""Matrices of cells × genes that are read by runs of rows, whatever they are stored in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scstore.errors import CellsError
from scstore.untrusted.guards import reading

__all__ = [
    "CompressedRows",
    "DenseRows",
    "MemoryRows",
    "RowMatrix",
    "SelectedColumns",
    "SlicedRows",
    "check_compressed",
    "compressed_rows",
    "is_numeric",
    "to_csr",
]

LONGEST_ROW = 8
"""A cell may list each gene this many times on average (duplicates are summed) before its length counts as damage."""


class RowMatrix(Protocol):
    """Values of cells × genes, read by runs of rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_cells, n_genes)``."""
        ...

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Read rows ``start`` to ``stop``.

        Returns
        -------
        (stop - start, n_genes) of the stored numeric dtype, a copy that the caller may change; entries that
        are stored twice are summed and the column indices of each row ascend. Explicit zeros may be there.

        Raises
        ------
        CellsError
            If the rows cannot be read or hold a column index outside the matrix.
        """
        ...


def is_numeric(dtype: Any) -> bool:
    """Whether values of a dtype can be counts or expression: boolean, integer or real."""
    return np.dtype(dtype).kind in "buif"


def to_csr(block: Any, *, n_columns: int, where: Callable[[int], str]) -> sparse.csr_matrix:
    """Bring a block of rows into the form that :meth:`RowMatrix.rows` promises.

    Parameters
    ----------
    block
        (n, n_columns), dense, or scipy sparse of any layout; may be lazy (with ``compute``).
    n_columns
        Number of genes.
    where
        Gives the beginning of an error message for a row of the block.
    """
    if hasattr(block, "compute"):
        block = block.compute()
    stored_sparse = sparse.issparse(block)
    if stored_sparse:
        rows = sparse.csr_matrix(block, copy=True)
        return _tidy(rows.data, rows.indices, rows.indptr, n_columns=n_columns, where=where)
    return sparse.csr_matrix(_plain(np.asarray(block)))


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Values in a dtype that scipy's compiled code knows: native byte order, no booleans, no half precision."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype == np.float16:
        return values.astype(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _tidy(
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    *,
    n_columns: int,
    where: Callable[[int], str],
) -> sparse.csr_matrix:
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= n_columns):
        at = int(np.argmax((indices < 0) | (indices >= n_columns)))
        row = int(np.searchsorted(indptr, at, side="right")) - 1
        msg = (
            f"{where(row)} has a value in column {int(indices[at]):,} of a matrix with {n_columns:,} "
            "columns. The file is damaged: copy or download it again."
        )
        raise CellsError(msg)
    shape = (len(indptr) - 1, n_columns)
    if indices.dtype not in (np.int32, np.int64):
        indices = indices.astype(np.int64)
    rows = sparse.csr_matrix((_plain(data), indices, indptr), shape=shape)
    if not rows.has_canonical_format:
        # narrow integers would wrap around in the sum
        rows = rows.astype(np.float64 if rows.dtype.kind == "f" else np.int64)
        rows.sum_duplicates()
    return rows


def check_compressed(
    indptr: Any, indices: Any, data: Any, *, major: int, minor: int, source: str, name: str
) -> NDArray[np.int64]:
    """Check that the three arrays of a compressed sparse matrix fit each other, before any space is taken for them.

    Parameters
    ----------
    indptr, indices, data
        Arrays on disk or in memory, each of one dimension.
    major, minor
        Length of the compressed axis (rows of a CSR, columns of a CSC) and of the other.
    source, name
        File and slot, for messages.

    Returns
    -------
    (major + 1,) the index pointer, in memory.

    Raises
    ------
    CellsError
        If lengths, types or the pointer's values contradict each other.
    """
    kinds = (("indptr", indptr, "iu"), ("indices", indices, "iu"), ("data", data, "buif"))
    for label, array, kind in kinds:
        if array.ndim != 1 or array.dtype.kind not in kind:
            msg = (
                f"{source}: {name}/{label} is of type {array.dtype} with {array.ndim} dimensions; a sparse "
                f"matrix needs one dimension of {'numbers' if label == 'data' else 'integers'}. The file is "
                "damaged or not an AnnData."
            )
            raise CellsError(msg)
    if indptr.shape[0] != major + 1 or indices.shape[0] != data.shape[0]:
        msg = (
            f"{source}: the parts of {name} do not fit each other: indptr has {indptr.shape[0]:,} entries "
            f"(expected {major + 1:,}), indices {indices.shape[0]:,}, data {data.shape[0]:,}. "
            "The file is damaged: copy or download it again."
        )
        raise CellsError(msg)
    with reading(source, f"{name}/indptr"):
        pointer = np.asarray(indptr[:]).astype(np.int64)
    lengths = np.diff(pointer)
    longest = int(lengths.max(initial=0))
    if pointer[0] != 0 or pointer[-1] != data.shape[0] or (lengths < 0).any() or longest > LONGEST_ROW * minor:
        msg = (
            f"{source}: {name}/indptr does not describe {data.shape[0]:,} values in {major:,} runs of at "
            f"most {minor:,}. The file is damaged: copy or download it again."
        )
        raise CellsError(msg)
    return pointer


@dataclass(frozen=True, eq=False)
class CompressedRows:
    """A CSR matrix on disk; a run of rows is one contiguous read of ``indices`` and ``data``.

    Attributes
    ----------
    shape
        ``(n_cells, n_genes)``.
    indptr
        (n_cells + 1,) int32 or int64, in memory.
    indices, data
        (n_values,) arrays that are sliced: h5py, Zarr, memory-mapped.
    source, name
        File and slot, for messages.
    """

    shape: tuple[int, int]
    indptr: NDArray[np.integer[Any]]
    indices: Any
    data: Any
    source: str
    name: str

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Read rows ``start`` to ``stop``; see :meth:`RowMatrix.rows`."""
        stop = min(stop, self.shape[0])
        low, high = int(self.indptr[start]), int(self.indptr[stop])
        with reading(self.source, f"{self.name}, rows {start:,} to {stop:,},"):
            data = np.array(self.data[low:high])
            indices = np.array(self.indices[low:high])
        return _tidy(
            data,
            indices,
            self.indptr[start : stop + 1] - low,
            n_columns=self.shape[1],
            where=lambda row: f"{self.source}: {self.name}: row {start + row:,}",
        )


def compressed_rows(
    indptr: Any, indices: Any, data: Any, *, shape: tuple[int, int], source: str, name: str
) -> CompressedRows:
    """Open a CSR matrix on disk, checking that its parts fit each other (see :func:`check_compressed`)."""
    pointer = check_compressed(indptr, indices, data, major=shape[0], minor=shape[1], source=source, name=name)
    return CompressedRows(shape, pointer, indices, data, source, name)


@dataclass(frozen=True, eq=False)
class SlicedRows:
    """Anything that gives a block for ``(start, stop)``: a view of an AnnData, a dask array.

    Attributes
    ----------
    shape
        ``(n_cells, n_genes)``.
    take
        Gives rows ``start`` to ``stop``, dense or sparse.
    source, name
        Where from and which slot, for messages.
    """

    shape: tuple[int, int]
    take: Callable[[int, int], Any]
    source: str
    name: str

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Read rows ``start`` to ``stop``; see :meth:`RowMatrix.rows`."""
        stop = min(stop, self.shape[0])
        with reading(self.source, f"{self.name}, rows {start:,} to {stop:,},"):
            return to_csr(
                self.take(start, stop),
                n_columns=self.shape[1],
                where=lambda row: f"{self.source}: {self.name}: row {start + row:,}",
            )


@dataclass(frozen=True, eq=False)
class DenseRows:
    """A dense matrix on disk or in memory.

    Attributes
    ----------
    array
        (n_cells, n_genes), sliced by rows: h5py, Zarr, numpy.
    source, name
        File and slot, for messages.
    """

    array: Any
    source: str
    name: str

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_cells, n_genes)``."""
        return int(self.array.shape[0]), int(self.array.shape[1])

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Read rows ``start`` to ``stop``; see :meth:`RowMatrix.rows`."""
        return SlicedRows(self.shape, lambda a, b: self.array[a:b], self.source, self.name).rows(start, stop)


@dataclass(frozen=True, eq=False)
class MemoryRows:
    """A scipy sparse matrix in memory, by rows.

    Attributes
    ----------
    matrix
        (n_cells, n_genes) CSR; never changed.
    source, name
        Where from and which slot, for messages.
    """

    matrix: sparse.csr_matrix
    source: str
    name: str

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_cells, n_genes)``."""
        return int(self.matrix.shape[0]), int(self.matrix.shape[1])

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Copy rows ``start`` to ``stop``; see :meth:`RowMatrix.rows`."""
        matrix = self.matrix
        parts = CompressedRows(self.shape, matrix.indptr, matrix.indices, matrix.data, self.source, self.name)
        return parts.rows(start, stop)


@dataclass(frozen=True, eq=False)
class SelectedColumns:
    """Some columns of another matrix: the genes among 10x features.

    Attributes
    ----------
    base
        The whole matrix.
    columns
        (n_genes,) int64, ascending columns of it.
    """

    base: RowMatrix
    columns: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_cells, n_genes)``."""
        return self.base.shape[0], len(self.columns)

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Read rows ``start`` to ``stop``; see :meth:`RowMatrix.rows`."""
        return sparse.csr_matrix(self.base.rows(start, stop)[:, self.columns])
