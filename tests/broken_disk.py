"""Every file operation of a run, broken in every way in turn, and what must be true afterwards.

A kill is acted out in this process: the operation is left undone (a write: half done) and nothing is done to any file
from then on, not by cleaning up either. `benchmarks/faults.py` kills real processes as well.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from support import make_cells

import scstore
from scstore import fsio
from scstore.errors import ScstoreError
from scstore.store.ledger import record_path
from scstore.store.verify_store import Verification, verify_store

T = TypeVar("T")

FAULTS = ("kill", "enospc", "eio", "short")

NOBODY = 4_194_311
"""A process id above what systems give out."""

OPTIONS: dict[str, Any] = {"pool": (), "companions": ("genept", "genept_random"), "shard_rows": 4}


class Killed(BaseException):
    """What SIGKILL would be."""


class BrokenDisk(fsio.Disk):
    """A disk whose operation number `at` goes wrong; without a number it only keeps count.

    Attributes
    ----------
    trace
        The operations so far: what was done to which file.
    """

    def __init__(self, at: int = -1, fault: str = "") -> None:
        self.trace: list[tuple[str, str]] = []
        self.dead = False
        self._at, self._fault = at, fault
        self._lock = threading.Lock()

    def _do(self, name: str, path: object, work: Callable[[], T], half: Callable[[], object] | None = None) -> T:
        with self._lock:
            number = len(self.trace)
            self.trace.append((name, str(path)))
        if self.dead:
            raise Killed
        if number != self._at:
            return work()
        if self._fault == "kill":
            if half is not None:
                half()
            self.dead = True
            raise Killed
        if self._fault == "short" and half is not None:
            half()
        if self._fault == "eio":  # done, and reported as failed
            if hasattr(made := work(), "close"):
                made.close()
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def create(self, path: Path) -> IO[bytes]:
        return self._do("create", path, lambda: super(BrokenDisk, self).create(path))

    def write(self, file: IO[bytes], data: bytes | memoryview) -> None:
        def half() -> None:
            file.write(memoryview(data).cast("B")[: memoryview(data).nbytes // 2])
            file.flush()

        self._do("write", file.name, lambda: super(BrokenDisk, self).write(file, data), half)

    def sync(self, descriptor: int) -> None:
        link = Path(f"/proc/self/fd/{descriptor}")
        self._do(
            "sync",
            link.readlink() if link.is_symlink() else descriptor,
            lambda: super(BrokenDisk, self).sync(descriptor),
        )

    def rename(self, source: Path, target: Path) -> None:
        self._do("rename", target, lambda: super(BrokenDisk, self).rename(source, target))

    def make_folder(self, path: Path) -> None:
        self._do("make_folder", path, lambda: super(BrokenDisk, self).make_folder(path))

    def exchange(self, one: Path, other: Path) -> bool:
        return self._do("exchange", other, lambda: super(BrokenDisk, self).exchange(one, other))

    def link(self, file: Path, name: Path) -> bool:
        return self._do("link", name, lambda: super(BrokenDisk, self).link(file, name))

    def delete(self, path: Path) -> None:
        self._do("delete", path, lambda: super(BrokenDisk, self).delete(path))


@contextmanager
def in_place_of_the_disk(disk: fsio.Disk) -> Iterator[None]:
    """scstore writes with this one as long as the block runs."""
    real, fsio.disk = fsio.disk, disk
    try:
        yield
    finally:
        fsio.disk = real


@dataclass(frozen=True)
class Bench:
    """A run to be broken.

    Attributes
    ----------
    inputs
        Folder of its cells and gene table.
    begun
        A store that it goes on with; ``None`` where it makes one.
    whole
        The store that an uninterrupted run makes.
    digest
        Of that.
    before
        Shards that are there, and sound, before the run.
    """

    inputs: Path
    begun: Path | None
    whole: Path
    digest: str = ""
    before: frozenset[int] = frozenset()

    @property
    def root(self) -> Path:
        """Where it makes its store: beside the inputs, since its record holds the way to them."""
        return self.inputs.parent / "run" / "s.zarr"

    def run(self, *, shard: str | None = None) -> scstore.Store:
        """The run itself, or a part of it."""
        genes = str(self.inputs / "genes.h5ad")
        return scstore.extract(self.inputs / "cells.h5ad", self.root, shard=shard, genes=genes, **OPTIONS)

    def set_up(self) -> None:
        """What is there before the run."""
        shutil.rmtree(self.root.parent, ignore_errors=True)
        self.root.parent.mkdir()
        if self.begun is not None:
            shutil.copytree(self.begun, self.root)


def make_benches(folder: Path) -> dict[str, Bench]:
    """A run from the beginning, and one that goes on where a shard of three is there and another one is damaged."""
    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    cells = make_cells(10, 8, empty=5)
    cells.obs = cells.obs[["cell_type"]]
    cells.write_h5ad(inputs / "cells.h5ad")
    scstore.build_genes(inputs / "genes.h5ad", cells=inputs / "cells.h5ad", encoder="random:8")
    fresh = Bench(inputs, None, folder / "whole" / "s.zarr")
    fresh.set_up()
    fresh.run()
    shutil.copytree(fresh.root, fresh.whole)
    begun = shutil.copytree(fresh.whole, folder / "begun" / "s.zarr")
    record_path(begun, 2).unlink()
    chunk = begun / "obsm" / "genept" / "c" / "1" / "0"
    chunk.write_bytes(b"\1" * chunk.stat().st_size)
    digest, sound = fsio.digest_tree(fresh.whole), frozenset(_sound(begun, verify_store(begun, deep=True)))
    return {
        "fresh": Bench(inputs, None, fresh.whole, digest),
        "begun": Bench(inputs, begun, fresh.whole, digest, sound),
    }


def count_operations(bench: Bench) -> list[tuple[str, str]]:
    """The operations of an unbroken run."""
    bench.set_up()
    disk = BrokenDisk()
    with in_place_of_the_disk(disk):
        bench.run()
    return disk.trace


def violations(bench: Bench, *, at: int, fault: str) -> list[str]:
    """Break one operation of a run, and name the promises that do not hold then."""
    bench.set_up()
    root, folder = bench.root, bench.root.parent
    disk, found = BrokenDisk(at, fault), []
    with in_place_of_the_disk(disk):
        try:
            bench.run()
        except (OSError, ScstoreError) as error:
            if not str(error):
                found.append("I4: an error without a message")
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  # anything else is a traceback for the user
            found.append(f"I4: {type(error).__name__}: {error}")
    as_if_another_process(folder)
    if root.exists():
        checked = verify_store(root, deep=True)
        after = _sound(root, checked)
        if gone := bench.before - after:
            found.append(f"I2: shards {sorted(gone)} were there and are not any more")
        found += _wrong_rows(root, bench.whole, after)
        damage = [f for f in checked.findings if f.shard is None or f.shard in bench.before]
        found += [f"I1: {finding}" for finding in damage]
    try:
        bench.run()
        verify_store(root, deep=True, gc=True)
        if fsio.digest_tree(root) != bench.digest:
            found.append("I3: the finished store differs")
        if left := sorted(file.name for file in folder.iterdir() if file != root):
            found.append(f"I3: left beside the store: {left}")
    except Exception as error:  # noqa: BLE001
        found.append(f"I3: cannot go on: {type(error).__name__}: {error}")
    return [f"operation {at} {disk.trace[at] if at < len(disk.trace) else ''} {fault}: {line}" for line in found]


def _sound(root: Path, checked: Verification) -> set[int]:
    """Shards whose record is there and whose bytes match it."""
    plan = scstore.open(root).plan
    assert plan is not None
    damaged = checked.damaged_shards
    return {shard for shard in range(plan.n_shards) if record_path(root, shard).exists() and shard not in damaged}


def _wrong_rows(root: Path, whole: Path, shards: set[int]) -> list[str]:
    """I1: what can be read is what an uninterrupted run would have written."""
    store, expected, found = scstore.open(root), scstore.open(whole), []
    if not store.obs.equals(expected.obs):
        found.append("I1: obs differs")
    assert store.plan is not None
    for shard in shards:
        start, stop = store.plan.bounds(shard)
        for name in store.views:
            got, wanted = (s.view(name)[start:stop] for s in (store, expected))
            if name == "X":
                got, wanted = got.toarray(), wanted.toarray()
            if not np.array_equal(got, wanted):
                found.append(f"I1: {name} of shard {shard} differs")
    return found


def as_if_another_process(folder: Path) -> None:
    """What was left behind is of a process that is dead."""
    for lock in folder.glob("*.lock"):
        try:
            owner = json.loads(lock.read_text())
            lock.write_text(json.dumps({**owner, "pid": NOBODY}))
        except ValueError:  # killed before it was filled, and a while ago
            then = time.time() - 2 * fsio.STARTING
            os.utime(lock, (then, then))
    for partial in list(folder.rglob(f"*{fsio.PARTIAL}{os.getpid()}")):
        partial.rename(partial.with_name(partial.name.replace(str(os.getpid()), str(NOBODY))))
