"""Reading a safetensors file that somebody else may have written.

The header is checked before anything is allocated for it: a file is as large as its arrays say, or it is refused.
The format's page: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from scstore.errors import DamagedError
from scstore.fsio import digest_file

__all__ = ["WEIGHTS_LIMIT", "check_layout", "read_weights"]

HEADER_LIMIT = 1 << 20
"""Bytes of header; a hundred arrays need ten thousand."""

WEIGHTS_LIMIT = 1 << 34
"""Bytes of weights that are read unless the caller says otherwise."""

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "I64": 8}
"""The dtypes that scstore writes."""


def read_weights(path: Path, *, digest: str, limit: int = WEIGHTS_LIMIT) -> dict[str, NDArray[Any]]:
    """Arrays of a weights file, by name.

    Parameters
    ----------
    path
        The file.
    digest
        What its SHA-256 must be, as ``sha256:<hex>``.
    limit
        Most bytes it may have.

    Raises
    ------
    DamagedError
        If it is too large, malformed, has another digest, or holds NaN or infinity.
    """
    check_layout(path, limit=limit)
    if (found := digest_file(path)) != digest:
        _refuse(path, f"its digest is {found[:19]}… where its description says {digest[:19]}…")
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except (SafetensorError, KeyError, ValueError) as error:
        _refuse(path, f"not readable as safetensors ({error})")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            _refuse(path, f"{name} holds NaN or infinity")
    return arrays


def check_layout(path: Path, *, limit: int = WEIGHTS_LIMIT) -> None:
    """Check the header of a safetensors file against its size; reads the header alone.

    Raises
    ------
    DamagedError
        If the file is larger than ``limit``, the header is too long, no JSON or malformed, a dtype is none that
        scstore writes, or the arrays overlap, leave holes, or do not fill the file.
    """
    size = path.stat().st_size
    if size > limit:
        _refuse(path, f"{size:,} bytes is more than the {limit:,} that are read")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(HEADER_LIMIT, size - 8):
            _refuse(path, f"a header of {length:,} bytes in a file of {size:,}")
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"its header is not JSON ({error})")
    if not isinstance(header, dict):
        _refuse(path, "its header is no JSON object")
    spans = sorted(_span(path, name, entry) for name, entry in header.items())
    end = 0
    for start, stop, name in spans:
        if start != end:
            _refuse(path, f"{name} {'overlaps' if start < end else 'leaves a hole after'} the array before it")
        end = stop
    if end != size - 8 - length:
        _refuse(path, f"its arrays end at byte {end:,} of {size - 8 - length:,}")


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, str]:
    """First byte, byte after the last, and name of one array."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"{name} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
    if not all(type(number) is int and number >= 0 for number in numbers) or len(offsets) != 2 or len(shape) > 2:
        _refuse(path, f"{name} has a malformed shape or place")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        _refuse(path, f"{name} has the dtype {dtype!r}, which scstore does not write")
    start, stop = offsets
    if stop - start != math.prod(shape) * ITEM_BYTES[dtype]:
        _refuse(path, f"{name} of shape {shape} does not take {stop - start:,} bytes")
    return start, stop, name


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        msg = "a name appears twice"
        raise ValueError(msg)
    return found


def _refuse(path: Path, why: str) -> NoReturn:
    msg = f"{path}: {why}. The file is damaged or not scstore's: restore it from a copy, or make it again."
    raise DamagedError(msg)
