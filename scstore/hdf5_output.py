"""HDF5 files that are whole, or an error: libhdf5 and h5py ignore what goes wrong when a data set is closed."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import h5py

from scstore import fsio

# What file systems without locks say.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def open_to_read(path: Path) -> h5py.File:
    """Open an HDF5 file, with a lock where the file system knows locks."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return h5py.File(path, "r", locking=False)


@contextmanager
def hdf5_output(path: Path, mode: Literal["w", "r+"] = "w") -> Iterator[h5py.File]:
    """Open a hidden HDF5 file for writing, and raise what HDF5 keeps to itself: chunks that it could not write.

    When the block ends without an error, every byte was accepted by the system, and every chunk is there.
    """
    with path.open("w+b" if mode == "w" else "r+b", buffering=0) as opened:
        written = _Written(opened)
        try:
            with h5py.File(written, mode) as file:
                before = set(_incomplete(file))  # of a copy: what its owner never wrote
                yield file
        finally:
            if written.error is not None:
                raise written.error
    with open_to_read(path) as file:
        if missing := [name for name in _incomplete(file) if name not in before]:
            raise OSError(
                errno.EIO, f"not every value of {missing[0]} was written. Run the same command again", str(path)
            )


class _Written:
    """A file for HDF5, which ignores errors when it closes a data set: the first one is kept, nothing follows it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.error: OSError | None = None
        self._file = file
        self.seek, self.tell, self.readinto = file.seek, file.tell, file.readinto  # type: ignore[attr-defined]

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def write(self, data: memoryview) -> int:
        if self.error is None:
            try:
                fsio.disk.write(self._file, data)
            except OSError as error:
                self.error = error
        return len(data)

    def truncate(self, size: int) -> int:
        if self.error is None:
            try:
                self._file.truncate(size)
            except OSError as error:
                self.error = error
        return size

    def flush(self) -> None:
        """Nothing waits."""


def _incomplete(file: h5py.File) -> list[str]:
    """Return names of data sets whose values are not all stored."""
    found: list[str] = []

    def look(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.size and node.chunks is not None:
            wanted = math.prod(-(-size // chunk) for size, chunk in zip(node.shape, node.chunks, strict=True))
            if node.id.get_num_chunks() != wanted:
                found.append(name)

    file.visititems(look)
    return found
