"""A Zarr folder of somebody else: no chunk of it allocates far more than it holds, and none is a pickle."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numcodecs  # type: ignore[import-untyped]
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from scstore.errors import CellsError
from scstore.untrusted.limits import CHUNK_LIMIT

__all__ = ["BoundedStore", "zstd_content_size"]

WITH_CODECS, WITHOUT = (".zarray", ".zmetadata", "zarr.json"), (".zattrs", ".zgroup")
"""Names of Zarr's files of metadata; every other is a chunk."""


class BoundedStore(WrapperStore[Store]):
    """A read-only Zarr store that hands out nothing which asks its decoder for what cannot be.

    Zstandard reaches 30,000 : 1, and its decoder allocates what the frame announces; that of strings allocates as many
    as the chunk begins by saying, four billion at most; and Zarr knows pickle as a codec. A few bytes could ask for
    terabytes, or run code. Blosc reads beyond the end of a chunk that says it is longer. Chunks of strings are unpacked
    twice for it; what lies in shards is not looked at.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._arrays: dict[str, _Packing] = {}
        self._source = str(getattr(store, "root", store))

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read one value, and look at how it begins."""
        value = await super().get(key, prototype, byte_range)
        if value is None:
            return None
        folder, _, name = key.rpartition("/")
        if name in WITHOUT:
            return value
        if name in WITH_CODECS:
            _refuse_pickle(f"{self._source}: {folder or 'it'}", value.to_bytes())
            return value
        if (size := zstd_content_size(value[:18].to_bytes())) > CHUNK_LIMIT:
            msg = (
                f"{self._source}: chunk {key} announces {size:,} bytes when decoded; at most {CHUNK_LIMIT:,} are "
                "read at once. It is damaged or made to exhaust memory: get the data again from where it came from."
            )
            raise CellsError(msg)
        packing = UNKNOWN if byte_range is not None else await self._packing(folder, prototype)
        if packing.codecs:
            _refuse_blosc(f"{self._source}: chunk {key}", value, packing)
        if packing.strings:
            chunk = await asyncio.to_thread(_unpacked, value.to_bytes(), packing.codecs)
            _refuse_strings(f"{self._source}: chunk {key}", chunk)
        return value

    async def _packing(self, folder: str, prototype: BufferPrototype) -> _Packing:
        """How a chunk in a folder is packed."""
        if folder not in self._arrays:
            found, at = UNKNOWN, folder
            while at:  # chunks lie in the array's folder (v2) or below it
                for name, read in ((".zarray", _packing_2), ("zarr.json", _packing_3)):
                    metadata = await super().get(f"{at}/{name}", prototype)
                    if metadata is not None:
                        found, at = read(metadata.to_bytes()), ""
                        break
                at = at.rpartition("/")[0]
            self._arrays[folder] = found
        return self._arrays[folder]


@dataclass(frozen=True)
class _Packing:
    """How the chunks of an array are packed.

    Attributes
    ----------
    codecs
        That turn bytes into bytes, in the order of unpacking; empty where one is not known.
    strings
        Whether the bytes are strings of any length.
    """

    codecs: tuple[Any, ...]
    strings: bool


UNKNOWN = _Packing((), strings=False)


def _packing_2(metadata: bytes) -> _Packing:
    about = _parsed(metadata)
    filters = about.get("filters") or []
    strings = bool(filters) and str(filters[0].get("id", "")).startswith("vlen-")
    known = _known([*filters[strings:], about.get("compressor")])
    return UNKNOWN if known is None else _Packing(known, strings)


def _packing_3(metadata: bytes) -> _Packing:
    codecs = _parsed(metadata).get("codecs") or []
    strings = bool(codecs) and str(codecs[0].get("name", "")).startswith("vlen-")
    known = _known([{**(codec.get("configuration") or {}), "id": codec.get("name")} for codec in codecs[1:]])
    return UNKNOWN if known is None else _Packing(known, strings)


