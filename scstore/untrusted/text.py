"""Text files from anywhere, gzipped or not, that cannot unpack without bound."""

import gzip
import io
from pathlib import Path

from scstore.errors import GenesError, ScstoreError
from scstore.untrusted.guards import EXHAUSTS, check_path

# Times its packed size that a file may unpack to (tables and matrices pack 3 to 15 times), and bytes that any may.
RATIO, FLOOR = 100, 1 << 24
# Lines that any table may have; Python takes some 200 bytes for each. A list of barcodes packs to 3 bytes a line.
LINES = 1 << 21
COLUMNS = 10_000  # columns that a table of genes or cells may have


def read_unpacked(file: Path, *, error: type[ScstoreError] = GenesError) -> bytes:
    """Read a table whole; ``error`` if it unpacks too far, or has too many lines or columns (parsers fill lines)."""
    with open_unpacked(file, error=error) as opened:
        content = opened.read()
    n_lines, first = content.count(b"\n"), content.partition(b"\n")[0]
    n_columns = max(first.count(b"\t"), first.count(b","))
    if n_lines > max(LINES, file.stat().st_size) or n_columns > COLUMNS:
        raise error(f"{file}: it has {n_lines:,} lines of {n_columns:,} columns. {EXHAUSTS}")
    return content


def open_unpacked(file: Path, *, error: type[ScstoreError] = GenesError) -> io.BufferedReader:
    """Open a file for reading its text, unpacked where its first bytes are gzip's; ``error`` past the largest size."""
    check_path(file, error=error)
    with file.open("rb") as head:
        is_packed = head.read(2) == b"\x1f\x8b"
    if not is_packed:
        return file.open("rb")
    return io.BufferedReader(_Bounded(file, error), 1 << 20)


class _Bounded(io.RawIOBase):
    def __init__(self, file: Path, error: type[ScstoreError]) -> None:
        self._file, self._error = file, error
        self._limit = max(FLOOR, RATIO * file.stat().st_size)
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
