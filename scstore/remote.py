"""Folders that stand for an address: files come through obstore when they are needed, many at once, and are compared.

What reads files reads them there; messages name the address (``errors.STANDS_FOR``).
"""

import hashlib
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

from scstore import fsio
from scstore.disk import is_dead, this_process
from scstore.errors import (
    STANDS_FOR,
    DamagedError,
    InputError,
    LockedError,
    MissingExtraError,
    NetworkError,
    OptionError,
    OutputError,
    ScstoreError,
    UnreadableError,
)

T = TypeVar("T")
Expected = Mapping[str, Any]  # ``bytes`` and ``digest`` of a file, as far as they are known

REQUESTS = 16  # at once
WAITS = (0.2, 0.8, 3.0, 9.0)  # seconds before a request is tried again
STALLED = timedelta(seconds=30)  # without a byte
PIECE = 1 << 24  # bytes of a file that are in memory at once

# Bytes of matrices that the cache keeps of all addresses together, unless SCSTORE_CACHE_BYTES says otherwise.
CACHE_BYTES = 20 * 2**30
FOLDER = "addresses"  # in the cache
FILE_LIMIT = 1 << 34  # bytes of any file, or of all small ones of a store, that are fetched
AGAIN = "What lies there was changed or damaged: send it there again."

POOL = ThreadPoolExecutor(REQUESTS, thread_name_prefix="scstore-fetch")


