"""A measurement in a process of its own: on so many threads, and with a peak of memory that is its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def peak_gb() -> float:
    """Most resident memory that this process has had; pages of mapped files that it touched are part of it."""
    if seen := _highest_gb("self"):
        return seen
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e9


def _highest_gb(process: str) -> float:
    """The same of a process that runs; 0 where the system does not tell."""
    try:
        # of this program alone: getrusage also counts what the process was before it started this program
        for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    except OSError:
        pass
    return 0.0


def run_and_watch(words: Sequence[str | Path], *, threads: int) -> tuple[str, dict[str, float]]:
    """What a command prints, and its ``seconds``, ``cpu_seconds`` and ``peak_gb``; its error ends this process."""
    most, begun, spent = 0.0, time.perf_counter(), _children_seconds()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as told:
        with threads_for_children(threads):
            process = subprocess.Popen(list(map(str, words)), stdout=said, stderr=told)
        while process.poll() is None:
            most = max(most, _highest_gb(str(process.pid)))
            time.sleep(0.01)
        seconds = time.perf_counter() - begun
        said.seek(0), told.seek(0)
        if process.returncode:
            message = f"{' '.join(map(str, words))}: it failed:\n{told.read().strip()[-2000:]}"
            raise SystemExit(message)
        return said.read(), {"seconds": seconds, "cpu_seconds": _children_seconds() - spent, "peak_gb": most}


def _children_seconds() -> float:
    """Processor time of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
