"""Sums over rows that are too many for this machine's memory: of parts, on the workers of a cluster, if one is used."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from scstore.cluster import Held, cluster_in_use
from scstore.heads.rows import MEMORY_LIMIT, Array, Rows, fits, is_lazy, parts

R = TypeVar("R")
PART_ROWS = 1 << 14  # rows of a part at most: some files of a store's


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
    for place, part in parts(rows, PART_ROWS):
        yield part, *(array[place] for array in along)


def _apply(function: Callable[..., R], arguments: tuple[Any, ...]) -> R:
    return function(*arguments)
