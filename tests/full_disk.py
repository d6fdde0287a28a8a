"""A small file system that is really full, and one that is really read-only: mounted for one process, gone with it.

Run as a script inside `unshare --map-root-user --mount`, which lets a user mount what no other process sees.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

NAMESPACE = ("unshare", "--map-root-user", "--mount")
MEGABYTES = 8
PAGE = 4096

OPTIONS: dict[str, Any] = {"pool": (), "companions": ("genept", "genept_random"), "shard_rows": 16}


@dataclass
class FullDisk:
    """What became of extractions onto a full disk.

    Attributes
    ----------
    runs
        Extractions that were begun with too little room, or where nothing may be written.
    stopped
        How many of them met the end of the disk.
    kept
        Those that had written a store by then.
    violations
        Promises that did not hold.
    """

    runs: int = 0
    stopped: int = 0
    kept: int = 0
    violations: list[str] = field(default_factory=list)


def why_not(folder: Path) -> str | None:
    """Why no file system can be mounted here; ``None`` where one can."""
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    except OSError as error:
        return f"unshare cannot be run ({error.strerror})"
    return f"mounting is not allowed here ({done.stderr.strip()[:200]})" if done.returncode else None


def fill_disks(folder: Path, rounds: int, *, seed: int) -> FullDisk:
    """Extract onto a disk with room for a part, again with room for all, and onto a read-only one.

    Parameters
    ----------
    folder
        Empty.
    rounds
        How many times the disk is filled; how much room there is, is drawn.
    seed
        Of that.
    """
    command = [*NAMESPACE, sys.executable, __file__, str(folder), str(rounds), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return FullDisk(violations=[f"exit code {done.returncode}: {done.stderr[-2000:]}"])
    return FullDisk(**json.loads(done.stdout.splitlines()[-1]))


class _Trial:
    def __init__(self, folder: Path) -> None:
        from support import make_cells

        import scstore

        self.disk, self.kept, inputs = folder / "disk", folder / "kept", folder / "inputs"
        self.disk.mkdir()
        inputs.mkdir()
        self.cells, self.genes = inputs / "cells.h5ad", inputs / "genes.h5ad"
        make_cells(400, 60, empty=5).write_h5ad(self.cells)
        scstore.build_genes(self.genes, cells=self.cells, encoder="random:64")
        self.found = FullDisk()
        self.mount("-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs")
        self.root, self.filler = self.disk / "s.zarr", self.disk / "filler"
        empty = os.statvfs(self.disk).f_bavail
        self.extract()
        self.pages = empty - os.statvfs(self.disk).f_bavail
        self.whole = shutil.copytree(self.root, self.kept / "s.zarr")

    def mount(self, *words: str) -> None:
        subprocess.run(["mount", *words, str(self.disk)], check=True)

    def extract(self) -> None:
        import scstore

        scstore.extract(self.cells, self.root, genes=str(self.genes), **OPTIONS)

    def leave(self, pages: int) -> None:
        """Empty the disk and fill it up but for some pages."""
        for file in self.disk.iterdir():
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        with self.filler.open("wb") as file:
            for _ in range(os.statvfs(self.disk).f_bavail - pages):
                file.write(b"\1" * PAGE)

    def round(self, pages: int, *, larger: bool) -> None:
        self.leave(pages)
        said = f"{pages} of {self.pages} pages"
        self.found.runs += 1
        try:
            self.extract()
        except OSError as error:
            self.found.stopped += 1
            if error.errno != errno.ENOSPC or str(self.disk) not in str(error) or "Make room there" not in str(error):
                self.say(f"{said}: I4: {error!r}")
        except Exception as error:  # noqa: BLE001  # anything else is a traceback for the user
            self.say(f"{said}: I4: {type(error).__name__}: {error}")
        self.look(said)
        if larger:
            self.mount("-o", f"remount,size={2 * MEGABYTES}m")
        else:
            self.filler.unlink()
        self.go_on(said)
        if larger:
            self.leave(0)
            self.filler.unlink()
            self.mount("-o", f"remount,size={MEGABYTES}m")

    def look(self, said: str) -> None:
        """I1: nothing that can be seen is wrong."""
        import scstore

        if not self.root.exists():
            return
        self.found.kept += 1
        for finding in scstore.verify(self.root, deep=True).findings:
            self.say(f"{said}: I1: {finding}")
        store, whole = scstore.open(self.root), scstore.open(self.whole)
        rows = np.flatnonzero(store.committed)
        for name in store.views:
            got, wanted = (one.view(name)[rows] for one in (store, whole))
            same = (got != wanted).nnz == 0 if name == "X" else np.array_equal(got, wanted)
            if not same:
                self.say(f"{said}: I1: {name} differs")

    def go_on(self, said: str) -> None:
        """I3: with room, the same command ends in the same store."""
        import scstore
        from scstore import fsio

        try:
            self.extract()
            scstore.verify(self.root, deep=True, gc=True)
            if fsio.digest_tree(self.root) != fsio.digest_tree(self.whole):
                self.say(f"{said}: I3: the finished store differs")
        except Exception as error:  # noqa: BLE001
            self.say(f"{said}: I3: cannot go on: {type(error).__name__}: {error}")
        if left := {file.name for file in self.disk.iterdir()} - {"s.zarr", "filler"}:
            self.say(f"{said}: I3: left beside the store: {sorted(left)}")

    def command(self, pages: int) -> None:
        """The command line says it in one line."""
        self.leave(pages)
        self.found.runs += 1
        words = ["extract", self.cells, "-o", self.root, "--genes", self.genes, "--pool", "none", "--shard-rows", "16"]
        done = subprocess.run(
            [sys.executable, "-m", "scstore", *map(str, words)], capture_output=True, text=True, timeout=300
        )
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        plain = len(errors) == 1 and f"no room is left on the disk at {self.disk}. Make room there" in errors[0]
        if done.returncode != 1 or not plain or "Traceback" in done.stderr:
            self.say(f"I4: exit code {done.returncode}: {done.stderr[-1000:]}")
        self.look("the command")
        self.filler.unlink()
        self.go_on("the command")

    def read_only(self) -> None:
        """A finished store on a disk that cannot be written to."""
        import scstore
        from scstore.errors import ScstoreError

        self.mount("-o", "remount,ro")
        self.look("read-only")
        elsewhere = self.kept / "predicted.csv"
        uses: dict[str, Callable[[], object]] = {
            "fit": lambda: scstore.fit(self.root, self.kept / "head", label="cell_type"),
            "predict": lambda: scstore.predict(self.root, self.kept / "head", elsewhere),
            "query": lambda: scstore.query(self.root, self.root, k=2),
            "export": lambda: scstore.export(self.root, self.kept / "s.h5ad"),
        }
        for name, use in uses.items():
            try:
                use()
            except Exception as error:  # noqa: BLE001
                self.say(f"read-only: {name}: {type(error).__name__}: {error}")
        self.found.runs += 1
        try:
            self.extract()
            self.say("read-only: extract says nothing")
        except ScstoreError as error:
            if "cannot write there (Read-only file system)" not in str(error) or str(self.disk) not in str(error):
                self.say(f"read-only: I4: {error}")
        except Exception as error:  # noqa: BLE001
            self.say(f"read-only: I4: {type(error).__name__}: {error}")

    def say(self, line: str) -> None:
        self.found.violations.append(line)


def main() -> None:
    """Inside the namespace."""
    folder, rounds, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    trial, rng = _Trial(folder), np.random.default_rng(seed)
    # a draw in each of as many equal stretches: from no room at all to almost enough
    for i in range(rounds):
        low, high = (i * trial.pages // rounds, (i + 1) * trial.pages // rounds)
        trial.round(int(rng.integers(low, high)), larger=bool(i % 2))
    trial.command(trial.pages * 3 // 4)
    trial.read_only()
    sys.stdout.write(json.dumps(asdict(trial.found)) + "\n")


if __name__ == "__main__":
    main()