class Mirror:
    """A folder whose files are fetched from below an address, such as a bucket; credentials are the environment's."""

    def __init__(self, root: Path, base: str, *, prefix: str = "", limit: int | None = None) -> None:
        try:
            import obstore
            from obstore import exceptions

            if base.startswith("hf://"):
                from huggingface_hub import get_token
        except ImportError:
            raise MissingExtraError("An address such as s3://bucket/ref.zarr", "remote") from None
        self.root, self.base, self.prefix, url = root, base, prefix, base
        self.limit = limit  # bytes of matrices in the cache; None where all stays
        client: Any = {"timeout": timedelta(days=1), "read_timeout": STALLED}
        if (hub := re.fullmatch(r"hf://((?:datasets|spaces)/|)([^@]+)@?(.*)", base)) is not None:
            server = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
            url = f"{server}/{hub[1]}{hub[2]}/resolve/{hub[3] or 'main'}"
            client["default_headers"] = {"Authorization": f"Bearer {token}"} if (token := get_token()) else {}
        endpoints = [value for name, value in os.environ.items() if name.startswith("AWS_ENDPOINT")]
        client["allow_http"] = any(one.startswith("http://") for one in (url, *endpoints))  # as the user wrote it
        never: Any = {"max_retries": 0}  # what is tried again is decided here, where wrong bytes are known too
        self._server, self._errors = obstore.store.from_url(url, client_options=client, retry_config=never), exceptions
        self._begun: dict[Path, tuple[str, Future[None]]] = {}
        self._lock = threading.Lock()
        self._held: dict[Path, tuple[float, Any]] = {}  # locks: when they were last renewed, and their version

    def fetch(self, files: Mapping[Path, Expected], *, done: Callable[[], None] = lambda: None) -> None:
        """Fetch files as far as they are not there, and compare them; ``DamagedError`` where one is missing."""
        try:
            for begun in [self.begin(file, expected) for file, expected in files.items()]:
                begun.result()
                done()
        except BaseException:  # nobody waits for the others, nor for what was to be read ahead
            for _, begun in self._begun.values():
                begun.cancel()
            raise

    def begin(self, file: Path, expected: Expected) -> Future[None]:
        """Begin to fetch a file, unless it is there or on its way."""
        with self._lock:
            digest, begun = self._begun.get(file, ("", None))
            if begun is None or digest != expected["digest"] or (begun.done() and not file.exists()):
                begun = POOL.submit(self._fetch, file, expected)
                self._begun[file] = expected["digest"], begun
            return begun

    def _fetch(self, file: Path, expected: Expected) -> None:
        if file.is_file() and fsio.digest_file(file) == expected["digest"]:
            os.utime(file)  # the oldest go first
            return
        bounded = self.limit is not None and is_bulk(file.relative_to(self.root).as_posix())
        with _room_for(expected["bytes"], self.limit or 0) if bounded else nullcontext():
            if not self.get(file, expected):
                raise DamagedError(f"{file} is missing. {AGAIN}")

    def get(self, file: Path, expected: Expected | None = None, *, limit: int = FILE_LIMIT) -> bool:
        """Fetch a file anew, which gets its name once length and digest are right; return whether it is there."""
        size, digest = (expected or {}).get("bytes"), (expected or {}).get("digest")
        partial = file.with_name(f".{fsio.PARTIAL}{token_hex(8)}")

        def once(name: str) -> None:
            found, seen = self._server.get(name), hashlib.sha256()
            told = found.meta["size"]
            if told > limit or size not in (None, told):
                raise DamagedError(f"{file} has {told:,} bytes, where {size or limit:,} are possible. {AGAIN}")
            fsio.disk.make_folder(file.parent)
            with fsio.disk.create(partial) as written:
                for part in found.stream(min_chunk_size=PIECE):
                    seen.update(part)
                    fsio.disk.write(written, memoryview(part))
                told -= written.tell()
            if told or digest not in (None, f"sha256:{seen.hexdigest()}"):
                raise DamagedError(f"{file} does not match its digest. {AGAIN}")
            fsio.disk.rename(partial, file)

        try:
            self.insist(file, once, clean=partial)
        except FileNotFoundError:
            fsio.disk.delete(file)
            return False
        return True

    def rows(self, file: Path, starts: list[int], length: int) -> list[Any] | None:
        """Return pieces of ``length`` bytes of a file; ``None`` where the server gives none."""

        def once(name: str) -> list[Any] | None:
            with suppress(self._errors.NotSupportedError):
                found = self._server.get_ranges(name, starts=starts, lengths=[length] * len(starts))
                if {len(one) for one in found} != {length}:
                    raise DamagedError(f"{file}: a piece of it was cut. {AGAIN}")
                return list(found)
            return None

        return self.insist(file, once)

    def sizes(self, folder: Path) -> dict[str, int]:
        """Return the bytes of all files that lie in a folder there, by their names in it."""
        name = "" if folder == self.root else f"{folder.relative_to(self.root).as_posix()}/"
        found = self.insist(folder, lambda _: list(self._server.list(name)))
        return {one["path"].removeprefix(name): one["size"] for batch in found for one in batch}

    def size(self, file: Path) -> int | None:
        """Return the bytes of a file there; None where there is none."""
        with suppress(FileNotFoundError):
            return int(self.insist(file, self._server.head)["size"])
        return None

    def names(self, folder: Path) -> list[str]:
        """Return the names of the files and folders in a folder there."""
        found = self.insist(folder, lambda name: self._server.list_with_delimiter("" if folder == self.root else name))
        paths = (*found["common_prefixes"], *(one["path"] for one in found["objects"]))
        return [path.rpartition("/")[2] for path in paths]

    def put(self, file: Path, data: bytes | memoryview, *, over: Any = "overwrite") -> Any:
        """Write a file there whole, over anything, nothing ("create") or a version; return its version, None if not."""
        if any(time.time() - renewed > fsio.STALE / 2 for renewed, _ in list(self._held.values())):
            why = "a lock was not renewed for minutes, and others may have taken it over"
            raise NetworkError(f"{file} is not written: {why}. Run the same command again.")

        def once(name: str) -> Any:
            try:
                return _version(self._server.put(name, data, mode=over, use_multipart=False))
            except (self._errors.AlreadyExistsError, self._errors.PreconditionError):
                found = self._server.get(name)  # our own, where the answer to an earlier try was lost
                own = found.meta["size"] == len(data) and bytes(found.bytes()) == data
                return _version(found.meta) if own else None

        return self.insist(file, once)

    @contextmanager
    def lock(self, file: Path) -> Iterator[None]:
        """Hold a lock as :func:`fsio.lock` does: a file that is put where there is none, or a dead one's."""

        def renew() -> None:
            now, (_, version) = time.time(), self._held[file]
            version = self.put(file, _signature(), over=version)
            self._held[file] = now if version else 0.0, version

        self._held[file] = time.time(), self._claim(file)
        try:
            with fsio.beating(renew):
                yield
        finally:
            if time.time() - self._held.pop(file)[0] < fsio.STALE / 2:
                with suppress(ScstoreError, FileNotFoundError):
                    self.insist(file, self._server.delete)

    def _claim(self, file: Path) -> Any:
        """Put a lock and return its version; refuse servers that put it whatever lies there."""
        try:
            version = self.put(file, _signature(), over="create")
            if not version and self.reclaim_if_dead(file):
                version = self.put(file, _signature(), over="create")
            if not version:
                cure = f"if it is dead, its lock is free {fsio.STALE / 60:.0f} minutes after its last sign of life"
                raise LockedError(f"{file}, which says who, is another process's. Wait for it to end; {cure}.")
            if not any(self.put(file, b"", over=other) for other in ("create", {"e_tag": '"0"', "version": "0"})):
                return version
            self.insist(file, self._server.delete)
        except FileNotFoundError:  # let go of just now
            return self._claim(file)
        except (NotImplementedError, NetworkError) as error:
            if isinstance(error, NetworkError) and "501 Not Implemented" not in str(error):
                raise
        why = "this server has no conditional writes (If-None-Match, If-Match), which stand in for a lock"
        raise OptionError(f"{self.base}: {why}. Extract to disk, then `scstore push`.")

    def reclaim_if_dead(self, file: Path) -> bool:
        """Delete a lock, once it is ours, whose holder is dead or silent for long; return whether the way is free."""
        with suppress(FileNotFoundError):
            found, text = self.insist(file, lambda name: (one := self._server.get(name), bytes(one.bytes())))
            silent = time.time() - found.meta["last_modified"].timestamp()
            is_free = silent > fsio.STALE or is_dead(fsio.owner_of(text), freed=False)
            if not is_free or not self.put(file, _signature(), over=_version(found.meta)):
                return False
            self.insist(file, self._server.delete)
        return True

    def insist(self, file: Path, action: Callable[[str], T], *, clean: Path | None = None) -> T:
        """Do what is to be done with the file's name there, again and again while the server fails."""
        name = f"{self.prefix}{file.relative_to(self.root).as_posix()}"
        for wait in (*WAITS, None):
            try:
                return action(name)
            except (self._errors.PermissionDeniedError, self._errors.UnauthenticatedError) as error:
                why = f"access is refused ({_reason(error)}). Set the variables with your credentials."
                raise UnreadableError(f"{self.base}/{name}: {why}") from None
            except (self._errors.BaseError, DamagedError) as error:
                if wait is None and isinstance(error, DamagedError):
                    raise
                if wait is None:
                    why = f"no whole answer in {len(WAITS) + 1} tries ({_reason(error)}). Try again later."
                    raise NetworkError(f"{self.base}/{name}: {why}") from None
            finally:
                if clean is not None:
                    fsio.disk.delete(clean)
            time.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311  # no secret
        raise AssertionError


