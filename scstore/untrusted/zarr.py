"""Zarr folders from anywhere: no chunk allocates far more than it holds, and none is a pickle."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from scstore.errors import CellsError
from scstore.untrusted.guards import CHUNK_LIMIT, EXHAUSTS, damaged, reading

# Names of Zarr's files of metadata; every other is a chunk.
WITH_CODECS, WITHOUT = (".zarray", ".zmetadata", "zarr.json"), (".zattrs", ".zgroup")


class BoundedStore(WrapperStore[Store]):
    """A Zarr store that refuses pickles and chunks that ask their decoder for what cannot be.

    Zstandard reaches 30,000 : 1 and allocates what its frame announces; Blosc reads beyond the end of a chunk that
    says it is longer; Zarr knows pickle as a codec. What lies in shards is not looked at.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._blosc: set[str] = set()
        self._source = str(getattr(store, "root", store))

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read one value, and look at how it begins."""
        value = await super().get(key, prototype, byte_range)
        folder, _, name = key.rpartition("/")
        if value is None or name in WITHOUT:
            return value
        if name in WITH_CODECS:
            self._check_codecs(folder, value.to_bytes())
            return value
        if (size := zstd_content_size(value[:18].to_bytes())) > CHUNK_LIMIT:
            raise CellsError(f"{self._source}: chunk {key} decodes to {size:,} bytes. {EXHAUSTS}")
        if byte_range is None and any(key.startswith(array) for array in self._blosc):
            head = value[:16].to_bytes()  # the last four bytes of the header are the length of the chunk
            if len(head) < 16 or struct.unpack("<I", head[12:])[0] != len(value):
                raise damaged(self._source, f"Chunk {key} is not as long as it says.")
        return value

    def _check_codecs(self, folder: str, metadata: bytes) -> None:
        try:
            about = json.loads(metadata)
            pickled = _names_pickle(about)
        except (ValueError, RecursionError):  # Zarr reports it
            return
        if pickled:
            why = "is stored as a Python pickle, which can run code"
            raise CellsError(f"{self._source}: {folder or 'it'} {why}. Write the array again without it.")
        if isinstance(about, dict):
            codecs = about.get("codecs")
            outermost = codecs[-1] if isinstance(codecs, list) and codecs else about.get("compressor")
            if isinstance(outermost, dict) and "blosc" in (outermost.get("id"), outermost.get("name")):
                self._blosc.add(f"{folder}/" if folder else "")


def _names_pickle(metadata: Any) -> bool:
    """Whether a codec in an array's metadata, or in a consolidated copy of many, is pickle."""
    if isinstance(metadata, list):
        return any(map(_names_pickle, metadata))
    if not isinstance(metadata, dict):
        return False
    if any("pickle" in str(metadata.get(key)) for key in ("id", "name", "codec_id")):
        return True
    return any(_names_pickle(value) for key, value in metadata.items() if key not in ("attributes", ".zattrs"))


def zstd_content_size(head: bytes) -> int:
    """Return the bytes that a Zstandard frame of this head decodes to; 0 where it does not say or is no such frame.

    RFC 8878, section 3.1.1.1; 18 bytes are enough.
    """
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return 0
    descriptor = head[4]
    single_segment = descriptor >> 5 & 1
    width = (single_segment, 2, 4, 8)[descriptor >> 6]
    start = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
    return int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)


def open_zarr(path: Path) -> zarr.Group | zarr.Array[Any]:
    """Open a local Zarr group or array (v2 or v3) for reading; a :class:`CellsError` if its metadata cannot be read."""
    with reading(str(path), "the Zarr folder"):
        # each array's own metadata, not the consolidated copy, which is stale where somebody changed one
        store = BoundedStore(LocalStore(path, read_only=True))
        return zarr.open(store, mode="r", use_consolidated=False)


def folder_bytes(path: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(Path(root, name).stat().st_size for root, _, names in os.walk(path) for name in names)
