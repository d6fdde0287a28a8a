"""Matrices of cells × genes, read by runs of rows, and tables of cells and genes, in types that AnnData stores."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unicodedata import category

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scstore.untrusted.guards import damaged, reading

Array = NDArray[Any]
LONGEST_ROW = 8  # times that a cell may list each gene on average: duplicates are summed, but more is damage
# Values of a matrix stored by column that are held by rows at once: 1.6 GB, and twice that while they are read.
WINDOW = 1 << 27
BLOCK = 1 << 22  # values of a matrix stored by column that are read at once
# Different values: a column of fewer is never refused, a column of more numbers always is.
FEW_VALUES, MANY_NUMBERS = 20, 500
DATE = re.compile(r"\d{4}-\d\d?-\d\d?([ T].*)?")
LIKELY = re.compile(r"type|label|annot|ident|class|cluster|leiden|louvain", re.IGNORECASE)


def is_numeric(dtype: Any) -> bool:
    return np.dtype(dtype).kind in "buif"


def _plain(values: Array) -> Array:
    """Return values in a dtype that scipy's compiled code knows: native byte order, no booleans, no half precision."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype == np.float16:
        return values.astype(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True, eq=False)
class RowMatrix:
    """Values of cells × genes, read by runs of rows: ``take`` gives a block of its own, dense, sparse or lazy."""

    shape: tuple[int, int]
    take: Callable[[int, int], Any]
    source: str
    name: str

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return a copy of rows ``start`` to ``stop`` in canonical CSR, duplicates summed; zeros may be there."""
        stop = min(stop, self.shape[0])
        with reading(self.source, f"{self.name}, rows {start:,} to {stop:,},"):
            block = self.take(start, stop)
            block = block.compute() if hasattr(block, "compute") else block
            if not sparse.issparse(block):
                return sparse.csr_matrix(_plain(np.asarray(block)))
            rows = sparse.csr_matrix(block)
        outside = (rows.indices < 0) | (rows.indices >= self.shape[1])
        if outside.any():
            place = int(outside.argmax())
            row = start + int(np.searchsorted(rows.indptr, place, side="right")) - 1
            found = f"row {row:,} has a value in column {rows.indices[place]:,} of {self.shape[1]:,} columns"
            raise damaged(self.source, f"{self.name}: {found}.")
        rows = sparse.csr_matrix((_plain(rows.data), rows.indices, rows.indptr), shape=rows.shape)
        if not rows.has_canonical_format:
            # narrow integers would wrap around in the sum
            rows = rows.astype(np.float64 if rows.dtype.kind == "f" else np.int64)
            rows.sum_duplicates()
        return rows


def dense_rows(array: Any, source: str, name: str) -> RowMatrix:
    shape = int(array.shape[0]), int(array.shape[1])
    return RowMatrix(shape, lambda start, stop: array[start:stop], source, name)


def csr_rows(
    indptr: NDArray[np.integer[Any]], indices: Any, data: Any, *, shape: tuple[int, int], source: str, name: str
) -> RowMatrix:
    """Open a CSR matrix on disk or in memory; a run of rows is one slice of ``indices`` and one of ``data``."""

    def take(start: int, stop: int) -> sparse.csr_matrix:
        run = slice(int(indptr[start]), int(indptr[stop]))
        parts = (_plain(np.array(data[run])), np.array(indices[run]), indptr[start : stop + 1] - run.start)
        return sparse.csr_matrix(parts, shape=(stop - start, shape[1]))

    return RowMatrix(shape, take, source, name)


def csc_rows(
    indptr: NDArray[np.int64], indices: Any, data: Any, *, shape: tuple[int, int], source: str, name: str
) -> RowMatrix:
    """Open a CSC matrix, turned into rows in memory: read in order, it takes a pass for every :data:`WINDOW` values."""
    n_values = int(indptr[-1])
    n_windows = max(1, -(-n_values // WINDOW))
    starts = np.searchsorted(indptr, np.arange(BLOCK, n_values, BLOCK))
    edges = np.unique([0, *starts, shape[1]]).tolist()
    held: list[tuple[int, sparse.csr_matrix]] = []

    def read(first: int, last: int) -> sparse.csr_matrix:
        parts = []
        for low, high in pairwise(edges):
            run = slice(int(indptr[low]), int(indptr[high]))
            cells, values = np.asarray(indices[run]), _plain(np.asarray(data[run]))
            if len(cells) and (int(cells.min()) < 0 or int(cells.max()) >= shape[0]):
                raise damaged(source, f"{name} has a value outside its {shape[0]:,} cells.")
            columns = (values, cells, indptr[low : high + 1] - run.start)
            parts.append(sparse.csc_matrix(columns, shape=(shape[0], high - low))[first:last].tocsr())
        return sparse.hstack(parts, format="csr")

    def take(start: int, stop: int) -> sparse.csr_matrix:
        if not held or start < held[0][0] or stop > held[0][0] + held[0][1].shape[0]:
            held.clear()  # its memory is needed for the next
            first = start if n_windows > 1 else 0
            held.append((first, read(first, min(max(stop, first - (-shape[0] // n_windows)), shape[0]))))
        first, rows = held[0]
        return rows[start - first : stop - first]

    return RowMatrix(shape, take, source, name)


def open_compressed(
    indptr: Any, indices: Any, data: Any, *, shape: tuple[int, int], by_column: bool = False, source: str, name: str
) -> RowMatrix:
    """Open a CSR or CSC matrix (cells × genes) on disk; a :class:`CellsError` if its parts do not fit each other."""
    major, minor = reversed(shape) if by_column else shape
    for part, array, kind in (("indptr", indptr, "iu"), ("indices", indices, "iu"), ("data", data, "buif")):
        if array.ndim != 1 or array.dtype.kind not in kind:
            raise damaged(source, f"{name}/{part} is of type {array.dtype} with {array.ndim} dimensions.")
    n_values = int(data.shape[0])
    problem = indptr.shape[0] != major + 1 or indices.shape[0] != n_values
    if not problem:
        with reading(source, f"{name}/indptr"):
            pointer: NDArray[np.int64] = np.asarray(indptr[:]).astype(np.int64)
        lengths = np.diff(pointer)
        problem = pointer[0] != 0 or pointer[-1] != n_values or bool((lengths < 0).any())
        problem = problem or int(lengths.max(initial=0)) > LONGEST_ROW * minor
    if problem:
        wanted = f"{n_values:,} values in {major:,} runs of at most {minor:,}"
        found = f"it has {indptr.shape[0]:,} entries, and indices {indices.shape[0]:,}"
        raise damaged(source, f"{name}/indptr does not describe {wanted}: {found}.")
    opens = csc_rows if by_column else csr_rows
    return opens(pointer, indices, data, shape=shape, source=source, name=name)


@dataclass(frozen=True, eq=False)
class Opened:
    """What the reader of a format found: ``obs`` with ids as stored, matrices by slot, their genes, lines to print."""

    obs: pd.DataFrame
    slots: Mapping[str, RowMatrix]
    var: pd.DataFrame
    raw_var: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()


STORABLE = frozenset({"string", "boolean", "integer", "floating", "empty"})
LONGEST_COLUMN = 200  # bytes of a column's name, which is a folder's name too; file systems take up to 255
RESERVED_COLUMNS = ("", ".", "..", "_index", "zarr.json")


def plain_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with columns that AnnData has a form for: what is no number or boolean becomes text."""
    columns = [_plain_column(frame.iloc[:, i]) for i in range(frame.shape[1])]
    plain = pd.DataFrame(dict(enumerate(columns)), index=frame.index)
    plain.index = frame.index.map(_storable)
    plain.columns = frame.columns.astype(str)
    name = plain.index.name
    plain.index.name = None if name is None or str(name) in plain.columns else str(name)
    return plain