def _version(of: Any) -> dict[str, str]:
    """Return by what a server tells one version of a file from another."""
    return {name: of[name] for name in ("e_tag", "version") if of[name] is not None}


def _signature() -> bytes:
    """Return what is in a lock; never the same twice, so that each has a version of its own."""
    return json.dumps({**this_process(), "token": token_hex(8)}).encode()


def _reason(error: Exception) -> str:
    """Return what an error says, without addresses, which may hold a signature."""
    first = str(error).partition("\n")[0].rpartition(" - ")[2]
    return re.sub(r"\S+://\S+", "…", first).partition(": <")[0][:200]


_lock = threading.Lock()
_bytes = {"kept": -1, "coming": 0}  # of matrices in the cache, once they were counted, and on their way


def is_bulk(name: str) -> bool:
    """Whether a file holds a part of the expression or of a view, by its name."""
    *folders, last = name.split("/")
    return not {"obsm", "X"}.isdisjoint(folders) and last != "zarr.json" and fsio.PARTIAL not in last


def split_address(address: str) -> tuple[str, str]:
    """Return the address of a bucket, server or repository, and the name of what lies there."""
    scheme, _, rest = address.partition("://")
    parts = rest.strip("/").split("/")
    n = 1 if scheme != "hf" else 3 if parts[0] in ("datasets", "spaces") else 2
    if "?" in rest or "#" in rest or (scheme != "hf" and "@" in parts[0]):
        raise InputError("An address with a password or a query is refused: credentials are set as variables.")
    if len(parts) < n or any(part in ("", ".", "..") or "\\" in part for part in parts):
        raise InputError(f"{address}: this address is not complete. Write scheme://bucket/folder/ref.zarr.")
    return f"{scheme}://{'/'.join(parts[:n])}", "/".join(parts[n:])


