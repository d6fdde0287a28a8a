"""Rows of features in memory, in a store or behind a transformation, read in runs or by choice, never all at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scstore.cluster import Held, cluster_in_use
from scstore.errors import CellsError, OptionError

Array = NDArray[Any]
R = TypeVar("R")

MEMORY_LIMIT = 1 << 30  # default bytes of float32 that a head may hold of its training rows
PART_ROWS = 1 << 14  # rows of a part for a cluster at most: some files of a store's
BLOCK_BYTES = 1 << 25  # bytes of float32 in one block of a pass over the rows


class Rows(Protocol):
    """A matrix of features, n rows of width d, read in pieces.

    ``rows[slice]`` and ``rows[sorted, distinct int array]`` give those rows as an ndarray (float16, float32 or
    float64) or as a SciPy CSR matrix. Rows made of other rows name those in ``below``.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, d)``."""

    def __getitem__(self, key: Any, /) -> Any:
        """Return a run of rows, or chosen ones."""


def is_lazy(X: object) -> bool:
    """Whether ``X`` is to be read in pieces: it has rows, and is not an array, sparse matrix or data frame."""
    if isinstance(X, np.ndarray) or sparse.issparse(X) or hasattr(X, "iloc") or hasattr(X, "__dataframe__"):
        return False
    return hasattr(X, "__getitem__") and len(getattr(X, "shape", ())) == 2


def as_rows(view: Any, name: str) -> Rows:
    """Return a view as rows, sparse matrices as CSR; :class:`CellsError` where it is not a matrix of numbers."""
    rows: Rows = sparse.csr_matrix(view) if sparse.issparse(view) else view
    if not is_lazy(rows) and not sparse.issparse(rows):
        rows = np.asarray(rows)
    kind = getattr(getattr(rows, "dtype", None), "kind", "f")
    if len(rows.shape) != 2 or kind not in "fiub":
        raise CellsError(f"View {name}: shape {rows.shape}. Give a matrix of numbers (cells × columns).")
    return rows


def fits(rows: Rows, memory_limit: int) -> bool:
    """Whether the whole matrix as float32 stays within ``memory_limit`` bytes."""
    return 4 * rows.shape[0] * rows.shape[1] <= memory_limit


def block_within(memory_limit: int) -> int:
    """Return the bytes of a block for a pass that may take ``memory_limit`` bytes, its float64 copies included."""
    return min(BLOCK_BYTES, max(1, memory_limit // 4))


def widest(rows: Rows) -> int:
    """Return the columns that a row takes while it is read, at least 1: those of all matrices below it count."""
    below = getattr(rows, "below", ())
    return max(1, rows.shape[1], sum(widest(part) for part in below))


def to_dense(block: Any) -> Array:
    """Return a block of rows, dense or sparse, as a C-contiguous float32 array that may share its memory."""
    array = block.toarray() if sparse.issparse(block) else block
    return np.ascontiguousarray(array, dtype=np.float32)


def fetch(rows: Rows, key: slice | Array) -> Any:
    """Return rows as stored, in the order of ``key``; files are asked for sorted, distinct ones, as HDF5 demands."""
    if isinstance(key, slice) or isinstance(rows, np.ndarray) or sparse.issparse(rows):
        return rows[key]
    wanted, inverse = np.unique(key, return_inverse=True)
    block = rows[wanted]
    return block if len(wanted) == len(key) and np.array_equal(wanted, key) else block[inverse]


def read(rows: Rows, key: slice | Array) -> Array:
    """Return rows ``(len(key), d) float32``, read-only; :class:`CellsError` where a value is not finite."""
    # Arithmetic on a bad value inside a mapped view would warn; the check below finds its row.
    with np.errstate(over="ignore", invalid="ignore"):
        block = to_dense(fetch(rows, key))
        # One bad value makes the sum bad. Large values can too, so then every row is checked.
        finite = np.isfinite(block.sum()) or np.isfinite(block).all(axis=1)
    if not np.all(finite):
        place = int(np.flatnonzero(~np.asarray(finite))[0])
        row = int(_places(rows)[key][place])
        raise CellsError(f"Row {row:,} of the features (from 0) has NaN, infinity or too large a value. Leave it out.")
    return block


def iter_raw_blocks(rows: Rows, *, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, Any]]:
    """Yield ``(first row, block as stored)`` over all rows; a block would take ``block_bytes`` as float32 at most."""
    for part in _slices(rows, block_bytes):
        yield part.start, rows[part]


def iter_blocks(rows: Rows, *, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, Array]]:
    """Yield ``(first row, (b, d) float32 block)`` over all rows, each of at most ``block_bytes`` (one row at least)."""
    for part in _slices(rows, block_bytes):
        yield part.start, read(rows, part)


def _slices(rows: Rows, block_bytes: int) -> Iterator[slice]:
    n = rows.shape[0]
    step = max(1, block_bytes // (4 * widest(rows)))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def materialise(rows: Rows) -> Array:
    """Return all rows as one new ``(n, d) float32`` array, filled block by block."""
    whole = np.empty((rows.shape[0], rows.shape[1]), dtype=np.float32)
    for start, block in iter_blocks(rows):
        whole[start : start + len(block)] = block
    return whole


class RowSubset:
    """Rows ``index`` ``(m,)`` of a matrix ``(n, d)``, in that order, read when asked for."""

    def __init__(self, rows: Rows, index: Array) -> None:
        index = np.asarray(index, dtype=np.int64)
        self.below: tuple[Rows, ...] = rows.below if isinstance(rows, RowSubset) else (rows,)
        self.index: Array = rows.index[index] if isinstance(rows, RowSubset) else index
        self.shape = len(self.index), rows.shape[1]

    def __getitem__(self, key: slice | Array) -> Any:
        return fetch(self.below[0], self.index[key])


class MappedRows:
    """Rows passed through a function of each row alone, from a block as stored to ``(b, width)``, when asked for."""

    def __init__(self, rows: Rows, function: Callable[[Any], Array], *, width: int) -> None:
        self.below = (rows,)
        self.function = function
        self.shape = rows.shape[0], width

    def __getitem__(self, key: slice | Array) -> Array:
        return self.function(fetch(self.below[0], key))


class ConcatRows:
    """Matrices of the same n cells side by side, joined when asked for."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.below = tuple(parts)
        self.shape = parts[0].shape[0], sum(part.shape[1] for part in parts)

    def __getitem__(self, key: slice | Array) -> Array:
        return np.concatenate([to_dense(fetch(part, key)) for part in self.below], axis=1)


