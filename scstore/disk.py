"""The operations that change files, in one class, so that tests can break each in turn."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path
from typing import IO

# renameat2 of Linux: relative to the working folder, and swapping both names.
AT_FDCWD, RENAME_EXCHANGE = -100, 2


class Disk:
    """The operations that change files. Reading needs none of it: what was read is compared with a digest."""

    def create(self, path: Path) -> IO[bytes]:
        return path.open("xb")

    def write(self, file: IO[bytes], data: bytes | memoryview) -> None:
        """Write a buffer to an open file, whole."""
        left = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        while left:
            left = left[file.write(left) :]

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def exchange(self, one: Path, other: Path) -> bool:
        """Swap the names of two files or folders in one step; return whether the system can."""
        rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
        ends = AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other)
        return rename is not None and rename(*ends, RENAME_EXCHANGE) == 0

    def delete(self, path: Path) -> None:
        """Delete a file, or a folder with its content, if it exists."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
