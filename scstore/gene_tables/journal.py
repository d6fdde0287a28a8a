"""Finished vectors kept on disk while a table is being made, so that none is computed or paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from scstore import fsio
from scstore.errors import GenesError

__all__ = ["VectorJournal", "open_journal"]

FORMAT = "scstore vectors 1"
KEY = 32
CRC = 4


class VectorJournal:
    """Vectors by text, appended as they are finished.

    The file is one line of JSON (format, maker, width) and then records of one size: SHA-256 of the text, the vector in
    float32, a CRC-32 of both. A record that was cut short by a kill, or whose bytes have changed, does not count.

    Parameters
    ----------
    path
        The file; made by the first :meth:`add`.
    maker
        What makes the vectors, as JSON values: a journal of another maker is refused.

    Raises
    ------
    GenesError
        If the file is there and is no such journal.
    """

    def __init__(self, path: Path, maker: dict[str, str]) -> None:
        self.path = path
        self.maker = maker
        self.width: int | None = None
        self._places: dict[bytes, int] = {}
        self._file: BinaryIO | None = None
        if path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, text: str) -> bool:
        return _key(text) in self._places

    def add(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the vectors of texts, ``(n_texts, width) float32``; they are on disk when this returns."""
        if self._file is None:
            self._begin(int(vectors.shape[1]))
        assert self._file is not None  # noqa: S101  # for mypy: _begin opens it
        end = self._file.seek(0, os.SEEK_END)
        records = []
        for text, vector in zip(texts, vectors, strict=True):
            body = _key(text) + np.ascontiguousarray(vector, dtype="<f4").tobytes()
            records.append(body + struct.pack("<I", zlib.crc32(body)))
        try:
            self._file.write(b"".join(records))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)  # no half record before the next one
            raise
        for i, text in enumerate(texts):
            self._places[_key(text)] = end + i * len(records[0])

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``(n_texts, width) float32`` of texts that are all in it."""
        if self._file is None or self.width is None:
            raise KeyError(texts[0])
        rows = np.empty((len(texts), self.width), dtype=np.float32)
        for i, text in enumerate(texts):
            self._file.seek(self._places[_key(text)] + KEY)
            rows[i] = np.frombuffer(self._file.read(4 * self.width), dtype="<f4")
        return rows

    def close(self) -> None:
        """Close the file; it stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def delete(self) -> None:
        """Close and delete the file: its vectors are in a table now."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _begin(self, width: int) -> None:
        header = json.dumps({"format": FORMAT, "maker": self.maker, "width": width}, sort_keys=True)
        fsio.write_bytes(self.path, header.encode() + b"\n")
        self.width = width
        self._file = self.path.open("r+b")

    def _read(self) -> None:
        file = self.path.open("r+b")
        try:
            line = file.readline(1 << 16)
            header = json.loads(line)
            width = int(header["width"])
            known = header["format"] == FORMAT and header["maker"] == self.maker and width > 0
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            file.close()
            msg = (
                f"{self.path}: expected the vectors that an earlier run of this command finished, and this is "
                "something else. Move it away, or choose another --output."
            )
            raise GenesError(msg)
        size, place = KEY + 4 * width + CRC, len(line)
        while len(record := file.read(size)) == size:
            if struct.unpack("<I", record[-CRC:])[0] == zlib.crc32(record[:-CRC]):
                self._places[record[:KEY]] = place
            place += size
        file.truncate(place)
        self.width, self._file = width, file


@contextmanager
def open_journal(path: Path, maker: dict[str, str]) -> Iterator[VectorJournal]:
    """Open a journal for this process alone.

    Raises
    ------
    LockedError
        If another process works with it.
    GenesError
        If the file is there and is no journal of that maker.
    """
    with fsio.lock(path.with_name(f"{path.name}.lock")):
        journal = VectorJournal(path, maker)
        try:
            yield journal
        finally:
            journal.close()


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
