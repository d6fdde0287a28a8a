"""The operations that change files, in one class, so that tests can break each; and who holds a lock."""

import contextlib
import ctypes
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

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

    def link(self, file: Path, name: Path) -> bool:
        """Give a file a second name; return whether the file system can. No file of scstore's is changed in place."""
        with contextlib.suppress(OSError):
            os.link(file, name)
            return True
        return False

    def delete(self, path: Path) -> None:
        """Delete a file, or a folder with its content, if it exists."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def this_process() -> dict[str, Any]:
    """Return host, machine since it was started, container, process and when that began."""
    boot = _read(lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip())  # alike in all containers
    namespace = _read(lambda: str(Path("/proc/self/ns/pid").readlink()))
    place = {"host": socket.gethostname(), "boot": boot, "namespace": namespace}
    return {**place, "pid": os.getpid(), "begun": _begun(os.getpid())}


def is_dead(owner: Mapping[str, Any], *, freed: bool) -> bool:
    """Return whether the process that :func:`this_process` described is certainly dead.

    ``freed``: this machine's kernel, which was told of the lock, knows of no holder. Else the process is looked for,
    which sees none of another container. A process of another machine cannot be seen at all.
    """
    mine = this_process()
    same_host, boots = owner.get("host") == mine["host"], {owner.get("boot"), mine["boot"]}
    if None not in boots and len(boots) == 2:
        return freed and same_host  # this machine, before it was started again
    if freed or (None in boots and not same_host):
        return None not in boots or same_host
    pid = owner.get("pid")
    if owner.get("namespace", mine["namespace"]) != mine["namespace"] or not isinstance(pid, int):
        return False
    return not (_is_there(pid) and owner.get("begun", _begun(pid)) == _begun(pid))


def _read(what: Callable[[], str]) -> str | None:
    """Return what the system says of itself; ``None`` where it does not."""
    with contextlib.suppress(OSError, IndexError):
        return what()
    return None


def _begun(pid: int) -> str | None:
    """Return when a process began, in ticks since the start of the machine."""
    return _read(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # there, and another user's
    return True
