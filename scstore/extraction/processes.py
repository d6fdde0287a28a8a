"""Several processes on one store: the part of each, and the one that creates the store while the others wait.

There is no communication between them but the files: any of them may die, and any number of others finish the store.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scstore import fsio
from scstore.errors import LockedError, OptionError
from scstore.store.locks import Part, creation_lock

T = TypeVar("T")

# Seconds between looks at a store that another process is creating.
POLL = 0.2


@dataclass(frozen=True)
class Process:
    """One process among those on the store, its share of the shards, and its GPU where a launcher started several."""

    part: Part
    device: str | None
    launched: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether a launcher started several and another one speaks for all."""
        return self.launched and self.part.index > 0


def this_process(part: Part | None = None) -> Process:
    """Find this process's part: as given, as ``accelerate launch`` or ``torchrun`` set it, or the whole."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Process(part or Part(), None)
    if part is not None:
        msg = f"shard='{part.index}/{part.count}': a launcher started {world} processes, which share the work already."
        raise OptionError(msg)
    return Process(Part(int(os.environ["RANK"]), world), _gpu(int(os.environ.get("LOCAL_RANK", "0"))), launched=True)


def _gpu(local_rank: int) -> str | None:
    import torch

    return f"cuda:{local_rank}" if torch.cuda.is_available() else None


def create_or_wait(target: Path, process: Process, create: Callable[[], T], *, overwrite: bool) -> T | None:
    """Create the store with ``create``, under a lock that the others see, or wait until another process has.

    Returns ``None`` where the store was there or another process created it. Raises LockedError if the creating
    process is on another host and shows no sign of life.
    """
    if overwrite and process.part.count > 1:
        raise OptionError("overwrite=True: several processes cannot replace a store. Delete it first, then start them.")
    lock = creation_lock(target)
    while overwrite or not target.exists():
        try:
            with fsio.lock(lock):
                if target.exists() and not overwrite:
                    return None
                return create()
        except LockedError:
            with suppress(FileNotFoundError):
                if time.time() - lock.stat().st_mtime > fsio.STALE:
                    raise
            time.sleep(POLL)
    return None
