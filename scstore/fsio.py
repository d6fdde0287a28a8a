"""File operations that survive a crash: atomic writes, digests, a lock.

Every file goes to a temporary name beside the target, is flushed to disk (fsync), renamed, and its folder is flushed
too. A reader sees the old file or the new one, never a part.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import IO, Any

from scstore.disk import Disk, is_dead, this_process
from scstore.errors import DamagedError, InputError, LockedError, OutputError, ScstoreError, UnreadableError, show

if sys.platform != "win32":
    import fcntl


PARTIAL = ".partial-"  # marks temporary files and folders, which may be deleted
OLD = f"{PARTIAL}old-"  # marks what is being replaced, until its replacement has its name
SCRATCH = ".scratch-"  # marks a folder to work in beside an output, and its lock

LONGEST_NAME = 200  # bytes of an output's name; its hidden name is longer, and file systems take 255

# Beginnings of the names of files that systems leave in any folder.
OF_THE_SYSTEM = (".DS_Store", "._", ".nfs", ".directory", "Thumbs.db", "desktop.ini")

FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk without room, or a quota that is used up

# What begins an address, also where pathlib has taken one of its slashes.
ADDRESS = re.compile(r"(s3|gs|az|https?|hf|file):/{1,3}(?=[^/])")

# Folders that stand for an address, and what fetches the files below them.
MIRRORS: dict[Path, Any] = {}

# Numbers of the system's errors that say something about the file; of all others it may be whole.
OF_THE_FILE = {0, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG, errno.EFBIG}

HEARTBEAT = 30.0  # seconds between touches of a lock by its owner
STALE = 600.0  # seconds without a touch after which a lock's owner shows no sign of life
STARTING = 60.0  # seconds after which a lock without an owner in it may be deleted

# All of scstore writes with this one; only tests put another in its place.
disk = Disk()


def _number(error: OSError) -> int:
    """Return the system's number of an error; HDF5 has one of its own, with that number in its words."""
    words = re.search(r"errno = (\d+)", str(error))
    return error.errno or int(words[1] if words else 0)


def check_read(error: BaseException, what: str) -> None:
    """Raise ``UnreadableError`` for an error of the system while reading: what is not read is not known as damaged."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    if cause is not None and (number := _number(cause)) not in OF_THE_FILE:
        msg = f"{what} could not be read ({os.strerror(number)}). It may be whole: try again, or ask who runs the disk."
        raise UnreadableError(msg) from error


def address_of(path: object) -> str:
    """Return the address that a path is, with two slashes; empty for a path on disk."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
    return ADDRESS.sub(r"\1://", text, count=1) if isinstance(text, str) and ADDRESS.match(text) else ""


def mirror_of(path: Path) -> Any:
    """Return the mirror (``scstore.remote``) in which a path lies; None for what is on this disk alone."""
    return next((MIRRORS[one] for one in (path, *path.parents) if one in MIRRORS), None) if MIRRORS else None


