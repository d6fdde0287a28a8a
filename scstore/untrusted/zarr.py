"""Zarr folders from anywhere: no link, no pickle, and nothing that takes far more memory than it has bytes.

Only texts, and what was packed with codecs that do not say its size, are unpacked to find out.
"""

import asyncio
import contextlib
import json
import math
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from scstore.errors import CellsError, ScstoreError, show
from scstore.untrusted.guards import EXHAUSTS, FLOOR, RATIO, check_path, reading
from scstore.untrusted.hdf5 import CHECKSUMS, zstd_frame

# Codecs that unpack to more than they read. An array may have one of them: the ratios of two would multiply.
PACKERS = frozenset({"blosc", "zstd", "gzip", "zlib"})
TEXTS = frozenset({"vlen-utf8", "vlen-bytes"})  # texts of any length
# Codecs whose result is as long as what they read, but for a checksum.
PLAIN = frozenset({"bytes", "endian", "transpose", "crc32c"})
# Bytes that a block of Zstandard unpacks to at most, and those that are unpacked at once to count them.
ZSTD_BLOCK, STEP = 1 << 17, 1 << 20
ABSENT = 2**64 - 1  # how the index of a shard marks a chunk that holds nothing but the fill value


@dataclass(frozen=True)
class Packing:
    codecs: tuple[str, ...]  # names, the outermost first
    n_values: int  # of a chunk (inside a shard, if there are shards)
    itemsize: int  # bytes of a packed value; 0 for texts and where it is not known
    declared: int  # bytes of the whole array
    per_shard: int  # chunks of a shard; 0 without shards

    @property
    def has_texts(self) -> bool:
        return not TEXTS.isdisjoint(self.codecs)

    @property
    def is_checked(self) -> bool:
        """Whether a chunk can take more memory than it has bytes."""
        return self.has_texts or not PACKERS.isdisjoint(self.codecs)


def packing_of(about: Mapping[str, Any], *, version: int, place: str) -> Packing:
    """Read the metadata of an array; ``CellsError`` for unknown codecs, anything for what is malformed."""
    if version == 3:
        codecs, lengths = about["codecs"], about["chunk_grid"]["configuration"]["chunk_shape"]
        dtype, key = about["data_type"], "name"
    else:
        codecs, lengths = [*(about["filters"] or ()), about["compressor"]], about["chunks"]
        dtype, key = about["dtype"], "id"
    n_values, per_shard = math.prod(map(int, lengths)), 0
    if version == 3 and [codec[key] for codec in codecs] == ["sharding_indexed"]:
        shard, index = codecs[0]["configuration"], codecs[0]["configuration"]["index_codecs"]
        is_usual = [codec["name"] for codec in index] == ["bytes", "crc32c"] and shard.get("index_location") != "start"
        if not is_usual or index[0]["configuration"] != {"endian": "little"}:
            raise CellsError(f"{place} has an index of shards in another form than zarr-python's. Write it with that.")
        per_shard = n_values // math.prod(map(int, shard["chunk_shape"]))
        codecs, n_values = shard["codecs"], n_values // per_shard
    names = tuple(str(codec[key]).removeprefix("numcodecs.") for codec in codecs if codec is not None)
    for name in names:
        if "pickle" in name:
            why = "is stored as a Python pickle, which can run code. Write the array again without it."
            raise CellsError(f"{place} {why}")
        if name not in PACKERS | TEXTS | PLAIN:
            cure = "Write the array again with Zstandard, Blosc or gzip."
            raise CellsError(f"{place} is stored with the codec {show(name)}, which is not read here. {cure}")
    if sum(name in PACKERS for name in names) > 1:
        raise CellsError(f"{place} is packed twice. Write it again with one compressor.")
    itemsize = _itemsize(dtype)
    declared = math.prod(map(int, about["shape"])) * max(itemsize, 8)
    return Packing(names[::-1], n_values, itemsize, declared, per_shard)


def _itemsize(dtype: Any) -> int:
    if isinstance(dtype, Mapping):
        if "length_bytes" in (more := dtype.get("configuration") or {}):
            return int(more["length_bytes"])
        dtype = dtype["name"]
    try:
        found = np.dtype(dtype if isinstance(dtype, str) else object)
    except TypeError:  # times, among others
        return 0
    return 0 if found.kind == "O" else found.itemsize


def chunk_problem(data: bytes, packing: Packing, *, limit: int) -> str | None:
    """Return why a chunk is not decoded: it unpacks to more than ``limit``, or has fewer texts than it says."""
    for name in packing.codecs if packing.is_checked else ():
        if name in PACKERS:
            if (size := unpacked_size(name, data, limit=limit)) > limit:
                return f"unpacks to {size:,} bytes, where {limit:,} are possible"
            if not packing.has_texts:
                return None
        if name in TEXTS:
            number, room = int.from_bytes(data[:4], "little"), min(packing.n_values, (len(data) - 4) // 4)
            return f"announces {number:,} texts, where {room:,} are possible" if number > room else None
        if name in PACKERS:
            data = bytes(numcodecs.get_codec({"id": name}).decode(data))
        elif name == "crc32c":
            data = data[:-4]
    return None


def unpacked_size(name: str, data: bytes, *, limit: int) -> int:
    """Return the bytes that a codec allocates for a chunk, or some above the limit; ``ValueError`` for nonsense."""
    if name == "zstd":
        return _zstd_size(data)
    if name == "blosc":
        size, _, packed = struct.unpack_from("<III", data, 4)
        if packed != len(data):
            raise ValueError(f"it says that it has {packed:,} bytes, and has {len(data):,}")
        return int(size)
    return _inflated(data, limit)


def _inflated(data: bytes, limit: int) -> int:
    total = 0
    while data and total <= limit:
        unpack = zlib.decompressobj(47)  # of both
        while not unpack.eof and total <= limit:
            piece = unpack.decompress(data, STEP)
            total, data = total + len(piece), unpack.unconsumed_tail
            if not piece and not unpack.eof:
                return total  # it is cut off
        data = unpack.unused_data.lstrip(b"\0")
    return total


def _zstd_size(data: bytes) -> int:
    """Return what the frames of Zstandard state, or what their blocks can hold."""
    total = at = 0
    while at < len(data):
        if int.from_bytes(data[at : at + 4], "little") >> 4 == 0x184D2A5:  # a frame to skip
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            continue
        has_checksum = data[at + 4 : at + 5] > b"" and data[at + 4] >> 2 & 1
        stated, at = zstd_frame(data, at)
        blocks = last = 0
        while not last:
            if at + 3 > len(data):
                raise ValueError("it is cut off")
            header = int.from_bytes(data[at : at + 3], "little")
            last, kind, size = header & 1, header >> 1 & 3, header >> 3
            blocks += size if kind < 2 else ZSTD_BLOCK
            at += 3 + (1 if kind == 1 else size)
        at += 4 * has_checksum
        total += blocks if stated is None else stated
    return total


# Zarr's files of metadata; every other is a chunk.
DESCRIPTIONS, METADATA = (".zarray", "zarr.json"), (".zarray", "zarr.json", ".zattrs", ".zgroup", ".zmetadata")
METADATA_LIMIT = 1 << 24  # bytes of one such file: Python takes twenty times as much for it
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
