"""File operations that survive a crash: atomic writes, digests, a lock.

Every file goes to a temporary name beside the target, is flushed to disk (fsync), renamed, and its folder is flushed
too. A reader sees the old file or the new one, never a part. What changes a file goes through one object,
:data:`disk`, so that tests can break each operation in turn.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from scstore.errors import DamagedError, InputError, LockedError, OutputError

if sys.platform != "win32":
    import fcntl


# Marks temporary files and folders, which may be deleted.
PARTIAL = ".partial-"

# Marks what is being replaced, until its replacement has its name.
OLD = f"{PARTIAL}old-"

# Seconds between touches of a lock by its owner.
HEARTBEAT = 30.0

# Seconds without a touch after which a lock's owner shows no sign of life.
STALE = 600.0

# Seconds after which a lock without an owner in it may be deleted.
STARTING = 60.0


class Disk:
    """The operations that change files. Reading needs none of it: what was read is compared with a digest."""

    def create(self, path: Path) -> IO[bytes]:
        """Open a file for writing that must not exist yet."""
        return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644), "wb")

    def write(self, file: IO[bytes], data: bytes | memoryview) -> None:
        """Write a buffer to an open file."""
        file.write(data)

    def sync(self, descriptor: int) -> None:
        """Flush an open file or folder to the device."""
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file or folder, replacing a file of that name."""
        source.replace(target)

    def make_folder(self, path: Path) -> None:
        """Make a folder and its missing parents."""
        path.mkdir(parents=True, exist_ok=True)

    def make_unique_folder(self, parent: Path, prefix: str) -> Path:
        """Make a folder with an unused name."""
        return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))

    def delete(self, path: Path) -> None:
        """Delete a file, or a folder with its content, if it exists."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


# All of scstore writes with this one; only tests put another in its place.
disk = Disk()


def digest_bytes(data: bytes | memoryview) -> str:
    """Return the SHA-256 of a buffer, as ``sha256:<hex>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, read in pieces, as ``sha256:<hex>``."""
    with Path(path).open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def digest_tree(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, or of all files below a folder with their relative names."""
    root = Path(path)
    if not root.is_dir():
        return digest_file(root)
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    listing = "\n".join(f"{json.dumps(name)} {digest_file(root / name)}" for name in names)
    return digest_bytes(listing.encode())


def fsync_dir(path: str | os.PathLike[str]) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        disk.sync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike[str], *parts: bytes | memoryview) -> None:
    """Write a file atomically and durably from one or more buffers."""
    with atomic_path(path) as partial, partial.open("wb") as file:
        for part in parts:
            disk.write(file, part)


def json_bytes(value: Any) -> bytes:
    """Return JSON in the one form that scstore writes; ``ValueError`` for NaN and infinity."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, sort_keys=True).encode() + b"\n"


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write indented JSON atomically and durably; NaN and infinity are refused."""
    write_bytes(path, json_bytes(value))


def read_json(path: str | os.PathLike[str], *, limit: int = 1 << 28) -> Any:
    """Read a JSON file; ``DamagedError`` if it has more than ``limit`` bytes or is not JSON in UTF-8."""
    file = Path(path)
    if (size := file.stat().st_size) > limit:
        raise DamagedError(f"{file} is damaged or not scstore's: {size:,} bytes, where at most {limit:,} are possible.")
    try:
        return json.loads(file.read_bytes())
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DamagedError(f"{file} is damaged: not JSON ({error}). Restore it or make it again.") from error


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; then flush it and rename it into place, or delete it after an error."""
    target = Path(path)
    partial = target.with_name(f".{target.name}{PARTIAL}{os.getpid()}")
    try:
        with _name_full_disk(target):
            yield partial
            with partial.open("rb+") as file:
                disk.sync(file.fileno())
            disk.rename(partial, target)
    except BaseException:
        disk.delete(partial)
        raise
    fsync_dir(target.parent)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; then flush every file in it and rename it into place.

    With ``overwrite`` an existing folder or file at ``path`` stays, whole, until the new one is complete.
    """
    target = Path(path)
    disk.make_folder(target.parent)
    for stale in sorted(target.parent.glob(f".{target.name}{PARTIAL}*")):
        if overwrite and stale.name.startswith(f".{target.name}{OLD}") and not target.exists():
            disk.rename(stale, target)  # a kill between the two renames of a replacement
        else:
            disk.delete(stale)
    with _name_full_disk(target):
        partial = disk.make_unique_folder(target.parent, f".{target.name}{PARTIAL}")
    os.umask(mask := os.umask(0))
    partial.chmod(0o777 & ~mask)
    try:
        with _name_full_disk(target):
            yield partial
            for folder, _, files in os.walk(partial):
                for name in files:
                    with Path(folder, name).open("rb+") as file:
                        disk.sync(file.fileno())
                fsync_dir(folder)
            old = target.with_name(f".{target.name}{OLD}{os.getpid()}")
            if overwrite and target.exists():
                disk.rename(target, old)
            disk.rename(partial, target)
    except BaseException:
        disk.delete(partial)
        raise
    fsync_dir(target.parent)
    disk.delete(old)


