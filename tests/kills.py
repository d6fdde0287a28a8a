"""Real processes that extract and are killed (SIGKILL) at any moment."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from warm import Ended, Job, Warm

import scstore
from scstore import fsio
from scstore.store.verify_store import verify_store

SIGKILL = -9

UNBROKEN = 0.4
"""Share of the runs that nobody kills: they finish the store that the killed ones began."""

BY_THE_CLOCK = 0.25
"""Share of the kills whose moment is drawn by time; that of the others is drawn by file operations."""


@dataclass
class Kills:
    """What became of runs that were killed.

    Attributes
    ----------
    killed
        Processes that were.
    finished
        Stores that were finished all the same, each by many processes one after the other.
    violations
        Promises that did not hold.
    moments
        Kills by what was there then: ``no store``, or one, whose ``shards`` were written.
    cpu_seconds
        Of all processes that extracted.
    """

    killed: int = 0
    finished: int = 0
    violations: list[str] = field(default_factory=list)
    moments: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("no store", "shards"), 0))
    cpu_seconds: float = 0.0


def kill_at_random(processes: Warm, root: Path, number: int, *, seed: int) -> Kills:
    """Kill `number` processes at random moments; the next one goes on, until the store `root` is there.

    The folder of `root` lies beside that of `processes.whole` and does not exist yet.
    """
    rng, found = np.random.default_rng(seed), Kills()
    root.parent.mkdir()
    expected = fsio.digest_tree(processes.whole)
    before: set[int] = set()
    while found.killed < number:
        kill = None if before and rng.random() < UNBROKEN else _moment(rng, processes.unbroken, root, before)
        ended = processes.run(Job(root, kill=kill))
        found.cpu_seconds += ended.cpu_seconds
        if ended.code == SIGKILL:
            found.killed += 1
            found.moments["shards" if root.exists() else "no store"] += 1
        before = _look(root, before, found)
        if ended.code == 0:
            verify_store(root, deep=True, gc=True)
            if fsio.digest_tree(root) != expected:
                found.violations.append("I3: the finished store differs")
            found.finished += 1
            before = set()
            _start_anew(root)
        elif ended.code != SIGKILL:
            found.violations.append(f"I3: cannot go on: exit code {ended.code}: {ended.error}: {ended.message}")
            break
    _finish(processes, root, expected, found)
    return found


def _moment(rng: np.random.Generator, whole: Ended, root: Path, committed: set[int]) -> tuple[int, float]:
    """Operations, and seconds after them. The shards are few operations of a whole run, so they get their share."""
    pause = float(rng.uniform(0, 2 * whole.seconds / whole.operations))
    if rng.random() < BY_THE_CLOCK:
        return 0, float(rng.uniform(0, whole.seconds))
    writing = whole.operations - whole.shaped
    if root.exists():
        n_shards = scstore.open(root).plan.n_shards  # type: ignore[union-attr]
        return int(rng.integers(1, max(3, writing * (n_shards - len(committed)) // n_shards))), pause
    first, last = (1, whole.shaped) if rng.random() < 0.5 else (whole.shaped, whole.operations)
    return int(rng.integers(first, last)), pause


def _look(root: Path, before: set[int], found: Kills) -> set[int]:
    """I1 and I2, and the shards that are there now."""
    for lock in root.parent.glob("*.lock"):
        if not lock.stat().st_size:  # killed before it was filled: nobody's after a minute
            os.utime(lock, (0, 0))
    if not root.exists():
        return set()
    store = scstore.open(root)
    assert store.plan is not None
    after = {shard for shard, start, _ in store.plan.shards() if store.committed[start]}
    found.violations += [f"I1: {finding}" for finding in verify_store(root, deep=True).findings]
    if not before <= after:
        found.violations.append(f"I2: shards {sorted(before - after)} were there and are not any more")
    return after


def _finish(processes: Warm, root: Path, expected: str, found: Kills) -> None:
    """The last one is not killed."""
    ended = processes.run(Job(root))
    verify_store(root, deep=True, gc=True)
    if ended.code or fsio.digest_tree(root) != expected:
        found.violations.append(f"I3: the last store differs, or cannot be finished: {ended}")
    found.finished += 1


def _start_anew(root: Path) -> None:
    for file in root.parent.iterdir():
        fsio.disk.delete(file)
