"""Reading ahead of the model and writing behind it, so that it never waits for a disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

__all__ = ["Behind", "ahead"]

T = TypeVar("T")


def ahead(items: Iterator[T], executor: ThreadPoolExecutor, *, depth: int) -> Iterator[T]:
    """Give the items of an iterator, the next ``depth`` of them being made in another thread meanwhile.

    Parameters
    ----------
    items
        Advanced in that thread alone; an error in it is raised here, in its place.
    executor
        Of one thread, so that items keep their order.
    depth
        How many items may wait.
    """
    end = object()
    waiting: deque[Future[Any]] = deque(executor.submit(next, items, end) for _ in range(depth))
    while (item := waiting.popleft().result()) is not end:
        waiting.append(executor.submit(next, items, end))
        yield item
    for future in waiting:
        future.cancel()


class Behind:
    """Does work in another thread, in order, at most one piece waiting while one is done.

    An error in it is raised by the next :meth:`submit`, or at the end of the ``with`` block; nothing is done after it.
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, name)
        self._pending: deque[Future[Any]] = deque()

    def submit(self, work: Callable[..., None], *words: Any) -> None:
        """Hand over a piece of work; waits while two are pending."""
        while len(self._pending) > 1:
            self._pending.popleft().result()
        self._pending.append(self._executor.submit(work, *words))

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                while self._pending:
                    self._pending.popleft().result()
        finally:
            # what was handed over and not begun is dropped after an error; what was begun is finished
            self._executor.shutdown(wait=True, cancel_futures=True)
