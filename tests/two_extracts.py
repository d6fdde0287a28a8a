"""Two extractions of one store at once, and a reader that looks at it all the while."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from warm import Ended, Job, Warm

import scstore
from scstore import fsio
from scstore.errors import IncompleteStoreError, NotAStoreError, ScstoreError
from scstore.store.verify_store import verify_store

WAYS = ("same command", "parts", "after a kill")
"""Both extract everything; each has half (``--shard 0/2``, ``1/2``); both, where a killed process left its lock."""


@dataclass
class Reader:
    """Remembers every row it ever saw.

    Attributes
    ----------
    looks
        How often it looked.
    partial
        How often it saw a store of which some rows were there and others not.
    violations
        Rows that changed or went, and errors that nobody raised on purpose.
    """

    looks: int = 0
    partial: int = 0
    violations: list[str] = field(default_factory=list)
    _seen: dict[str, dict[int, bytes]] = field(default_factory=dict)
    _there: bool = False

    def look(self, root: Path) -> None:
        """Open the store and read all that can be read."""
        self.looks += 1
        try:
            self._read(root)
        except NotAStoreError as error:
            if self._there:
                self.violations.append(f"I2: the store was there and is not any more: {error}")
        except ScstoreError as error:
            self.violations.append(f"I1: a visible row cannot be read: {type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001  # anything else is a traceback for the user
            self.violations.append(f"I4: {type(error).__name__}: {error}")

    def _read(self, root: Path) -> None:
        store = scstore.open(root)
        self._there = True
        committed = store.committed  # before the rows: what is committed meanwhile is seen at the next look
        self.partial += bool(committed.any() and not committed.all())
        for name in store.views:
            rows = np.arange(store.n_obs) if name == "X" else np.flatnonzero(committed)
            values = store.view(name)[rows]
            values = values.toarray() if name == "X" else values
            now = {int(row): value.tobytes() for row, value in zip(rows, values, strict=True)}
            before = self._seen.get(name, {})
            changed = [row for row, value in before.items() if row in now and now[row] != value]
            if gone := before.keys() - now.keys():
                self.violations.append(f"I2: {name}: rows {sorted(gone)} were visible and are not any more")
            if changed:
                self.violations.append(f"I1: {name}: rows {changed} changed")
            self._seen[name] = now
        complete = store.is_complete  # before the rows: the last shard may be committed meanwhile
        try:
            assert len(store.usable_rows(allow_partial=True)) >= int(committed.sum()) - int(store.empty.sum())
            store.view("readout")[:]
        except IncompleteStoreError:
            if complete:
                self.violations.append("I2: a complete store says that it is not")


@dataclass
class Race:
    """What became of two extractions.

    Attributes
    ----------
    ended
        How each ended.
    reader
        Who looked on.
    violations
        Promises that did not hold.
    """

    ended: list[Ended]
    reader: Reader
    violations: list[str]

    @property
    def refused(self) -> int:
        """How many of the two were told that somebody else writes."""
        return sum(one.error == "LockedError" for one in self.ended)


def race(processes: Warm, root: Path, way: str) -> Race:
    """Start two extractions at once, read as fast as can be until both have ended, and name what went wrong.

    Parameters
    ----------
    processes
        What starts them.
    root
        Of the store, in a folder of its own that does not exist yet.
    way
        One of :data:`WAYS`.
    """
    root.parent.mkdir()
    parts = ((0, 2), (1, 2)) if way == "parts" else ((0, 1), (0, 1))
    if way == "after a kill":
        middle = (processes.unbroken.shaped + processes.unbroken.operations) // 2
        processes.run(Job(root, kill=(middle, 0.0)))
    reader = Reader()
    processes.start(*(Job(root, part) for part in parts))
    while not processes.ended():
        reader.look(root)
    ended = processes.wait()
    reader.look(root)
    found = list(reader.violations)
    for one in ended:
        if one.code and (one.error != "LockedError" or way == "parts"):
            found.append(f"I4: exit code {one.code}: {one.error}: {one.message}")
        elif one.code and not ("Wait for it" in one.message and str(root) in one.message):
            found.append(f"I4: the message does not say what to do: {one.message}")
    if all(one.code for one in ended):
        found.append(f"both were refused: {[one.message for one in ended]}")
    else:
        checked = verify_store(root, deep=True, gc=True)  # what the killed one left is nobody's
        found += [f"I1: {finding}" for finding in checked.findings]
        if fsio.digest_tree(root) != fsio.digest_tree(processes.whole):
            found.append("I3: the finished store differs")
    return Race(ended, reader, found)
