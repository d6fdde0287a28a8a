"""Text files from anywhere, gzipped or not, that cannot unpack without bound."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import BinaryIO

from scstore.errors import GenesError, ScstoreError
from scstore.untrusted.guards import EXHAUSTS

# Times its packed size that a file may unpack to (tables and matrices pack 3 to 15 times), and bytes that any may.
RATIO, FLOOR = 100, 1 << 24


def largest_text(file: Path) -> int:
    """Return the bytes that a file may unpack to."""
    size = file.stat().st_size
    return max(FLOOR, RATIO * size) if _is_gzip(file) else size


def open_unpacked(file: Path, *, error: type[ScstoreError] = GenesError) -> BinaryIO:
    """Open a file for reading its text, unpacked where its first bytes are gzip's; ``error`` past the largest size."""
    if not _is_gzip(file):
        return file.open("rb")
    return io.BufferedReader(_Bounded(file, error), 1 << 20)


def _is_gzip(file: Path) -> bool:
    with file.open("rb") as head:
        return head.read(2) == b"\x1f\x8b"


class _Bounded(io.RawIOBase):
    """The unpacked bytes of a gzip file, up to a limit."""

    def __init__(self, file: Path, error: type[ScstoreError]) -> None:
        self._file, self._error, self._limit = file, error, largest_text(file)
        self._unpacked = gzip.open(file)  # noqa: SIM115  # closed with this
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        n = self._unpacked.readinto(buffer)
        self._read += n
        if self._read > self._limit:
            raise self._error(f"{self._file}: unpacks to more than {self._limit:,} bytes. {EXHAUSTS}")
        return n

    def close(self) -> None:
        self._unpacked.close()
        super().close()