@contextmanager
def _name_full_disk(target: Path) -> Iterator[None]:
    """Let the error of a full disk name the output and the disk, and say what to do next."""
    try:
        yield
    except OSError as error:
        # HDF5 has an error of its own, with the system's number in its words
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and f"errno = {errno.ENOSPC}" not in str(error):
            raise
        place = target.parent.resolve()
        while not place.is_mount() and place != place.parent:
            place = place.parent
        msg = f"no room is left on the disk at {place}. Make room there, then run the same command again"
        raise OSError(errno.ENOSPC, msg, str(target)) from error


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Raise ``OutputError`` if an output exists and may not be replaced, or cannot be written; make its folder."""
    target = Path(path)
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists. Choose another name, or replace it with overwrite=True.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise OutputError(f"{target}: cannot write there ({error.strerror}). Choose another place.") from error
    return target


@contextmanager
def lock(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a lock file with this host and process id for as long as the block runs.

    ``LockedError`` if another process holds it. A lock of a dead process of this host is taken over; one of another
    host is not, since its process cannot be seen.
    """
    file = Path(path)
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    while True:
        try:
            handle = disk.create(file)
            break
        except FileExistsError:
            if not reclaim_if_dead(file):
                _refuse_locked(file)
        except OSError as error:
            raise InputError(f"{file.parent}: cannot write there ({error.strerror}).") from error
    try:
        with _name_full_disk(file), handle:
            disk.write(handle, json.dumps(mine).encode())
        with _beating(file):
            yield
    finally:
        disk.delete(file)


@contextmanager
def _beating(file: Path) -> Iterator[None]:
    """Touch a lock now and then, so that others see its owner is alive even from another host."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(file)

    thread = threading.Thread(target=beat, name="scstore-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _refuse_locked(file: Path) -> None:
    try:
        owner = _owner(file)
    except FileNotFoundError:  # it has just ended
        return
    host, pid = owner.get("host"), owner.get("pid")
    holder = f"process {pid} on {host}" if host else "another process that is just starting"
    raise LockedError(f"{file}: {holder} is writing here. Wait for it to end; if it is dead, delete this lock file.")


def reclaim_if_dead(file: Path) -> bool:
    """Delete a lock of a process that is certainly dead; return whether the way is free.

    A process of another host cannot be seen from here, so its lock stays. Of several processes that find a lock dead,
    the first deletes it, and the others find that it is no longer the one they looked at.
    """
    try:
        with _looking_alone(file) as unchanged:
            if not (unchanged and _is_dead(file)):
                return False
            disk.delete(file)
    except FileNotFoundError:
        pass
    return True


@contextmanager
def _looking_alone(file: Path) -> Iterator[bool]:
    """Wait for other processes of this host that look at the same lock; yield whether it is still the same file.

    Where a file system knows no such waiting, two may take over: then the first record of a shard decides.
    """
    if sys.platform == "win32":  # which cannot delete a file that is open
        yield True
        return
    with file.open("rb") as handle:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)  # released when the file is closed
        here, opened = file.stat(), os.fstat(handle.fileno())
        yield (here.st_dev, here.st_ino) == (opened.st_dev, opened.st_ino)


def _is_dead(file: Path) -> bool:
    owner, age = _owner(file), time.time() - file.stat().st_mtime
    host, pid = owner.get("host"), owner.get("pid")
    never_filled = host is None and age > STARTING  # its writer died between creating and filling it
    return never_filled or (host == socket.gethostname() and isinstance(pid, int) and not _alive(pid))


def _owner(file: Path) -> dict[str, Any]:
    try:
        owner = json.loads(file.read_text())
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
