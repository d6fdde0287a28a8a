"""Safetensors files from anywhere: bounded, of the expected digest, and finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from scstore.errors import DamagedError
from scstore.fsio import digest_file

# Bytes of header; a hundred arrays need ten thousand.
HEADER_LIMIT = 1 << 20

# Bytes of weights that are read unless the caller says otherwise.
WEIGHTS_LIMIT = 1 << 34

# The dtypes that scstore writes.
DTYPES = {"F64", "F32", "F16", "I64"}


def read_weights(path: Path, *, digest: str, limit: int = WEIGHTS_LIMIT) -> dict[str, NDArray[Any]]:
    """Return the arrays of a weights file by name.

    ``DamagedError`` if it is too large, malformed, has another digest than ``sha256:<hex>``, or holds NaN or infinity.
    """
    check_layout(path, limit=limit)
    if (found := digest_file(path)) != digest:
        _refuse(path, f"its digest is {found[:19]}… where its description says {digest[:19]}…")
    arrays: dict[str, NDArray[Any]] = load_file(path)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            _refuse(path, f"{name} holds NaN or infinity")
    return arrays


def check_layout(path: Path, *, limit: int = WEIGHTS_LIMIT) -> None:
    """Check the header of a safetensors file, which must cover the file, against its size; no array is read."""
    size = path.stat().st_size
    if size > limit:
        _refuse(path, f"{size:,} bytes is more than the {limit:,} that are read")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(HEADER_LIMIT, size - 8):
        _refuse(path, f"a header of {length:,} bytes in a file of {size:,}")
    try:
        with safe_open(path, framework="np") as opened:
            dtypes = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, ValueError, OverflowError) as error:
        _refuse(path, f"not readable as safetensors ({error})")
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            _refuse(path, f"{name} has the dtype {dtype}, which scstore does not write")


def _refuse(path: Path, why: str) -> NoReturn:
    raise DamagedError(f"{path}: {why}. The file is damaged or not scstore's: restore a copy, or make it again.")
