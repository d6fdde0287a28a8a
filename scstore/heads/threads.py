"""How many threads the arithmetic of a head runs on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController, threadpool_limits  # type: ignore[import-untyped]

__all__ = ["in_threads", "no_spinning", "one_blas_thread"]

_LIMITED: ContextVar[bool] = ContextVar("one_blas_thread", default=False)

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let matrix products run on one thread each for as long as the block runs.

    The products of a head are small. On several threads they gain little, and beside another busy process they take
    5 to 30 times as long (OpenBLAS threads spin while they wait). On one, the last bit does not depend on the
    number of cores. Inside another such block it costs nothing: to find the loaded libraries takes milliseconds, as
    long as a small fit.
    """
    if _LIMITED.get():
        yield
        return
    token = _LIMITED.set(True)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        _LIMITED.reset(token)


@contextmanager
def no_spinning() -> Iterator[None]:
    """Let NumPy's matrix products run on one thread each, and FAISS on all of its own, for as long as the block runs.

    After a product on several threads OpenBLAS's spin for tens of milliseconds, on the cores that a search is about to
    need: it took twice as long.
    """
    if _LIMITED.get():
        yield
        return
    with _spinning_libraries().limit(limits=1):
        yield


@cache
def _spinning_libraries() -> Any:
    return ThreadpoolController().select(threading_layer=["pthreads"])  # FAISS's own is of OpenMP


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Results of ``function`` for each item, in the order of the items, worked out side by side."""
    workers = min(len(items), os.cpu_count() or 1, 8)
    if workers < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(function, items)
