from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from scstore.extraction.extract import BackgroundWriter, prefetch


def test_items_keep_their_order_and_are_made_in_another_thread() -> None:
    threads: list[str] = []

    def items() -> Iterator[int]:
        for i in range(20):
            threads.append(threading.current_thread().name)
            yield i

    with ThreadPoolExecutor(1, "reader") as executor:
        assert list(prefetch(items(), executor, depth=3)) == list(range(20))
    assert {name.rsplit("_", 1)[0] for name in threads} == {"reader"}


def test_no_more_than_depth_items_are_made_before_they_are_asked_for() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            yield i

    with ThreadPoolExecutor(1) as executor:
        given = prefetch(items(), executor, depth=2)
        assert next(given) == 0
        executor.submit(lambda: None).result()  # everything submitted so far is done
        assert len(made) <= 3
        given.close()  # type: ignore[attr-defined]


def test_an_error_while_reading_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        msg = "the disk"
        raise OSError(msg)

    seen = []
    with ThreadPoolExecutor(1) as executor, pytest.raises(OSError, match="the disk"):
        for item in prefetch(items(), executor, depth=2):
            seen.append(item)  # noqa: PERF402
    assert seen == [1]


def test_work_is_done_in_order_and_finished_at_the_end() -> None:
    done: list[int] = []
    with BackgroundWriter("writer") as behind:
        for i in range(10):
            behind.submit(done.append, i)
    assert done == list(range(10))


def test_an_error_while_writing_is_raised_and_nothing_is_written_after_it() -> None:
    done: list[int] = []

    def write(i: int) -> None:
        if i == 1:
            msg = "no space"
            raise OSError(msg)
        done.append(i)

    with pytest.raises(OSError, match="no space"), BackgroundWriter("writer") as behind:
        for i in range(6):
            behind.submit(write, i)
    assert done == [0] or done == [0, 2]  # one more may have been handed over before the error was known


def test_an_error_of_the_caller_waits_for_what_is_being_written() -> None:
    begun, finished = threading.Event(), []

    def write() -> None:
        begun.set()
        finished.append(1)

    with pytest.raises(KeyError), BackgroundWriter("writer") as behind:
        behind.submit(write)
        begun.wait(10)
        raise KeyError
    assert finished == [1]
