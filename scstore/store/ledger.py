"""Where things are in a store, and what it says of itself: the run's record, digests of fixed files, records of shards.

A shard counts once its record is on disk, and only while its bytes match it. Locks say who may write which shards.
``stores/README.md`` specifies the format in words.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from scstore import fsio
from scstore.errors import DamagedError, LockedError, OptionError
from scstore.sealed import FORMAT, Space, canonical_json, check_format, fingerprint, read_sealed_json, seal, unseal
from scstore.untrusted.guards import reading

# Folder of scstore's own JSON beside the Zarr nodes.
LEDGER = "_scstore"

MANIFEST = f"{LEDGER}/manifest.json"

# Begins the names of all ``obs`` columns that scstore writes.
PREFIX = "scstore_"

STATUS = "scstore_status"
STATUS_OK = "ok"
# In ``obs``: a cell without any expressed gene of the table (and panel); its rows are zeros.
STATUS_EMPTY = "empty"

SEEN_BY_PANEL = "scstore_seen_by_panel"
# Boolean columns of ``obs``, present only where a panel fitted on labels or a trained projector was used: whether it
# saw this cell's label. `evaluate` does not score such cells unless asked.
SEEN_BY_PROJECTOR = "scstore_seen_by_projector"

# Options of a run that may name a file, relative to the store's folder.
FILES = ("genes", "panel", "projector", "orthologs")

# Endings of the files that `extract` writes beside a store, after its name without ``.zarr``.
MADE_BESIDE = (".genes.h5ad", ".panel.h5ad")

# What a stopped run may lose.
SHARD_SECONDS = 60
SHARD_BYTES = 16 * 2**20
MAX_SHARD_ROWS = 4096

STORED_DTYPES = ("float16", "float32")

# Bytes of JSON, for which Python takes twenty times as much: 200,000 files, and the record of a run.
MANIFEST_LIMIT = 1 << 25
RUN_RECORD = "the run's record (uns/scstore/record)"
RUN_LIMIT = 1 << 24
# Bytes of a shard's record; a view takes about 150.
RECORD_LIMIT = 1 << 20

CURE = "Restore the store from a copy."
# Why a shard without a record must be extracted.
NOT_YET = "not extracted yet"
REDO = "Run the same `scstore extract` again to redo this shard."


@dataclass(frozen=True)
class ViewSpec:
    """One feature matrix of a store: its key in ``obsm``, width, dtype (``float16`` or ``float32``), feature space."""

    name: str
    width: int
    dtype: str
    space: Space

    def as_json(self) -> dict[str, Any]:
        space = {"space": dict(self.space), "fingerprint": fingerprint(self.space)}
        return {"width": self.width, "dtype": self.dtype, **space}


@dataclass(frozen=True)
class StorePlan:
    """The fixed shape of a store; ``run`` is the digest of its run's record, which every shard's record repeats."""

    n_obs: int
    shard_rows: int
    views: tuple[ViewSpec, ...]
    run: str = ""

    @property
    def n_shards(self) -> int:
        """Number of shards; the last may hold fewer rows."""
        return -(-self.n_obs // self.shard_rows)

    def bounds(self, shard: int) -> tuple[int, int]:
        """Return a shard's first row and the row after its last."""
        start = shard * self.shard_rows
        return start, min(start + self.shard_rows, self.n_obs)

    def shards(self) -> Iterator[tuple[int, int, int]]:
        yield from ((shard, *self.bounds(shard)) for shard in range(self.n_shards))


