"""How the chunks of a Zarr array are packed, and what unpacking one of them takes.

Only texts, and what was packed with codecs that do not say its size, are unpacked to find out.
"""

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np

from scstore.errors import CellsError, show

# Codecs that unpack to more than they read. An array may have one of them: the ratios of two would multiply.
PACKERS = frozenset({"blosc", "zstd", "gzip", "zlib"})
TEXTS = frozenset({"vlen-utf8", "vlen-bytes"})  # texts of any length
# Codecs whose result is as long as what they read, but for a checksum.
PLAIN = frozenset({"bytes", "endian", "transpose", "crc32c"})
CHECKSUMS = 64  # bytes that a checksum may add to what a chunk declares
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


def zstd_frame(data: bytes, at: int = 0) -> tuple[int | None, int]:
    """Return the bytes that a frame of Zstandard states, if it does, and where its blocks begin (RFC 8878, 3.1.1)."""
    if data[at : at + 4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("it is not Zstandard")
    descriptor = data[at + 4]
    single_segment = descriptor >> 5 & 1
    width = (single_segment, 2, 4, 8)[descriptor >> 6]
    at += 6 - single_segment + (0, 1, 2, 4)[descriptor & 3]
    stated = int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)
    return stated if width else None, at + width


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