def _plain_column(column: pd.Series) -> Any:
    if isinstance(column.dtype, pd.SparseDtype):
        column = pd.Series(np.asarray(column), index=column.index)
    if isinstance(column.dtype, pd.ArrowDtype):
        column = pd.Series(pd.array(column.to_numpy(dtype=object)), index=column.index)
    if isinstance(column.dtype, pd.CategoricalDtype):
        categories = pd.Index(np.asarray(_plain_column(pd.Series(column.cat.categories))))
        if not categories.is_unique:  # 1 and "1"
            return column.astype(object).map(str, na_action="ignore").astype("category")
        return column.cat.rename_categories(categories)
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind == "bytes":
        column, kind = pd.Series(decoded(column.to_numpy(dtype=object)), index=column.index, dtype=object), "string"
    missing = column.isna()
    if kind == "string" or kind not in STORABLE or (column.dtype == object and kind != "empty"):
        column = column.astype(str).astype(object).map(_storable).mask(missing, None)
        return column.astype("category") if missing.any() else column  # text has no form for missing values everywhere
    if kind == "empty":
        return column.astype(object).astype("category")
    if pd.api.types.is_extension_array_dtype(column.dtype):
        if kind == "floating":
            return column.astype(np.float64)
        return column if missing.any() else column.astype(column.dtype.numpy_dtype)
    return column if column.dtype.isnative else column.astype(column.dtype.newbyteorder("="))


