"""HDF5 files from anywhere: links, storage and sizes are checked before a value is read."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path

import h5py

from scstore.errors import CellsError, ScstoreError
from scstore.hdf5_output import NO_LOCKS, open_to_read
from scstore.untrusted.guards import (
    EXHAUSTS,
    FLOOR,
    RATIO,
    check_path,
    declared_bytes,
    missing_filter,
    too_large,
    unpacks_too_far,
)

# Deeper groups, more objects, or more ways to one group than an AnnData has: links that run in circles.
DEPTH, OBJECTS, VISITS = 64, 200_000, 1000
# Follow one soft link at most, so that none leads through an external link.
ONE_LINK = h5py.h5p.create(h5py.h5p.LINK_ACCESS)
ONE_LINK.set_nlinks(1)

OWN_DATA = "Write a file that holds its own data."


def open_hdf5(
    path: Path, *, error: type[ScstoreError] = CellsError, unreadable: type[ScstoreError] | None = None
) -> h5py.File:
    """Open and look at an HDF5 file; ``unreadable`` if it cannot be opened (``PermissionError`` passes)."""
    check_path(path, error=unreadable or error)
    try:
        file = open_to_read(path)
    except PermissionError:
        raise
    except OSError as fault:
        raise (unreadable or error)(f"{path}: {_why_not_open(fault)}") from fault
    if (problem := _find_problem(file, path)) is not None:
        file.close()
        raise error(f"{path}: {problem}")
    return file


def _why_not_open(fault: OSError) -> str:
    said = " ".join(str(fault).split())
    if "truncated" in said:
        return "the file is truncated: it is shorter than its own header says. Copy or download it again."
    if fault.errno in NO_LOCKS:
        cure = "Set HDF5_USE_FILE_LOCKING=FALSE in the environment and run it again, or copy the file to another disk."
        return f"the file system has no locks, which HDF5 asks for. {cure}"
    if "lock" in said:
        return f"another program has it open for writing ({said}). Close it there, or copy the file."
    if fault.errno is not None:
        reason = f"{os.strerror(fault.errno)} (error {fault.errno} of the system)"
        return f"it cannot be opened: {reason}. Try again, or copy it to another disk."
    return f"not readable as HDF5 ({said}). The file is damaged: copy or download it again."


def _find_problem(file: h5py.File, path: Path) -> str | None:
    """Return what is wrong with the first such link or data set; only metadata are read."""
    stored = path.stat().st_size
    waiting: list[tuple[h5py.Group, str]] = [(file, "")]
    n_objects = declared = most = 0
    visits: Counter[int] = Counter()  # of a group, by its place in the file
    while waiting:
        group, place = waiting.pop()
        names: list[str | bytes] = []
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            names = list(group)  # bytes where a name is not UTF-8
        for name in names:
            below = f"{place}/{name if isinstance(name, str) else repr(name)}".lstrip("/")
            n_objects += 1
            if n_objects > OBJECTS or place.count("/") > DEPTH or most > VISITS:
                return f"groups below {place[:100]} are nested without end. The file is damaged."
            try:
                node = _follow(group, name)
                if node is None:
                    return f"{below} is a link into another file, which is not followed. {OWN_DATA}"
                if isinstance(node, h5py.Dataset):
                    declared += declared_bytes(node)
                    if node.external or node.is_virtual:
                        return f"the values of {below} lie in other files, which are not followed. {OWN_DATA}"
                    if (problem := too_large(node, stored) or unpacks_too_far(node, path)) is not None:
                        return problem
                if isinstance(node, h5py.Group):
                    visits[address := h5py.h5o.get_info(node.id).addr] += 1
                    most = max(most, visits[address])
                    waiting.append((node, below))
            except (KeyError, OSError, RuntimeError, TypeError, ValueError):
                continue  # HDF5 cannot read it, and nor can a reader
    if declared > max(4 * FLOOR, RATIO * stored):
        return f"its arrays declare {declared:,} bytes together, but the whole file has {stored:,}. {EXHAUSTS}"
    return None


def first_missing_filter(file: h5py.Group) -> str | None:
    """Return what to do about the first data set whose filter is not installed."""
    datasets: list[h5py.Dataset] = []
    file.visititems(lambda _, node: datasets.append(node) if isinstance(node, h5py.Dataset) else None)
    return next(filter(None, map(missing_filter, datasets)), None)


def _follow(group: h5py.Group, name: str | bytes) -> h5py.Group | h5py.Dataset | object | None:
    """Return a member of a group, ``None`` for one that lives in another file."""
    key = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    if group.id.links.get_info(key).type not in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT):
        return None
    identifier = h5py.h5o.open(group.id, key, lapl=ONE_LINK)
    if isinstance(identifier, h5py.h5g.GroupID):
        return h5py.Group(identifier)
    return h5py.Dataset(identifier) if isinstance(identifier, h5py.h5d.DatasetID) else identifier
