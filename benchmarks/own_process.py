"""A measurement in a process of its own: on so many threads, and with a peak of memory that is its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def peak_gb() -> float:
    """Most resident memory that this process has had; pages of mapped files that it touched are part of it."""
    try:
        # of this program alone: getrusage also counts what the process was before it started this program
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    except OSError:
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e9


@contextmanager
def threads_for_children(threads: int) -> Iterator[None]:
    """Processes started inside run their arithmetic on so many threads, on so many cores where the system allows it."""
    before = {name: os.environ.get(name) for name in LIBRARIES}
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    os.environ.update(dict.fromkeys(LIBRARIES, str(threads)))
    if cores is not None:
        os.sched_setaffinity(0, sorted(cores)[:threads])
    try:
        yield
    finally:
        if cores is not None:
            os.sched_setaffinity(0, cores)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def in_own_process(function: Callable[..., dict[str, Any]], *given: Any, threads: int) -> dict[str, Any]:
    """What ``function(*given)`` gives in a fresh process, and its ``peak_gb``.

    Parameters
    ----------
    function
        Of a module.
    given
        What can be sent to another process.
    threads
        That it may use.
    """
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_run, args=(function, given, results))
    with threads_for_children(threads):
        process.start()
    while True:
        try:
            found: dict[str, Any] = results.get(timeout=5)
            break
        except queue.Empty:
            if not process.is_alive():
                msg = f"{function.__name__}{given}: its process ended with {process.exitcode}"
                raise RuntimeError(msg) from None
    process.join()
    return found


def _run(function: Callable[..., dict[str, Any]], given: tuple[Any, ...], results: Any) -> None:
    found = function(*given)
    results.put({**found, "peak_gb": peak_gb()})