def _parsed(metadata: bytes) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = json.loads(metadata)
        configurations = [codec.get("configuration") for codec in parsed.get("codecs") or []]
        lists = [parsed.get("filters") or [], parsed.get("codecs") or []]
        whole = all(isinstance(codec, dict) for codecs in lists for codec in codecs)
    except (ValueError, AttributeError, TypeError, RecursionError):  # Zarr's to say
        return {}
    return parsed if whole and all(isinstance(words, dict | None) for words in configurations) else {}


def _known(codecs: list[Any]) -> tuple[Any, ...] | None:
    """The codecs of numcodecs, last first; ``None`` where one of them is not known, which Zarr will say."""
    try:
        found = [numcodecs.get_codec(_numcodecs_words(codec)) for codec in codecs if codec is not None]
    except Exception:  # noqa: BLE001  # whatever it makes of damaged metadata
        return None
    return tuple(reversed(found))


def _numcodecs_words(codec: Mapping[str, Any]) -> dict[str, Any]:
    words = dict(codec)
    if words["id"] == "blosc":  # v3 writes in words what numcodecs has as numbers; neither is needed for unpacking
        return {"id": "blosc"}
    words["id"] = str(words["id"]).removeprefix("numcodecs.")
    return words


def _unpacked(value: bytes, codecs: tuple[Any, ...]) -> bytes | None:
    try:
        for codec in codecs:
            value = bytes(codec.decode(value))
    except Exception:  # noqa: BLE001  # codecs raise anything on damaged bytes; they will again for the reader
        return None
    return value


def _refuse_blosc(name: str, value: Buffer, packing: _Packing) -> None:
    """Refuse a Blosc chunk of another length than it says, beyond whose end Blosc would read."""
    if packing.codecs[0].codec_id != "blosc":
        return
    head = value[:16].to_bytes()  # version, its codec's, flags, item size; then bytes unpacked, of a block, packed
    if len(head) < 16 or struct.unpack("<I", head[12:])[0] != len(value):
        msg = f"{name} is not of the length that it says. It is damaged: copy or download the folder again."
        raise CellsError(msg)


def _refuse_strings(name: str, chunk: bytes | None) -> None:
    """Refuse a chunk that says it has more strings than bytes for their lengths: four a string, and four first."""
    if chunk is None or len(chunk) < 4:
        return
    number = int.from_bytes(chunk[:4], "little")
    if number > (len(chunk) - 4) // 4:
        msg = (
            f"{name} says that it has {number:,} strings, in {len(chunk):,} bytes. It is damaged or made to "
            "exhaust memory: get the data again from where it came from."
        )
        raise CellsError(msg)


def _refuse_pickle(name: str, metadata: bytes) -> None:
    if b"pickle" not in metadata and b"\\u" not in metadata:
        return
    try:
        found = _names_pickle(json.loads(metadata))
    except (ValueError, RecursionError):  # Zarr's to say
        return
    if found:
        msg = (
            f"{name} is stored as a Python pickle, which can run code when it is read. "
            "It is refused; write the array again without it."
        )
        raise CellsError(msg)


def _names_pickle(metadata: Any) -> bool:
    """Whether a codec in an array's metadata, or in a consolidated copy of many, is pickle."""
    if isinstance(metadata, list):
        return any(map(_names_pickle, metadata))
    if not isinstance(metadata, dict):
        return False
    names = (metadata.get(key) for key in ("id", "name", "codec_id"))
    if any(isinstance(name, str) and "pickle" in name for name in names):
        return True
    return any(_names_pickle(value) for key, value in metadata.items() if key != "attributes" and key != ".zattrs")


def zstd_content_size(head: bytes) -> int:
    """What a Zstandard frame says it decodes to, in bytes; 0 when it does not say or is no such frame.

    Parameters
    ----------
    head
        The first 18 bytes, or fewer when there are no more (RFC 8878, section 3.1.1.1).
    """
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return 0
    descriptor = head[4]
    single_segment = descriptor >> 5 & 1
    width = (single_segment, 2, 4, 8)[descriptor >> 6]
    start = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
    field = head[start : start + width]
    return int.from_bytes(field, "little") + (256 if width == 2 else 0)
