"""HDF5 files from anywhere: links, storage and sizes are checked before a value is read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import h5py

from scstore.errors import CellsError, DamagedError, ScstoreError
from scstore.untrusted.guards import EXHAUSTS, FLOOR, RATIO, declared_bytes, too_large

# Deeper groups or more objects than an AnnData has: links that run in circles.
DEPTH, OBJECTS = 64, 200_000

# Follow one soft link at most, so that none leads through an external link.
ONE_LINK = h5py.h5p.create(h5py.h5p.LINK_ACCESS)
ONE_LINK.set_nlinks(1)

OWN_DATA = "Write a file that holds its own data."


def open_hdf5(path: Path) -> h5py.File:
    """Check an HDF5 file of cells and open it for reading."""
    check_hdf5(path, error=CellsError)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "truncated" in str(error):
            msg = f"{path}: the file is truncated: it is shorter than its own header says. Copy or download it again."
        elif "lock" in str(error):
            msg = f"{path}: another program has it open for writing ({error}). Close it there, or copy the file."
        else:
            msg = f"{path}: not readable as HDF5 ({error}). The file is damaged: copy or download it again."
        raise CellsError(msg) from error


def check_hdf5(path: str | os.PathLike[str], *, error: type[ScstoreError] = DamagedError) -> None:
    """Refuse an HDF5 file with data in other files, absurd sizes or endless groups; only metadata is read.

    What merely does not parse passes: the reader reports it.
    """
    try:
        stored, file = Path(path).stat().st_size, h5py.File(path, "r")
    except OSError:
        return
    with file:
        problem = _find_problem(file, stored)
    if problem is not None:
        raise error(f"{path}: {problem}")


def _find_problem(file: h5py.File, stored: int) -> str | None:
    """Return what is wrong with the first such link or data set."""
    waiting: list[tuple[h5py.Group, str]] = [(file, "")]
    n_objects = declared = 0
    while waiting:
        group, place = waiting.pop()
        for name in _names(group):
            below = f"{place}/{name if isinstance(name, str) else repr(name)}".lstrip("/")
            n_objects += 1
            if n_objects > OBJECTS or place.count("/") > DEPTH:
                return f"groups below {place[:100]} are nested without end. The file is damaged."
            try:
                node = _follow(group, name)
                if node is None:
                    return f"{below} is a link into another file, which is not followed. {OWN_DATA}"
                if isinstance(node, h5py.Dataset):
                    declared += declared_bytes(node)
                    if node.external or node.is_virtual:
                        return f"the values of {below} lie in other files, which are not followed. {OWN_DATA}"
                    if (problem := too_large(node, stored)) is not None:
                        return problem
            except (KeyError, OSError, RuntimeError, TypeError, ValueError):
                continue  # HDF5 cannot read it, and nor can a reader
            if isinstance(node, h5py.Group):
                waiting.append((node, below))
    if declared > max(4 * FLOOR, RATIO * stored):
        return f"its arrays declare {declared:,} bytes together, but the whole file has {stored:,}. {EXHAUSTS}"
    return None


def _names(group: h5py.Group) -> list[str | bytes]:
    """Return the names of a group's members; h5py gives those that are not UTF-8 as bytes."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        return list(group)
    return []


def _follow(group: h5py.Group, name: str | bytes) -> h5py.Group | h5py.Dataset | object | None:
    """Return a member of a group, ``None`` for one that lives in another file."""
    key = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    if group.id.links.get_info(key).type not in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT):
        return None
    identifier = h5py.h5o.open(group.id, key, lapl=ONE_LINK)
    if isinstance(identifier, h5py.h5g.GroupID):
        return h5py.Group(identifier)
    return h5py.Dataset(identifier) if isinstance(identifier, h5py.h5d.DatasetID) else identifier
