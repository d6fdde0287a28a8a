"""Damage done on purpose: single bytes of files. And what only looks like damage: reads that fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from support import extract, make_cells

import scstore


def make_finished(folder: Path, model: Path, name: str) -> Path:
    """A ``store`` or a head (``linear``, ``knn``), small; a store that is there is used."""
    store, root = folder / "store", folder / name
    if not store.exists():
        extract(make_cells(36, 24, empty=5), store, model, shard_rows=16)
    if name != "store":
        scstore.fit(store, root, label="cell_type", head=name)
    return root


def files_of(root: Path) -> list[Path]:
    """Every file of a folder, sorted, or the file itself."""
    return [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())


def random_bytes_of(root: Path, number: int, *, seed: int) -> Iterator[tuple[Path, int, int]]:
    """Files, places in them, and what a byte there is XORed with; half drawn by file, half by byte."""
    rng = np.random.default_rng(seed)
    files = [file for file in files_of(root) if file.stat().st_size]
    sizes = np.array([file.stat().st_size for file in files], dtype=float)
    for i in range(number):
        file = files[int(rng.choice(len(files), p=None if i % 2 else sizes / sizes.sum()))]
        yield file, int(rng.integers(file.stat().st_size)), int(rng.integers(1, 256))


@contextmanager
def flipped(file: Path, place: int, mask: int) -> Iterator[None]:
    """One byte of a file is another for as long as the block runs."""
    with file.open("r+b") as handle:
        handle.seek(place)
        byte = handle.read(1)[0]
        handle.seek(place)
        handle.write(bytes([byte ^ mask]))
    try:
        yield
    finally:
        with file.open("r+b") as handle:
            handle.seek(place)
            handle.write(bytes([byte]))


@contextmanager
def failing(file: Path, number: int, *, call: str = "open") -> Iterator[None]:
    """The system refuses to open a file, or to look at it (`stat`), for as long as the block runs."""
    real: Any = getattr(Path, call)

    def refuse(self: Path, *words: Any, **named: Any) -> Any:
        if self == file:
            raise OSError(number, os.strerror(number), str(self))
        return real(self, *words, **named)

    with mock.patch.object(Path, call, refuse):
        yield