def cache_folder() -> Path:
    """Return where things are kept for this user: ``SCSTORE_CACHE``, else ``scstore`` in the usual cache folder."""
    if own := os.environ.get("SCSTORE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scstore"


def is_own(file: Path) -> bool:
    """Whether a file is there and belongs to this user."""
    return file.is_file() and (not hasattr(os, "getuid") or file.stat().st_uid == os.getuid())


def digest_bytes(data: bytes | memoryview) -> str:
    """Return the SHA-256 of a buffer, as ``sha256:<hex>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _refuse_special(file: Path) -> None:
    if not file.is_file() and file.exists() and not file.is_dir():
        raise DamagedError(f"{file} is a pipe, device or socket, not a file. Restore it from a copy.")


def digest_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, read in pieces, as ``sha256:<hex>``."""
    _refuse_special(Path(path))
    with Path(path).open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def files_below(root: Path) -> list[str]:
    """Return the names of all files below a folder, relative to it, sorted."""
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def digest_tree(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, or of all files below a folder with their relative names."""
    root = Path(path)
    if not root.is_dir():
        return digest_file(root)
    listing = "\n".join(f"{json.dumps(name)} {digest_file(root / name)}" for name in files_below(root))
    return digest_bytes(listing.encode())


def fsync_dir(path: str | os.PathLike[str]) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        disk.sync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike[str], *parts: bytes | memoryview) -> None:
    """Write a file atomically and durably from one or more buffers; of two writers the last one wins."""
    target = Path(path)
    partial = _hidden(target)
    try:
        with _name_full_disk(target):
            with disk.create(partial) as file:
                for part in parts:
                    disk.write(file, part)
                file.flush()
                disk.sync(file.fileno())
            disk.rename(partial, target)
    except BaseException:
        disk.delete(partial)
        raise
    fsync_dir(target.parent)


def json_bytes(value: Any) -> bytes:
    """Return JSON in the one form that scstore writes; ``ValueError`` for NaN and infinity."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, sort_keys=True).encode() + b"\n"


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write indented JSON atomically and durably; NaN and infinity are refused."""
    write_bytes(path, json_bytes(value))


def read_json(path: str | os.PathLike[str], *, limit: int = 1 << 28) -> Any:
    """Read a JSON file; ``DamagedError`` if it has more than ``limit`` bytes or is not JSON in UTF-8."""
    file = Path(path)
    _refuse_special(file)
    if (size := file.stat().st_size) > limit:
        raise DamagedError(f"{file} is damaged or not scstore's: {size:,} bytes, where at most {limit:,} are possible.")
    try:
        return json.loads(file.read_bytes())
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DamagedError(f"{file} is damaged: not JSON ({error}). Restore it or make it again.") from error


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a hidden path beside ``path``; then flush what is there and rename it into place, or delete it on an error.

    Whoever holds the lock of an output deletes what killed runs left.
    """
    given = Path(path)
    target = given.resolve() if given.is_symlink() or given.name in ("", "..") else given
    disk.make_folder(target.parent)
    with _name_full_disk(target), lock(writing_lock(target), output=target):
        _give_back(target)
        for left in _left_of(target):
            disk.delete(left)
        _refuse_existing(target, overwrite=overwrite)
        partial = _hidden(target)
        try:
            yield partial
            _flush(partial)
            _put_in_place(partial, target, overwrite=overwrite)
        except BaseException:
            _give_back(target)
            disk.delete(partial)
            raise


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a hidden folder beside ``path``, as :func:`atomic_path`; an existing one stays until it is complete."""
    with atomic_path(path, overwrite=overwrite) as partial:
        disk.make_folder(partial)
        yield partial


@contextmanager
def scratch_folder(output: Path) -> Iterator[Path]:
    """Yield a hidden folder beside an output, for as long as the block runs; those of dead processes are deleted."""
    for left in _left_of(output, SCRATCH):
        if reclaim_if_dead(left.with_name(f"{left.name.removesuffix('.lock')}.lock")):
            disk.delete(left)
    folder = _hidden(output, SCRATCH)
    with lock(folder.with_name(f"{folder.name}.lock"), output=output):
        try:
            disk.make_folder(folder)
            yield folder
        finally:
            disk.delete(folder)


def _flush(path: Path) -> None:
    """Flush a file, or a folder with all that is in it."""
    if path.is_dir():
        for one in path.iterdir():
            _flush(one)
        fsync_dir(path)
    else:
        with path.open("rb+" if os.access(path, os.W_OK) else "rb") as file:
            disk.sync(file.fileno())


def _hidden(target: Path, mark: str = PARTIAL) -> Path:
    """Return a name that no other process takes, also where containers give one process id several times."""
    return target.with_name(f".{target.name}{mark}{os.getpid()}-{token_hex(4)}")


def _left_of(target: Path, mark: str = PARTIAL) -> list[Path]:
    return sorted(file for file in target.parent.iterdir() if file.name.startswith(f".{target.name}{mark}"))


def writing_lock(target: Path) -> Path:
    """Return the lock of whoever writes an output."""
    return target.with_name(f".writing-{target.name}.lock")


def _refuse_existing(target: Path, *, overwrite: bool) -> None:
    if os.path.lexists(target) and not overwrite:
        raise OutputError(f"{target} exists. Choose another name, or replace it with overwrite=True.")


def _put_in_place(partial: Path, target: Path, *, overwrite: bool) -> None:
    """Give a finished output its name; the old or the new has it at any time, or the old gets it back."""
    _refuse_existing(target, overwrite=overwrite)
    if not (target.is_dir() and partial.is_dir()):
        disk.rename(partial, target)
    elif disk.exchange(partial, target):
        fsync_dir(target.parent)
        disk.delete(partial)
    else:
        old = _hidden(target, OLD)
        disk.rename(target, old)
        disk.rename(partial, target)
        fsync_dir(target.parent)
        disk.delete(old)
    fsync_dir(target.parent)


def _give_back(target: Path) -> None:
    """Rename the old output back where its replacement ended between two renames."""
    if not os.path.lexists(target) and (old := _left_of(target, OLD)):
        disk.rename(old[-1], target)


def mend(path: str | os.PathLike[str]) -> None:
    """Before an output is read: give it its name back if its replacement was killed between two renames."""
    target = Path(path)
    with contextlib.suppress(OSError, ScstoreError):  # not ours to mend, or still being replaced
        if not os.path.lexists(target) and _left_of(target, OLD):
            with lock(writing_lock(target), output=target):
                _give_back(target)


@contextmanager
def _name_full_disk(target: Path) -> Iterator[None]:
    """Let the error of a full disk name the output and the disk, and say what to do next."""
    try:
        yield
    except OSError as error:
        if _number(error) not in FULL:
            raise
        place = target.parent.resolve()
        while not place.is_mount() and place != place.parent:
            place = place.parent
        msg = f"no room is left on the disk at {place}. Make room there, then run the same command again"
        raise OSError(errno.ENOSPC, msg, str(target)) from error


def check_output(
    path: str | os.PathLike[str], *, overwrite: bool = False, problem: Callable[[Path], str | None] | None = None
) -> Path:
    """Raise ``OutputError`` if an output exists and may not be replaced, or cannot be written; make its folder.

    ``problem`` says why what is there is not of the same kind; a file without a byte is of any kind.
    """
    target = Path(path)
    if there := address_of(path):
        raise OutputError(f"{there}: outputs are written to disk. Write there, then send it with `scstore push`.")
    _refuse_existing(target, overwrite=overwrite)
    if os.path.lexists(target) and not (target.is_file() and not target.stat().st_size):
        why: str | None = "is not a file or folder"  # a pipe, a device, a link to nothing
        if target.is_file() or (target.is_dir() and problem is not None):
            why = None if problem is None else problem(target)
        if why is not None:
            raise OutputError(f"{target} {why}, so it is not replaced. Choose another name, or move it away.")
    try:
        if len(os.fsencode(target.name)) > LONGEST_NAME:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise OutputError(f"{target}: cannot write there ({error.strerror}). Choose another place.") from error
    return target


def folder_problem(path: Path, what: str, *, marker: str, parts: Container[str]) -> str | None:
    """Return why a folder is not ``what``, which holds ``marker`` and else only ``parts``; ``None`` if it is."""
    if not (path / marker).exists():
        return f"is not {what} of scstore's"
    strange = (file.name for file in sorted(path.iterdir()) if PARTIAL not in file.name)
    found = next((one for one in strange if one not in parts and not one.startswith(OF_THE_SYSTEM)), None)
    return None if found is None else f"holds {show(found)}, which is no part of {what}"


@contextmanager
def lock(path: str | os.PathLike[str], *, output: Path | None = None) -> Iterator[None]:
    """Hold a lock file for as long as the block runs; ``LockedError`` if another process holds it.

    The lock of a dead process of this machine is taken over, whatever container it ran in; one of another machine is
    not, since its process cannot be seen. ``output`` is what messages call it.
    """
    file = Path(path)
    while True:
        try:
            handle = disk.create(file)
            break
        except FileExistsError:
            if not reclaim_if_dead(file):
                _refuse_locked(file, output)
        except OSError as error:
            if error.errno in FULL:
                raise
            raise InputError(f"{file.parent}: cannot write there ({error.strerror}).") from error
    with handle:
        try:
            _hold(handle, wait=True)  # somebody may just be looking at it
            with _name_full_disk(file):
                disk.write(handle, json.dumps(this_process()).encode())
                handle.flush()
            with beating(lambda: os.utime(file)):
                yield
        finally:
            if _is_same(file, handle):  # not when somebody thought us dead
                disk.delete(file)


def _is_same(file: Path, handle: IO[bytes]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(file.stat(), os.fstat(handle.fileno()))
    return False


def _hold(handle: IO[bytes], *, wait: bool) -> bool | None:
    """Let the kernel mark an open lock file as held, if no other process holds it; ``None`` where it cannot."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a network file system that knows no locks
        return None
    return True


@contextmanager
def beating(touch: Callable[[], object]) -> Iterator[None]:
    """Touch a lock now and then, so that others see its owner is alive even from another host."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            with contextlib.suppress(OSError, ScstoreError):
                touch()

    thread = threading.Thread(target=beat, name="scstore-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _refuse_locked(file: Path, output: Path | None) -> None:
    try:
        owner = owner_of(file.read_text())
    except FileNotFoundError:  # it has just ended
        return
    holder = f"process {owner.get('pid')} on {owner['host']}" if owner.get("host") else "another that is just starting"
    cure = f"Wait for it to end; if it is dead, delete {'this lock file' if output is None else file}."
    raise LockedError(f"{output or file}: {holder} is writing here. {cure}")


def reclaim_if_dead(file: Path) -> bool:
    """Delete a lock of a process that is certainly dead; return whether the way is free.

    Of several processes that find a lock dead, the first deletes it, and the others find that it is no longer the one
    they looked at. Where a file system knows no locks, two may take over: then the first record of a shard decides.
    """
    try:
        with file.open("rb+" if os.access(file, os.W_OK) else "rb") as handle:
            held = _hold(handle, wait=False)
            if held is False or not _is_same(file, handle):
                return False
            owner, silent = owner_of(file.read_text()), time.time() - file.stat().st_mtime
            # without a host, its writer died between creating and filling it
            if not (silent > STARTING if owner.get("host") is None else is_dead(owner, freed=held is True)):
                return False
            disk.delete(file)
    except FileNotFoundError:
        pass
    return True


def owner_of(text: str | bytes) -> dict[str, Any]:
    """Return who holds a lock, from what is in it; empty where that is not written yet."""
    try:
        owner = json.loads(text)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}
