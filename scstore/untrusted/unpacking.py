"""Text files, gzipped or not, that cannot unpack to more than such a file ever does."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import BinaryIO

from scstore.errors import GenesError

__all__ = ["open_unpacked"]

RATIO = 100
"""Times its packed size that a file may have: tables of genes pack 3 to 15 times."""

FLOOR = 1 << 24
"""Bytes that any file may unpack to, however small it is."""


def open_unpacked(file: Path) -> BinaryIO:
    """Open a file for reading its text, unpacked where it is gzip by its first bytes.

    Raises
    ------
    GenesError
        On reading, if it unpacks to more than 100 times its size: a bomb, whose text may be one line without an end.
    """
    with file.open("rb") as head:
        zipped = head.read(2) == b"\x1f\x8b"
    return io.BufferedReader(_Bounded(file), 1 << 20) if zipped else file.open("rb")


class _Bounded(io.RawIOBase):
    """The unpacked bytes of a gzip file, up to a limit."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._limit = max(FLOOR, RATIO * file.stat().st_size)
        self._unpacked = gzip.open(file)  # noqa: SIM115  # closed with this
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        n = self._unpacked.readinto(buffer)
        self._read += n
        if self._read > self._limit:
            msg = (
                f"{self._file}: unpacks to more than {self._limit:,} bytes, which no such file does. It is damaged or "
                "made to exhaust memory: get it again from where it came from."
            )
            raise GenesError(msg)
        return n

    def close(self) -> None:
        self._unpacked.close()
        super().close()
