"""Real processes that extract and are killed (SIGKILL) at any moment."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from support import make_cells, write_model

import scstore
from scstore import fsio
from scstore.stores.verify import verify_store

OPTIONS: dict[str, Any] = {"shard_rows": 6, "device": "cpu"}
PRELOADED = ["torch", "transformers", "anndata", "zarr", "scstore.workflows.extract", "scstore.workflows.loading"]


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
    """

    killed: int
    finished: int
    violations: list[str]


def _extract(cells: Path, root: Path, model: Path) -> None:
    import torch

    torch.set_num_threads(1)
    scstore.extract(cells, root, model=str(model), **OPTIONS)


def kill_at_random(folder: Path, number: int, *, seed: int) -> Kills:
    """Kill `number` processes at random moments; whoever comes next goes on, until the store is there.

    Parameters
    ----------
    folder
        Empty; for the inputs and stores.
    number
        How many kills.
    seed
        Of the moments.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    rng = np.random.default_rng(seed)
    cells, model = folder / "cells.h5ad", write_model(folder / "model")
    make_cells(24, 12, empty=5).write_h5ad(cells)
    for name in ("a", "b"):
        (folder / name).mkdir()

    def start(root: Path) -> Any:
        process = context.Process(target=_extract, args=(cells, root, model))
        process.start()
        return process

    whole = folder / "a" / "s.zarr"
    start(whole).join()
    fsio.remove_tree(whole)  # the first one also started the server that forks the others
    begun = time.monotonic()
    start(whole).join()
    seconds, expected = time.monotonic() - begun, fsio.digest_tree(whole)
    found, root = Kills(0, 0, []), folder / "b" / "s.zarr"
    before: set[int] = set()
    while found.killed < number:
        process = start(root)
        process.join(float(rng.uniform(0, 1.1 * seconds)))
        if process.exitcode is None:
            process.kill()
            process.join()
            found.killed += 1
        for lock in root.parent.glob("*.lock"):
            if not lock.stat().st_size:  # killed before it was filled: nobody's after a minute
                os.utime(lock, (0, 0))
        after = _committed(root)
        if root.exists():
            found.violations += [f"I1: {finding}" for finding in verify_store(root, deep=True).findings]
        if not before <= after:
            found.violations.append(f"I2: shards {sorted(before - after)} were there and are not any more")
        before = after
        if process.exitcode == 0:
            verify_store(root, deep=True, gc=True)
            if fsio.digest_tree(root) != expected:
                found.violations.append("I3: the finished store differs")
            found.finished += 1
            before = set()
            for file in root.parent.iterdir():
                fsio.remove_tree(file)
        elif process.exitcode != -9:
            found.violations.append(f"I3: cannot go on: exit code {process.exitcode}")
            break
    return found


def _committed(root: Path) -> set[int]:
    if not root.exists():
        return set()
    store = scstore.open(root)
    assert store.plan is not None
    return {shard for shard, start, _ in store.plan.shards() if store.committed[start]}
