"""The look that a child process takes at an HDF5 file: all that a reader would touch, in bounded steps.

What can go wrong inside libhdf5 on a damaged file (a loop without an end, a crash, gigabytes) goes wrong here. The
kernel ends a step that takes more than some seconds of CPU; a slow disk costs none. :mod:`scstore.untrusted.hdf5` is
the other end.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from scstore.untrusted.limits import FLOOR, RATIO, declared_bytes, outside, too_large

try:
    import resource
except ImportError:  # Windows: no limits, only crashes are found
    resource = None  # type: ignore[assignment]

__all__ = ["main", "problem_with"]

STEP_SECONDS, WALK_SECONDS = 3, 30
"""CPU time that one object of a file may take, and the whole file."""

WHOLE = 1 << 24
"""Bytes of a file whose values are all read; of a larger one the first and last of each data set."""

BLOCK, VALUES = 1 << 22, 1 << 28
"""Bytes that are decoded at once, and of one file in all."""

STRINGS = 1 << 14
"""Strings that are read at once."""

OBJECTS = 20_000
"""Groups and data sets that are looked at; those that scstore reads come first."""

PATHS = 1_000_000
"""Ways from the root to an object, by links of any kind: more of them read as a file without an end."""

DEPTH = 64
"""Groups nested deeper than this are of no AnnData."""

MEMORY, MEMORY_LIMIT = 1 << 28, 1 << 32
"""Bytes that the walk may allocate, beside four times the file, and at most."""

MAPPED = Path("/proc/self/statm")
"""Where Linux says what a process has mapped."""

FIRST = ("obs", "var", "X", "raw", "layers", "matrix", "obsm", "uns")


class Refused(Exception):  # noqa: N818  # no error: a finding
    """What is wrong with a file, in words that follow its name."""


def main() -> None:
    """Answer each path that comes in, a JSON string a line, with one line: what is wrong, or ``null``."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(problem_with(json.loads(line))), file=answers, flush=True)
    os._exit(0)  # whatever a damaged file left behind in libhdf5 is not closed


def problem_with(path: str) -> str | None:
    """Walk through a file.

    Returns
    -------
    What is wrong with it; ``None`` where nothing is, or where a reader will say it better: what merely does not parse
    is an error there.
    """
    size = 0
    try:
        size = Path(path).stat().st_size
        _bound_memory(size)
        _Walk(path, size).run()
    except Refused as refused:
        return str(refused)
    except MemoryError:
        return (
            f"reading it takes more memory than its {size:,} bytes have use for. It is damaged or made to exhaust "
            "memory: get it again from where it came from."
        )
    finally:
        _bound_memory(None)
    return None


