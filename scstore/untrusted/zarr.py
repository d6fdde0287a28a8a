"""Zarr folders from anywhere: no link, no pickle, and nothing that takes far more memory than it has bytes."""

import asyncio
import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from scstore.errors import CellsError, ScstoreError, show
from scstore.untrusted.guards import EXHAUSTS, FLOOR, RATIO, check_path, reading
from scstore.untrusted.packing import ABSENT, CHECKSUMS, Packing, chunk_problem, packing_of

# Zarr's files of metadata; every other is a chunk.
DESCRIPTIONS, METADATA = (".zarray", "zarr.json"), (".zarray", "zarr.json", ".zattrs", ".zgroup", ".zmetadata")
METADATA_LIMIT = 1 << 24  # bytes of one such file: Python takes twenty times as much for it
# What malformed metadata raise; Zarr reports them.
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError, FileNotFoundError)
OBJECTS = 200_000  # arrays, groups and folders; more are no AnnData
TEXT_RATIO = 100  # times the packed bytes that texts may have: each takes ten times as much again as a string of Python


class BoundedStore(LocalStore):
    """A local Zarr folder: everything that Zarr reads of it is looked at here, before it is decoded."""

    def __init__(self, root: Path | str, *, read_only: bool = True) -> None:
        super().__init__(root, read_only=read_only)
        self._arrays: dict[str, list[Packing]] = {}  # two where a folder has metadata of v2 and v3
        self._declared: Counter[str] = Counter()
        self._shards: set[str] = set()
        self._stored = cache(lambda folder: sum(p.stat().st_size for p in Path(root, folder).rglob("*") if p.is_file()))
        self._real = os.path.realpath(root)
        self._look_around()

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        await asyncio.to_thread(self._look_at, key)
        return await super().get(key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    def get_sync(self, key: str, **how: Any) -> Buffer | None:
        self._look_at(key)
        return super().get_sync(key, **how)

    def check_whole(self) -> None:
        """Refuse a folder that declares far more than it stores, matrices included, before all of it is read."""
        self._refuse_hollow("it", sum(self._declared.values()), self._stored(""))

    def _look_around(self) -> None:
        waiting, n_files = [""], 0
        while waiting:
            folder, entries = waiting.pop(), []
            # gone since, as the temporary files of an extraction are, or not to be read by Zarr either
            with contextlib.suppress(FileNotFoundError, PermissionError), os.scandir(Path(self.root, folder)) as found:
                entries = list(found)
            for entry in entries:
                if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                    self._refuse_special(Path(entry.path))
                if entry.name in METADATA:
                    n_files += 1
                    self._read_metadata(folder, entry)
            if n_files > OBJECTS:
                raise CellsError(f"{self.root}: it has more than {OBJECTS:,} arrays and groups. {EXHAUSTS}")
            if folder not in self._arrays:  # the folders of chunks may be many: a chunk is looked at when it is read
                waiting += [f"{folder}/{entry.name}".lstrip("/") for entry in entries if entry.is_dir()]

    def _refuse_special(self, file: Path) -> NoReturn:
        real = os.path.realpath(file)
        if real == str(Path(self._real, file.relative_to(self.root))):
            raise CellsError(f"{file} is a pipe, device or socket, which is not read. Remove it from the folder.")
        check_path(file, error=CellsError)  # where the link leads nowhere
        cure = "Copy the folder with what its links lead to: cp -rL OLD NEW."
        raise CellsError(f"{file} is, or lies behind, a link to {show(real)}, which is not followed. {cure}")

    def _read_metadata(self, folder: str, entry: os.DirEntry[str]) -> None:
        with contextlib.suppress(FileNotFoundError):
            if (size := entry.stat().st_size) > METADATA_LIMIT:
                raise CellsError(f"{entry.path} has {size:,} bytes, where {METADATA_LIMIT:,} are possible. {EXHAUSTS}")
        nodes: dict[str, Any] = {}
        version = 3 if entry.name == "zarr.json" else 2
        with contextlib.suppress(*MALFORMED):
            about = {} if entry.name in (".zattrs", ".zgroup") else json.loads(Path(entry.path).read_bytes())
            if "metadata" in about:  # consolidated, in v2
                nodes = {name.removesuffix("/.zarray"): node for name, node in about["metadata"].items()}
            else:
                copies = (about.get("consolidated_metadata") or {}).get("metadata") or {}
                nodes = {f"{folder}/{name}".lstrip("/"): node for name, node in copies.items()} | {folder: about}
        for name, node in nodes.items():
            if not isinstance(node, dict) or not node.keys() & {"chunks", "codecs"}:
                continue
            try:
                packing = packing_of(node, version=version, place=f"{self.root}: {name or 'it'}")
            except CellsError:
                raise
            except MALFORMED:
                continue
            if node is about:
                self._arrays.setdefault(name, []).append(packing)
                self._declared[_part_of(name)] += packing.declared

    def _refuse_hollow(self, part: str, declared: int, stored: int) -> None:
        """Refuse a part, read whole, that declares more than a real one packs into its bytes."""
        if declared > max(FLOOR, RATIO * stored):
            why = f"{part} declares {declared:,} bytes, but {stored:,} are stored"
            raise CellsError(f"{self.root}: {why}. {EXHAUSTS}")

    def _look_at(self, key: str) -> None:
        folder, _, name = key.rpartition("/")
        if name in DESCRIPTIONS and folder in self._arrays and (part := _part_of(folder)):  # which is read whole
            self._refuse_hollow(part, self._declared[part], self._stored(part) if self._declared[part] > FLOOR else 0)
        path = Path(self.root, key)
        is_elsewhere = os.path.realpath(path) != str(Path(self._real, key))
        if is_elsewhere or (path.exists() and not path.is_file() and not path.is_dir()):
            self._refuse_special(path)
        if name not in METADATA and path.is_file():
            while folder and folder not in self._arrays:
                folder = folder.rpartition("/")[0]
            if folder not in self._arrays:
                raise ValueError(f"{key} belongs to no array")
            for packing in self._arrays[folder]:
                with path.open("rb") as file:
                    self._look_at_values(key, file, packing, folder)

    def _look_at_values(self, key: str, file: BinaryIO, packing: Packing, folder: str) -> None:
        if packing.per_shard:
            if key not in self._shards:
                self._check_shard(key, file, packing, folder)
                self._shards.add(key)
            return
        size, room = os.fstat(file.fileno()).st_size, 2 * packing.n_values * packing.itemsize + FLOOR
        if packing.itemsize and size > room:  # a file may have holes
            what = f"chunk {key} has {size:,} bytes, where {room:,} are possible"
            raise CellsError(f"{self.root}: {what}. {EXHAUSTS}")
        self._check_chunk(key, file.read(), packing, folder)

    def _check_chunk(self, key: str, data: bytes, packing: Packing, folder: str) -> None:
        limit = packing.n_values * packing.itemsize + CHECKSUMS
        if not packing.itemsize:
            limit = max(FLOOR, (TEXT_RATIO if packing.has_texts else RATIO) * len(data))
        elif limit > FLOOR:
            limit = min(limit, max(FLOOR, RATIO * self._stored(folder)))
        try:
            problem = chunk_problem(data, packing, limit=limit)
        except Exception as error:  # codecs raise anything on damaged bytes
            raise ValueError(f"chunk {key}: {error or type(error).__name__}") from error
        if problem is not None:
            raise CellsError(f"{self.root}: chunk {key} {problem}. {EXHAUSTS}")

    def _check_shard(self, key: str, file: BinaryIO, packing: Packing, folder: str) -> None:
        size = file.seek(0, os.SEEK_END)
        if (at := size - 16 * packing.per_shard - 4) < 0:
            raise ValueError(f"shard {key} is shorter than its index")
        file.seek(at)
        index = np.frombuffer(file.read(16 * packing.per_shard), "<u8").reshape(-1, 2)
        for offset, length in np.unique(index[index[:, 0] != ABSENT], axis=0).tolist():
            if offset + length > size:
                raise ValueError(f"shard {key} is shorter than its index says")
            if packing.is_checked:
                file.seek(offset)
                self._check_chunk(key, file.read(length), packing, folder)


def lost_chunks(array: Any) -> tuple[int, int]:
    """Return how many chunks (or shards) of an array have no file, of how many: in Zarr they read as zeros."""
    if not (isinstance(array, zarr.Array) and isinstance(array.store, BoundedStore)):
        return 0, 0
    grid = zip(array.shape, array.shards or array.chunks, strict=True)
    n_chunks = math.prod(-(-length // size) for length, size in grid)
    names = (name for _, _, names in os.walk(Path(array.store.root, array.path)) for name in names)
    return n_chunks - sum(name[0].isdigit() for name in names), n_chunks


def _part_of(name: str) -> str:
    """Return the part of an AnnData that an array is read whole with; "" for matrices, which are read by rows."""
    parts = name.split("/")
    at = 2 if parts[0] == "mod" else 0  # of MuData
    first, second = (*parts[at:], "", "")[:2]
    if first in ("", "X", "raw.X", "layers") or (first, second) == ("raw", "X"):
        return ""
    return "/".join(parts[: at + (2 if first == "raw" else 1)])


def open_zarr(path: Path, *, error: type[ScstoreError] = CellsError) -> zarr.Group:
    """Open a local Zarr group (v2 or v3) for reading; ``error`` if its metadata cannot be read."""
    with reading(path, "the Zarr folder", error=error):
        # each array's own metadata, not the consolidated copy, which is stale where somebody changed one
        return zarr.open_group(BoundedStore(path), mode="r", use_consolidated=False)
