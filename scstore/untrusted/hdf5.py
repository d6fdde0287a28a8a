"""HDF5 files from anywhere: links, storage and sizes are checked before a value is read."""

import contextlib
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py

from scstore.errors import CellsError, ScstoreError
from scstore.hdf5_output import NO_LOCKS, open_to_read
from scstore.untrusted.guards import EXHAUSTS, FLOOR, RATIO, check_path, filters_of, missing_filter

# Deeper groups, more objects, or more ways to one group than an AnnData has: links that run in circles.
DEPTH, OBJECTS, VISITS = 64, 200_000, 1000
# Follow one soft link at most, so that none leads through an external link.
ONE_LINK = h5py.h5p.create(h5py.h5p.LINK_ACCESS)
ONE_LINK.set_nlinks(1)

OWN_DATA = "Write a file that holds its own data."
# HDF5's filters that pack no tighter than :data:`RATIO`: deflate, shuffle, fletcher32, szip, LZF.
BOUNDED_FILTERS = frozenset({1, 2, 3, 4, 32000})
# Those whose chunks begin with the bytes that they unpack to.
STATED: dict[int, Callable[[bytes], int]] = {
    32001: lambda head: int.from_bytes(head[4:8], "little"),
    32004: lambda head: int.from_bytes(head[:8], "big"),
    32008: lambda head: int.from_bytes(head[:8], "big"),
    32015: lambda head: zstd_frame(head)[0] or 0,
}
CHECKSUMS = 64  # bytes that a checksum may add to what a chunk declares


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


def unpacks_too_far(dataset: h5py.Dataset, path: Path) -> str | None:
    """Return which chunk says that it unpacks to more than its data set declares for one, where chunks say it."""
    last = filters_of(dataset)[-1:]
    if not dataset.chunks or not last or (stated := STATED.get(last[0][0])) is None:
        return None
    limit = 2 * math.prod(dataset.chunks) * dataset.dtype.itemsize + CHECKSUMS  # texts take twice as much there

    with path.open("rb") as file:

        def look(chunk: h5py.h5d.StoreInfo) -> str | None:
            file.seek(chunk.byte_offset)
            with contextlib.suppress(ValueError, IndexError):
                size = 0 if chunk.filter_mask else stated(file.read(18))
                if size > limit:
                    return f"a chunk of {dataset.name} unpacks to {size:,} bytes, not {limit:,}"
            return None

        found: str | None = dataset.id.chunk_iter(look)
    return found


def declared_bytes(array: h5py.Dataset) -> int:
    return math.prod(array.shape or ()) * int(array.dtype.itemsize)


def too_large(array: h5py.Dataset, stored: int) -> str | None:
    """Return why a data set in a file of ``stored`` bytes cannot be what it declares; no value is read."""
    name = str(array.name).strip("/")
    declared = declared_bytes(array)
    if declared > max(FLOOR, RATIO * stored):
        shape = tuple(array.shape)
        return f"{name} declares {declared:,} bytes (shape {shape}), but the whole file has {stored:,}. {EXHAUSTS}"
    chunk = math.prod(array.chunks) * array.dtype.itemsize if array.chunks else 0
    if chunk > max(FLOOR, RATIO * stored):
        return f"one chunk of {name} decodes to {chunk:,} bytes, but the whole file has {stored:,}. {EXHAUSTS}"
    filters = [number for number, _ in filters_of(array)]
    if declared > FLOOR and len(set(filters)) == len(filters) and BOUNDED_FILTERS.issuperset(filters):
        own = int(array.id.get_storage_size())
        if declared > RATIO * own:
            return f"{name} declares {declared:,} bytes, but only {own:,} bytes of it are stored. {EXHAUSTS}"
    return None


def zstd_frame(data: bytes, at: int = 0) -> tuple[int | None, int]:
    """Return the bytes that a frame of Zstandard states, if it does, and where its blocks begin (RFC 8878, 3.1.1)."""
    if data[at : at + 4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("it is not Zstandard")
    descriptor = data[at + 4]
    single_segment = descriptor >> 5 & 1
    width = (single_segment, 2, 4, 8)[descriptor >> 6]
    at += 6 - single_segment + (0, 1, 2, 4)[descriptor & 3]
    stated = int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)
    return stated if width else None, at + width


def first_missing_filter(file: h5py.Group) -> str | None:
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