class StackedRows:
    """Matrices of the same columns one below the other, all dense or all sparse, read when asked for."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = tuple(parts)
        self.shape = sum(part.shape[0] for part in parts), parts[0].shape[1]

    def __getitem__(self, key: slice | Array) -> Any:
        wanted = np.arange(self.shape[0])[key]
        starts = np.cumsum([0, *(part.shape[0] for part in self.parts)])
        owner = np.searchsorted(starts, wanted, side="right") - 1
        blocks = [fetch(part, wanted[owner == i] - starts[i]) for i, part in enumerate(self.parts)]
        joined = sparse.vstack(blocks, format="csr") if sparse.issparse(blocks[0]) else np.concatenate(blocks)
        return joined[np.argsort(np.argsort(owner, kind="stable"))]


def is_spread(rows: Rows, memory_limit: int | None = None) -> bool:
    """Whether rows are for a cluster: one is in use, and as float32 they are more than memory may hold here."""
    return cluster_in_use() is not None and is_lazy(rows) and not fits(rows, memory_limit or MEMORY_LIMIT)


def total(function: Callable[..., R], rows: Rows, *along: Array, add: Callable[[Sequence[R]], R]) -> R:
    """Return what a function says of rows and of arrays ``(n, …)`` along them: of all at once, or added up of parts."""
    if not is_spread(rows):
        return function(rows, *along)
    return Held.make(partial(_apply, function), with_arrays(rows, *along)).total(add)


def with_arrays(rows: Rows, *along: Array) -> Iterator[tuple[Any, ...]]:
    """Yield parts of rows, each with its part of arrays ``(n, …)``."""
    for place, part in _parts(rows, PART_ROWS):
        yield part, *(array[place] for array in along)


def _apply(function: Callable[..., R], arguments: tuple[Any, ...]) -> R:
    return function(*arguments)


def _parts(rows: Rows, n_rows: int) -> Iterator[tuple[slice, Rows]]:
    """Yield runs of rows, as rows of their own: those of ``n_rows`` rows of the matrix below, whose files they share.

    Each holds its own part of an index alone, so that it can be sent to another process.
    """
    places = _places(rows)
    ends: Any = range(n_rows, len(places), n_rows)
    if (np.diff(places) >= 0).all():
        ends = np.searchsorted(places, np.arange(n_rows, places[-1] + 1, n_rows))
    for start, stop in pairwise([0, *ends, len(places)]):
        if start < stop:
            yield slice(start, stop), _run(rows, start, stop)


def _places(rows: Rows) -> Array:
    """Return the row of the lowest matrix that each row is made of."""
    places = np.arange(rows.shape[0])
    while below := getattr(rows, "below", ()):
        places = rows.index[places] if isinstance(rows, RowSubset) else places
        rows = below[0]
    return places


def _run(rows: Rows, start: int, stop: int) -> Rows:
    if isinstance(rows, RowSubset):
        return RowSubset(rows.below[0], rows.index[start:stop])
    if isinstance(rows, MappedRows):
        return MappedRows(_run(rows.below[0], start, stop), rows.function, width=rows.shape[1])
    if isinstance(rows, ConcatRows):
        return ConcatRows([_run(part, start, stop) for part in rows.below])
    return RowSubset(rows, np.arange(start, stop))


def count_cells(rows: Mapping[str, Rows]) -> int:
    """Return the number of cells; refuse views that differ in it."""
    lengths = {name: view.shape[0] for name, view in rows.items()}
    if not lengths:
        raise OptionError("views: none given. Name at least one view to learn from.")
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise CellsError(f"The views differ in their number of cells ({counts}). Give the same cells in all views.")
    return next(iter(lengths.values()))
