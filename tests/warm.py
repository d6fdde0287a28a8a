"""Real processes that extract, forked from one that has imported and loaded everything: they start at once.

The process that forks does nothing else, counts the file operations of its children as they come, and kills
(SIGKILL) a child at a moment that is named by operations and seconds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import selectors
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from support import make_cells, write_model

import scstore
from scstore import fsio
from scstore.errors import ScstoreError

OPTIONS: dict[str, Any] = {"shard_rows": 6, "device": "cpu"}

STUCK = 1800
"""Seconds after which a process that has not ended is one that never will."""


@dataclass(frozen=True)
class Job:
    """An extraction.

    Attributes
    ----------
    root
        Where the store is to be.
    part
        As with ``--shard i/n``.
    kill
        ``(operations, seconds)``: killed so long after so many file operations; ``None``: not killed.
    """

    root: Path
    part: tuple[int, int] = (0, 1)
    kill: tuple[int, float] | None = None


@dataclass
class Ended:
    """How an extraction ended.

    Attributes
    ----------
    code
        Its exit code; that of a signal is negative.
    error, message
        Name of the error and what it says; empty where there was none.
    typed
        Whether the error is one that is raised on purpose, or the system's.
    operations, shaped
        File operations that it did, and the number of the one that gave the new store its name (0: none).
    seconds, cpu_seconds
        From the fork to the end.
    """

    code: int = 0
    error: str = ""
    message: str = ""
    typed: bool = True
    operations: int = 0
    shaped: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass
class _Child:
    job: Job
    pid: int
    pipe: int
    begun: float
    said: bytearray = field(default_factory=bytearray)
    kill_at: float | None = None


class _Telling(fsio.Disk):
    """Tells of each operation before it is done, a byte each; ``R`` where the store gets its name."""

    def __init__(self, pipe: int, root: Path) -> None:
        self._pipe, self._root = pipe, root

    def create(self, path: Path) -> IO[bytes]:
        os.write(self._pipe, b".")
        return super().create(path)

    def write(self, file: IO[bytes], data: bytes | memoryview) -> None:
        os.write(self._pipe, b".")
        super().write(file, data)

    def sync(self, descriptor: int) -> None:
        os.write(self._pipe, b".")
        super().sync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        os.write(self._pipe, b"R" if target == self._root else b".")
        super().rename(source, target)

    def make_folder(self, path: Path) -> None:
        os.write(self._pipe, b".")
        super().make_folder(path)

    def make_unique_folder(self, parent: Path, prefix: str) -> Path:
        os.write(self._pipe, b".")
        return super().make_unique_folder(parent, prefix)

    def delete(self, path: Path) -> None:
        os.write(self._pipe, b".")
        super().delete(path)


class Warm:
    """Starts extractions of the same cells through the same model.

    Attributes
    ----------
    whole
        The store that an uninterrupted run makes. Others have the same bytes where their name is the same.
    unbroken
        How such a run ended: what it does, and when.
    """

    def __init__(self, connection: Connection, whole: Path) -> None:
        self._connection = connection
        self.whole = whole
        fsio.disk.delete(whole)  # the first one loaded everything; this one is like those that come
        self.unbroken = self.run(Job(whole))

    def start(self, *jobs: Job) -> None:
        """Start extractions at the same moment."""
        self._connection.send(jobs)

    def ended(self) -> bool:
        """Whether all that were started have ended."""
        return self._connection.poll()

    def wait(self) -> list[Ended]:
        """How those that were started ended, in their order."""
        ended: list[Ended] = self._connection.recv()
        return ended

    def run(self, job: Job) -> Ended:
        """Start one and wait for it."""
        self.start(job)
        return self.wait()[0]


@contextmanager
def warm(folder: Path, *, n_cells: int = 48) -> Iterator[Warm]:
    """A process from which extractions are forked.

    Parameters
    ----------
    folder
        Empty; for the cells and the model. Stores go into folders inside it, one each, since a store's record holds the
        way to its inputs.
    n_cells
        How many cells, in shards of 6.
    """
    cells, model, whole = folder / "cells.h5ad", folder / "model", folder / "whole" / "s.zarr"
    make_cells(n_cells, 12, empty=5).write_h5ad(cells)
    whole.parent.mkdir()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, cells, model, whole))
    process.start()
    theirs.close()
    try:
        ours.recv()
        yield Warm(ours, whole)
    finally:
        ours.close()  # which ends it
        process.join()


def _serve(connection: Connection, cells: Path, model: Path, whole: Path) -> None:
    warnings.simplefilter("ignore")
    os.environ.update({"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})
    import torch
    import tqdm

    tqdm.tqdm.monitor_interval = 0
    torch.set_num_threads(1)
    write_model(model)
    _extract(cells, model, Job(whole))
    connection.send("ready")
    while True:
        try:
            jobs = connection.recv()
        except EOFError:
            return
        connection.send(_run_all(jobs, cells, model))


def _extract(cells: Path, model: Path, job: Job) -> None:
    scstore.extract(cells, job.root, model=str(model), shard="{}/{}".format(*job.part), **OPTIONS)


def _run_all(jobs: Sequence[Job], cells: Path, model: Path) -> list[Ended]:
    gate, opener = os.pipe()
    children = {}
    for number, job in enumerate(jobs):
        reading, writing = os.pipe()
        begun = time.monotonic()
        if not (pid := os.fork()):
            os.close(opener)
            os.read(gate, 1)  # nothing comes: it is closed once all are there
            _be(job, writing, cells, model)
        os.close(writing)
        children[number] = _Child(job, pid, reading, begun)
    os.close(opener)
    os.close(gate)
    ended: dict[int, Ended] = {}
    with selectors.DefaultSelector() as selector:
        for number, child in children.items():
            selector.register(child.pipe, selectors.EVENT_READ, number)
        while len(ended) < len(children):
            alive = [child for number, child in children.items() if number not in ended]
            for child in alive:
                _plan_kill(child)
            moments = [child.kill_at for child in alive if child.kill_at is not None]
            wait = max(0.0, min([1.0, *(moment - time.monotonic() for moment in moments)]))
            for key, _ in selector.select(wait):
                child = children[key.data]
                if said := os.read(child.pipe, 65536):
                    child.said += said
                else:
                    selector.unregister(child.pipe)
                    ended[key.data] = _reap(child)
    return [ended[number] for number in range(len(jobs))]


def _plan_kill(child: _Child) -> None:
    now = time.monotonic()
    if child.kill_at is None:
        if child.job.kill is not None and len(child.said) >= child.job.kill[0]:
            child.kill_at = now + child.job.kill[1]
        elif now - child.begun > STUCK:
            child.kill_at = now
    if child.kill_at is not None and child.kill_at <= now:
        os.kill(child.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
        child.kill_at = now + STUCK


def _reap(child: _Child) -> Ended:
    _, status, usage = os.wait4(child.pid, 0)
    os.close(child.pipe)
    operations, _, words = bytes(child.said).partition(b"\n")
    told = json.loads(words) if words.strip() else {}
    return Ended(
        code=os.waitstatus_to_exitcode(status),
        operations=len(operations),
        shaped=operations.find(b"R") + 1,
        seconds=time.monotonic() - child.begun,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        **told,
    )


def _be(job: Job, pipe: int, cells: Path, model: Path) -> None:
    """What the forked process does; it never returns."""
    code, told = 1, {}
    try:
        fsio.disk = _Telling(pipe, job.root)
        _extract(cells, model, job)
        code = 0
    except BaseException as error:  # noqa: BLE001  # told to whoever asked for it
        typed = isinstance(error, ScstoreError | OSError)
        said = str(error) if typed else traceback.format_exc()
        told = {"error": type(error).__name__, "message": said, "typed": typed}
    finally:
        os.write(pipe, b"\n" + json.dumps(told).encode()[:60_000])
        os._exit(code)


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder in memory where there is one with room: a kill loses nothing that was written to a file."""
    memory = Path("/dev/shm")  # noqa: S108  # the folder inside it has a name that nobody can guess
    there = memory.is_dir() and os.access(memory, os.W_OK)
    room = there and os.statvfs(memory).f_bavail * os.statvfs(memory).f_frsize > 1 << 28
    return tempfile.TemporaryDirectory(dir=memory if room else None)
