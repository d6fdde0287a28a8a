"""HDF5 files that are whole, or an error: libhdf5 and h5py ignore what goes wrong when a data set is closed."""

import errno
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import h5py

from scstore import fsio

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems without locks say


def open_to_read(path: Path) -> h5py.File:
    """Open an HDF5 file, with a lock where the file system knows locks."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return h5py.File(path, "r", locking=False)


class Written:
    """A file for libhdf5, which would lose chunks or crash: it never hears of a failed write, nor of those after."""

    def __init__(self, file: IO[bytes]) -> None:
        self.error: BaseException | None = None  # the first one
        self._file, self._at = file, 0
        self._kept: list[tuple[int, bytes]] = []  # what comes after an error, in order
        self.tell, self.flush = file.tell, file.flush

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = self._file.seek(offset, whence)
        return self._at

    def write(self, data: memoryview) -> int:
        self._keep_error(lambda: fsio.disk.write(self._file, data))
        if self.error is not None:
            self._kept.append((self._at, bytes(data)))
        return len(data)

    def truncate(self, size: int) -> int:
        self._keep_error(lambda: self._file.truncate(size))
        return size

    def readinto(self, buffer: memoryview) -> int:
        size = len(buffer)
        found = bytearray()
        while len(found) < size and (part := self._file.read(size - len(found))):  # at most 2 GB at a time
            found += part
        found = found.ljust(size, b"\0")
        for at, data in self._kept:
            first, last = max(at, self._at), min(at + len(data), self._at + size)
            if first < last:
                found[first - self._at : last - self._at] = data[first - at : last - at]
        buffer[:] = found
        return size

    read = readinto

    def _keep_error(self, work: Callable[[], object]) -> None:
        if self.error is None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  # Ctrl-C too: it must not reach libhdf5
                self.error = error


class OutputFile(h5py.File):  # type: ignore[misc]  # h5py has no types
    def __init__(self, written: Written, mode: str) -> None:
        super().__init__(written, mode)
        self._written = written

    def check(self) -> None:
        if self._written.error is not None:
            raise self._written.error


@contextmanager
def hdf5_output(path: Path, mode: Literal["w", "r+"] = "w") -> Iterator[OutputFile]:
    """Open a hidden HDF5 file for writing; when the block ends, all bytes and chunks are there, or it is an error."""
    with path.open("w+b" if mode == "w" else "r+b", buffering=0) as opened:
        written = Written(opened)
        with OutputFile(written, mode) as file:
            before = set(_incomplete(file))  # of a copy: what its owner never wrote
            yield file
        if written.error is not None:
            raise written.error
    with open_to_read(path) as file:
        if missing := [name for name in _incomplete(file) if name not in before]:
            msg = f"not every value of {missing[0]} was written. Run the same command again"
            raise OSError(errno.EIO, msg, str(path))


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