def default_shard_rows(n_obs: int, views: Iterable[ViewSpec], *, rate: float = inf) -> int:
    """Return the rows of about a minute at a rate (cells/s): a power of two up to 16 MB and 4,096 rows, or all."""
    row_bytes = max(view.width * np.dtype(view.dtype).itemsize for view in views)
    most = int(max(1, min(MAX_SHARD_ROWS, SHARD_BYTES // row_bytes, SHARD_SECONDS * rate)))
    return min(n_obs, 1 << most.bit_length() - 1)


def view_specs(record: Mapping[str, Any]) -> dict[str, ViewSpec]:
    """Return the views that a run's record describes, by name; ``ValueError`` if one leads out or has no shape."""
    views = record["views"].items()
    specs = {name: ViewSpec(name, int(one["width"]), str(one["dtype"]), one["space"]) for name, one in views}
    if any("/" in name or not is_inside(name) for name in specs):
        raise ValueError("the name of a view leads out of the store")
    if int(record["shard_rows"]) < 1 or any(s.width < 1 or s.dtype not in STORED_DTYPES for s in specs.values()):
        raise ValueError("a shard has no rows, or a view has no width or an unknown dtype")
    return specs


def is_inside(name: object) -> bool:
    """Return whether a name from a file stays below the store, so that no path leaves its root."""
    if not isinstance(name, str) or "\\" in name or "\0" in name or name[1:2] == ":":  # a drive of Windows
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def chunk_path(root: Path, view: str, shard: int) -> Path:
    """Return the file of a shard's rows of a view: raw little-endian, C order."""
    return root / "obsm" / view / "c" / str(shard) / "0"


def file_beside(root: Path, ending: str) -> Path:
    """Return the file that is made for a store and lies beside it: ``ref.zarr`` has ``ref.genes.h5ad``."""
    return root.with_name(root.name.removesuffix(".zarr") + ending)


def record_path(root: Path, shard: int) -> Path:
    """Return the file of the record that commits a shard."""
    return root / LEDGER / "shards" / f"{shard:06d}.json"


def decoding(source: object, name: str) -> AbstractContextManager[None]:
    """Turn any error of a library that decodes a part of ``source`` into :class:`DamagedError`."""
    return reading(source, name, error=DamagedError, cure=f"It is damaged: `scstore verify {source}` says where.")


def parse_run_record(path: Path, text: str) -> dict[str, Any]:
    """Return the record of a run from its text."""
    with reading(path, RUN_RECORD, error=DamagedError, cure=CURE):
        if len(text) > RUN_LIMIT:
            raise ValueError(f"it has {len(text):,} characters")
        record = json.loads(text)
        found, body = record["format"], unseal(record)
    check_format(path, found)
    if body is None:
        raise DamagedError(f"{path}: {RUN_RECORD} does not match its digest. {CURE}")
    return body


def write_manifest(root: Path, names: Iterable[str]) -> None:
    """Write the size and digest of files, relative to the store, that never change again."""
    files = {n: {"bytes": (root / n).stat().st_size, "digest": fsio.digest_file(root / n)} for n in sorted(names)}
    fsio.write_json(root / MANIFEST, seal({"format": FORMAT, "files": files}))


def read_manifest(root: Path) -> dict[str, dict[str, Any]]:
    """Return ``{"bytes": size, "digest": sha256}`` of every file that never changes, by its name in the store."""
    file = root / MANIFEST
    try:
        body = read_sealed_json(file, limit=MANIFEST_LIMIT, cure=CURE)
    except FileNotFoundError:
        raise DamagedError(f"{file} is missing, so the store's files cannot be checked. {CURE}") from None
    files = body.get("files")
    if not isinstance(files, dict) or not all(is_inside(name) and _is_file(value) for name, value in files.items()):
        raise DamagedError(f"{file} does not list files of the store. {CURE}")
    return files


def _is_file(value: object) -> bool:
    size = value.get("bytes") if isinstance(value, dict) and isinstance(value.get("digest"), str) else None
    return isinstance(size, int) and not isinstance(size, bool) and size >= 0


def file_problem(file: Path, expected: Mapping[str, Any], *, hashed: bool = True) -> tuple[str, str] | None:
    """Return how a file differs from its size and digest, as ``(problem, message)``."""
    try:
        if (size := file.stat().st_size) != expected["bytes"]:
            return "damaged", f"has {size:,} bytes where {expected['bytes']:,} were written"
        if hashed and fsio.digest_file(file) != expected["digest"]:
            return "damaged", "does not match its digest"
    except (FileNotFoundError, NotADirectoryError):
        return "missing", "is missing"
    return None


def check_fixed_files(root: Path) -> None:
    """Raise ``DamagedError`` unless every file that never changes matches the manifest."""
    for name, expected in read_manifest(root).items():
        if (problem := file_problem(root / name, expected)) is not None:
            raise _not_ours(root, name, problem[1])


def _not_ours(root: Path, name: str, problem: str) -> DamagedError:
    return DamagedError(f"{root / name} {problem}. {CURE} `scstore verify {root}` lists all that is wrong.")


class ManifestStore(WrapperStore[Store]):
    """A store's Zarr: each fixed file is compared with the manifest before it is first decoded; others are refused."""

    _supports_sync_io = False  # newer Zarr would go past `get`

    def __init__(self, store: Store, root: Path) -> None:
        super().__init__(store)
        self._root = root
        self._checked: set[str] = set()

    @cached_property
    def _manifest(self) -> dict[str, dict[str, Any]]:
        return read_manifest(self._root)

    def _with_store(self, store: Store) -> ManifestStore:
        return ManifestStore(store, self._root)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read one value whole, and compare it."""
        if (mirror := fsio.mirror_of(self._root)) is not None and (listed := self._manifest.get(key)) is not None:
            await asyncio.to_thread(mirror.fetch, {self._root / key: listed})
        value = await super().get(key, prototype, byte_range)
        of_a_view = key.startswith("obsm/") and not key.endswith("zarr.json")
        if (value is not None and key in self._checked) or of_a_view or key.startswith(f"{LEDGER}/"):
            return value
        whole = value if byte_range is None else await super().get(key, prototype)
        expected = self._manifest.get(key)
        if (whole is None) != (expected is None):
            raise _not_ours(self._root, key, "is missing" if whole is None else "is not a file of this store")
        if whole is not None and expected is not None and fsio.digest_bytes(whole.to_bytes()) != expected["digest"]:
            raise _not_ours(self._root, key, "does not match its digest")
        self._checked.add(key)
        return value


def ids_digest(ids: Sequence[str]) -> str:
    """Return the SHA-256 of cell ids in their order."""
    return fsio.digest_bytes(canonical_json(list(ids)).encode())


def write_record(root: Path, plan: StorePlan, shard: int, *, ids: Sequence[str], views: Mapping[str, Any]) -> None:
    """Commit a shard: its rows, its run, the digest of its ids, the size and digest of each view's file on disk."""
    start, stop = plan.bounds(shard)
    own = {"shard": shard, "start": start, "stop": stop, "run": plan.run, "ids": ids_digest(ids), "views": dict(views)}
    file, data = record_path(root, shard), fsio.json_bytes(seal(own))
    if (mirror := fsio.mirror_of(root)) is None:
        fsio.write_bytes(file, data)
    else:  # the first of several wins; a damaged one, which was fetched, is replaced
        mirror.put(file, data, over="overwrite" if file.exists() else "create")


def read_record(root: Path, shard: int) -> dict[str, Any] | None:
    """Return a shard's record, ``None`` when it is not committed; ``DamagedError`` if it does not match its digest."""
    file = record_path(root, shard)
    try:
        if not file.stat().st_size:  # a file system that lost the bytes in a power cut, not the name
            return None
        body = read_sealed_json(file, limit=RECORD_LIMIT, cure=REDO, has_format=False)
    except FileNotFoundError:
        return None
    views: Any = body.get("views")
    whole = isinstance(views, dict) and {"start", "stop", "run", "ids"} <= body.keys() and body.get("shard") == shard
    if not whole or not all("/" not in n and is_inside(n) and _is_file(value) for n, value in views.items()):
        raise DamagedError(f"{file} is not the record of this shard. {REDO}")
    return body


def foreign_fields(record: Mapping[str, Any], plan: StorePlan, shard: int, ids: Sequence[str] | None) -> list[str]:
    """Return in what a shard's record is that of another store or run; ``ids`` are those of the shard's cells."""
    sizes = {view.name: plan.shard_rows * view.width * np.dtype(view.dtype).itemsize for view in plan.views}
    same = {
        "rows": (record["start"], record["stop"]) == plan.bounds(shard),
        "run": record["run"] == plan.run,
        "ids": ids is None or record["ids"] == ids_digest(ids),
        "views": {view: expected["bytes"] for view, expected in record["views"].items()} == sizes,
    }
    return [name for name, holds in same.items() if not holds]


def committed_shards(root: Path, plan: StorePlan) -> list[bool]:
    """Return for each shard whether it has a record that is not empty; the bytes are not read."""
    committed = [False] * plan.n_shards
    for shard in range(plan.n_shards):
        with suppress(FileNotFoundError, NotADirectoryError):  # any other failed look is an error
            committed[shard] = record_path(root, shard).stat().st_size > 0
    return committed


def check_shard(
    root: Path, plan: StorePlan, shard: int, *, ids: Sequence[str] | None = None, views: Iterable[str] | None = None
) -> str | None:
    """Return why a shard (of ``views`` alone, if given) must be extracted again; ``None`` when every byte matches."""
    try:
        record = read_record(root, shard)
    except DamagedError as error:
        return str(error).removesuffix(f". {REDO}")
    if record is None:
        return NOT_YET
    if fields := foreign_fields(record, plan, shard, ids):
        return f"{record_path(root, shard)} belongs to another store or run (other {', '.join(fields)})"
    mirror = fsio.mirror_of(root)
    for name in record["views"] if views is None else views:
        file, expected = chunk_path(root, name, shard), record["views"][name]
        if mirror is None and (problem := file_problem(file, expected)) is not None:
            return f"{file} {problem[1]}"
        if mirror is not None and mirror.size(file) != expected["bytes"]:  # the bytes are compared when they come
            return f"{file} is missing or has another size"
    return None


@dataclass(frozen=True)
class Part:
    """One of ``count`` equal parts of a store's shards, numbered from 0."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise OptionError(f"shard='{self.index}/{self.count}': parts are numbered from 0 to {self.count - 1}.")

    @classmethod
    def parse(cls, text: str) -> Part:
        if (found := re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)) is None:
            raise OptionError(f"shard={text!r}: give i/n, such as 0/8 for the first of eight parts.")
        return cls(int(found[1]), int(found[2]))

    def owns(self, shard: int) -> bool:
        return shard % self.count == self.index

    def overlaps(self, other: Part) -> bool:
        """Return whether two parts may own the same shard."""
        return self.count != other.count or self.index == other.index


def creation_lock(root: Path) -> Path:
    """Return the lock for shaping a store; it lies beside the store, which does not exist yet."""
    return root.with_name(f"{root.name}.creating.lock")


@contextmanager
def part_lock(root: Path, part: Part) -> Iterator[None]:
    """Hold a part of a store for writing; ``LockedError`` while another process holds one that shares its shards."""
    place: Any = fsio.mirror_of(root) or fsio  # either keeps locks
    # taken before the others are looked at, so that of two processes that start at once one sees the other
    with place.lock(_path(root, part)):
        for other, file in _held(root):
            if other != part and part.overlaps(other) and not place.reclaim_if_dead(file):
                why = f"another process extracts part {other.index} of {other.count}, which shares shards with this one"
                raise LockedError(f"{file}: {why}. Wait for it, or use shard='i/n' with one n everywhere.")
        yield


def _path(root: Path, part: Part) -> Path:
    name = "lock" if part.count == 1 else f"{part.index}of{part.count}.lock"
    return root.with_name(f"{root.name}.{name}")


def _held(root: Path) -> Iterator[tuple[Part, Path]]:
    names = re.compile(re.escape(root.name) + r"\.(?:(\d{1,6})of(\d{1,6})\.)?lock")
    mirror = fsio.mirror_of(root)
    there = (file.name for file in root.parent.iterdir()) if mirror is None else mirror.names(root.parent)
    for name in sorted(there):
        if found := names.fullmatch(name):
            yield Part(int(found[1] or 0), int(found[2] or 1)), root.with_name(name)