def mount(address: str) -> tuple[Mirror, Path]:
    """Return the mirror, in the user's cache, of the place of an address, and what stands for the address in it."""
    base, name = split_address(address)
    key = hashlib.sha256(base.encode()).hexdigest()[:24]
    root = fsio.cache_folder() / FOLDER / key / re.sub(r"[^\w.-]", "_", base.rpartition("/")[2])
    if root not in fsio.MIRRORS:
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise OutputError(f"{root}: cannot write there ({error.strerror}). Set SCSTORE_CACHE.") from error
        fsio.MIRRORS[root] = Mirror(root, base, limit=int(os.environ.get("SCSTORE_CACHE_BYTES", CACHE_BYTES)))
        STANDS_FOR[str(root)] = base
    return fsio.MIRRORS[root], root / name


def there(path: Path) -> Path:
    """Return the normal form of a path that a store names; what lies in a mirror is fetched, if it is there."""
    mirror: Mirror | None = fsio.mirror_of(path)
    path = Path(os.path.normpath(path))
    if mirror is None:
        return path
    if not path.is_relative_to(mirror.root):
        return mirror.root / "outside"  # the store of a stranger names no file of this machine
    for name in ("",) if path.suffix else ("projector.json", "projector.safetensors"):
        mirror.get(path / name)
    return path


@contextmanager
def _room_for(size: int, limit: int) -> Iterator[None]:
    """Delete the oldest matrices of the cache until ``size`` bytes more, and what is on its way, are within a limit."""
    if size > limit:
        raise InputError(f"A file of {size:,} bytes is more than SCSTORE_CACHE_BYTES={limit}. Allow more.")
    with _lock:
        if _bytes["kept"] < 0 or sum(_bytes.values()) + size > limit:
            top = fsio.cache_folder() / FOLDER
            files = (p for p in top.rglob("*") if is_bulk(p.relative_to(top).as_posix()) and p.is_file())
            found = sorted((stat.st_mtime, stat.st_size, p) for p in files if (stat := p.stat()))
            _bytes["kept"] = sum(length for _, length, _ in found)
            for _, length, file in found:
                if sum(_bytes.values()) + size > 0.9 * limit:
                    file.unlink(missing_ok=True)
                    _bytes["kept"] -= length
        _bytes["coming"] += size
    try:
        yield
    finally:
        with _lock:
            _bytes["coming"] -= size
            _bytes["kept"] += size