def _storable(text: Any) -> Any:
    """Return text without what HDF5 cannot hold: null characters, half surrogates."""
    if not isinstance(text, str) or text.isprintable():
        return text
    return text.replace("\0", "").encode(errors="replace").decode()


def decoded(values: NDArray[Any]) -> NDArray[Any]:
    """Return text of bytes, whatever encoding was declared: UTF-8, or else that of Windows; other values as is."""
    if values.dtype.kind != "S" and not any(isinstance(value, bytes) for value in values.ravel()):
        return values
    text = [_text(value) if isinstance(value, bytes) else value for value in values.ravel().tolist()]
    return np.array(text, dtype=object).reshape(values.shape)


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("cp1252", errors="replace")


def fitting_names(columns: Iterable[object]) -> list[str]:
    """Return names that a store can hold for the columns of a table: they are names of folders, too."""
    names: list[str] = []
    for column in map(str, columns):
        name = "".join("_" if sign in "/\\" or category(sign) in ("Cc", "Cs") else sign for sign in column)
        name = name.encode()[:LONGEST_COLUMN].decode(errors="ignore")
        if name in RESERVED_COLUMNS:
            name = f"column_{name}"
        tries, wanted = 1, name
        while name in names:
            tries += 1
            name = f"{wanted[: LONGEST_COLUMN // 4]}_{tries}"
        names.append(name)
    return names


def why_no_labels(values: pd.Series) -> str | None:
    """Return what a column holds in place of labels, if its values are nearly all different or measured."""
    distinct = [str(value) for value in values.unique()]
    if all(DATE.fullmatch(value) for value in distinct):
        return "holds dates"
    n, n_cells = len(distinct), len(values)
    if n <= FEW_VALUES:
        return None
    numbers = pd.to_numeric(pd.Series(distinct), errors="coerce")
    counted = pd.api.types.is_numeric_dtype(values) and (n > MANY_NUMBERS or 4 * n > n_cells)  # text may be clusters
    if counted or (numbers.notna().all() and (numbers % 1 != 0).any()):
        return f"holds numbers ({n:,} different ones in {n_cells:,} cells)"
    return f"differs in nearly every cell ({n:,} values in {n_cells:,} cells)" if 2 * n > n_cells else None


def likely_columns(obs: pd.DataFrame) -> list[str]:
    """Return the names of a few columns that look like labels, the likeliest first."""
    columns = [str(name) for name in obs.columns if not str(name).startswith("scstore_")]
    texts = [name for name in columns if not pd.api.types.is_numeric_dtype(obs[name])]
    fitting = [name for name in texts if obs[name].nunique() > 1 and why_no_labels(obs[name].dropna()) is None]
    return sorted(fitting, key=lambda name: LIKELY.search(name) is None)[:3]