def _bound_memory(size: int | None) -> None:
    if resource is None or not MAPPED.exists():
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = hard
    if size is not None:
        used = int(MAPPED.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        limit = used + min(MEMORY + 4 * size, MEMORY_LIMIT)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


@contextlib.contextmanager
def _unless_refused() -> Iterator[None]:
    """Pass over what HDF5 cannot read, which is the reader's to say; not over what it cannot allocate."""
    try:
        yield
    except (Refused, MemoryError):
        raise
    except Exception as error:  # libraries raise anything on damaged bytes
        if "allocat" in str(error):
            raise MemoryError from error


class _Walk:
    """A walk through one file, every object of it once."""

    def __init__(self, path: str, size: int) -> None:
        self.path, self.size = path, size
        self.began = self._cpu()
        self.values_left = VALUES
        self.seen: dict[Any, tuple[int, int]] = {}
        """Of each object that is done: paths below it, and bytes that they declare."""
        self.open: set[Any] = set()
        self.file_number: Any = None

    def run(self) -> None:
        self._step()
        declared = 0
        with _unless_refused(), h5py.File(self.path, "r") as file:
            self.file_number = h5py.h5o.get_info(file.id).fileno
            _, declared = self._object(file, "the root", 0)
        if declared > max(4 * FLOOR, RATIO * self.size):
            msg = (
                f"its arrays declare {declared:,} bytes together, but the whole file has {self.size:,}. It is damaged "
                "or made to exhaust memory: get it again from where it came from."
            )
            raise Refused(msg)

    def _cpu(self) -> float:
        return sum(os.times()[:2])

    def _step(self) -> None:
        """Give the next step its time."""
        if resource is not None:
            end = min(self._cpu() + STEP_SECONDS, self.began + WALK_SECONDS)
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            limit = math.ceil(end) if hard == resource.RLIM_INFINITY else min(math.ceil(end), hard)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))

    def _object(self, node: Any, name: str, depth: int) -> tuple[int, int]:
        """Look at a group or data set and all below it: paths, and bytes that they declare."""
        info = h5py.h5o.get_info(node.id)
        if info.fileno != self.file_number:
            _refuse_link(name)
        if info.addr in self.open or depth > DEPTH:
            msg = f"groups below {name.rpartition('/')[0] or name} are nested without end. The file is damaged."
            raise Refused(msg)
        if (done := self.seen.get(info.addr)) is not None:
            return done
        if len(self.seen) >= OBJECTS:
            return 1, 0
        self._step()
        found = 1, 0
        self.open.add(info.addr)
        with _unless_refused():
            self._attributes(node, name)
        if isinstance(node, h5py.Group):
            found = self._members(node, name, depth)
        elif isinstance(node, h5py.Dataset):
            found = 1, self._dataset(node)
        self.open.discard(info.addr)
        self.seen[info.addr] = found
        return found

    def _members(self, group: h5py.Group, name: str, depth: int) -> tuple[int, int]:
        paths, declared = 1, 0
        members: list[str] = []
        with _unless_refused():
            members = sorted(group, key=lambda member: (member not in FIRST, member))
        for member in members:
            below = member if depth == 0 else f"{name}/{member}"
            with _unless_refused():
                kind = group.id.links.get_info(member.encode("utf-8", "surrogateescape")).type
                if kind == h5py.h5l.TYPE_EXTERNAL:
                    _refuse_link(below)
                found = self._object(group[member], below, depth + 1)
                paths, declared = paths + found[0], declared + found[1]
            if paths > PATHS:
                msg = f"groups below {name} are nested without end. The file is damaged."
                raise Refused(msg)
        return paths, declared

    def _attributes(self, node: Any, name: str) -> None:
        names: list[str] = []
        with _unless_refused():
            names = list(node.attrs)
        for attribute in names:
            with _unless_refused():
                stored = node.attrs.get_id(attribute).get_storage_size()
                if stored > self.size:
                    msg = (
                        f"the attribute {attribute!r:.100} of {name} declares {stored:,} bytes, but the whole file has "
                        f"{self.size:,}. It is damaged: get it again from where it came from."
                    )
                    raise Refused(msg)
                _ = node.attrs[attribute]

    def _dataset(self, dataset: h5py.Dataset) -> int:
        with _unless_refused():
            if (problem := outside(dataset) or too_large(dataset, self.size)) is not None:
                raise Refused(problem)
            self._values(dataset)
        try:
            return declared_bytes(dataset)
        except Exception:  # noqa: BLE001  # a shape or type that HDF5 cannot read, which is the reader's to say
            return 0

    def _values(self, dataset: h5py.Dataset) -> None:
        """Read the values of a data set, or the first and last of them, by runs of rows."""
        if dataset.shape is None or 0 in dataset.shape:
            return
        if dataset.shape == ():
            _ = dataset[()]
            return
        n, row = dataset.shape[0], math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
        chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks else 0
        if row > BLOCK or chunk > FLOOR:
            return  # no more than these is decoded at once
        text = dataset.dtype.kind == "O"
        rows = max(1, min(BLOCK // max(1, row), STRINGS if text else n))
        if dataset.chunks:
            rows = max(1, rows // dataset.chunks[0]) * dataset.chunks[0]
        starts = range(0, n, rows) if self.size <= WHOLE else sorted({0, (n - 1) // rows * rows})
        held = 0
        for start in starts:
            if self.values_left <= 0:
                return
            self._step()
            values = dataset[start : start + rows]
            self.values_left -= max(values.nbytes, chunk)
            if text:
                held += sum(map(_length, values.ravel()))
                self.values_left -= 40 * values.size
            if held > FLOOR + self.size:
                name = str(dataset.name).strip("/")
                msg = (
                    f"the values of {name} take {held:,} bytes and more, but the whole file has {self.size:,}. It is "
                    "damaged or made to exhaust memory: get it again from where it came from."
                )
                raise Refused(msg)


def _length(value: Any) -> int:
    return value.nbytes if isinstance(value, np.ndarray) else len(value) if isinstance(value, (bytes, str)) else 0


def _refuse_link(name: str) -> None:
    msg = f"{name} is a link into another file, which is not followed. Write a file that holds its own data."
    raise Refused(msg)
