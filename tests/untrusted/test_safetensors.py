"""Malformed safetensors files, one per way to be malformed."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from scstore.errors import DamagedError
from scstore.fsio import digest_file
from scstore.untrusted.safetensors import check_layout, read_weights

Header = dict[str, Any]


def entry(start: int, stop: int, *, dtype: str = "F32", shape: list[int] | None = None) -> Header:
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


def write(path: Path, header: Any, body: bytes) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + body)


ATTACKS: dict[str, Callable[[Path], None]] = {
    "empty": lambda p: p.write_bytes(b"") and None,
    "shorter than a length": lambda p: p.write_bytes(b"\x08\0\0") and None,
    "header longer than the file": lambda p: p.write_bytes(struct.pack("<Q", 1 << 60) + b"{}") and None,
    "header larger than any": lambda p: write(p, b" " * (1 << 21), b""),
    "header not JSON": lambda p: write(p, b"nonsense", b""),
    "overlap": lambda p: write(p, {"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12),
    "hole": lambda p: write(p, {"a": entry(0, 4), "b": entry(8, 12)}, b"\0" * 12),
    "bytes after the last": lambda p: write(p, {"a": entry(0, 4)}, b"\0" * 8),
    "bytes missing": lambda p: write(p, {"a": entry(0, 8)}, b"\0" * 4),
    "shape against size": lambda p: write(p, {"a": entry(0, 8, shape=[3])}, b"\0" * 8),
    "shape that overflows": lambda p: write(p, {"a": entry(0, 0, shape=[1 << 62, 4])}, b""),
    "backwards": lambda p: write(p, {"a": {**entry(0, 8), "data_offsets": [8, 0]}}, b"\0" * 8),
    "unknown dtype": lambda p: write(p, {"a": entry(0, 8, dtype="BF16", shape=[4])}, b"\0" * 8),
    "pickle": lambda p: p.write_bytes(b"\x80\x04\x95" + b"\0" * 40) and None,
    "NaN": lambda p: save_file({"a": np.array([1.0, np.nan])}, p),
    "infinity": lambda p: save_file({"a": np.array([1.0, -np.inf], dtype=np.float16)}, p),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_malformed_weights_are_refused_at_once(name: str, tmp_path: Path) -> None:
    """RELIABILITY 38: safetensors with a huge header, overlaps, holes, wrong shapes, NaN weights."""
    path = tmp_path / "weights.safetensors"
    ATTACKS[name](path)
    digest = digest_file(path)  # an attacker can write the right digest as well
    tracemalloc.start()
    with pytest.raises(DamagedError, match=r"weights\.safetensors: "):
        read_weights(path, digest=digest)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 25


def test_a_file_that_claims_terabytes_is_refused_by_its_size(tmp_path: Path) -> None:
    """RELIABILITY 38: memory bounded."""
    path = tmp_path / "weights.safetensors"
    write(path, {"a": entry(0, 1 << 42)}, b"")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + (1 << 42))  # a sparse file: it takes no room on the disk
    with pytest.raises(DamagedError, match="weights"):
        read_weights(path, digest="sha256:")


def test_what_is_whole_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.array([1, 2], dtype=np.int64),
        "c": np.ones(3, dtype=np.float16),
        "d": np.zeros((0, 4), dtype=np.float32),
    }
    save_file(arrays, path)
    found = read_weights(path, digest=digest_file(path))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    with pytest.raises(DamagedError, match="digest"):
        read_weights(path, digest="sha256:" + "0" * 64)
    with pytest.raises(DamagedError, match="weights"):
        check_layout(path, limit=100)
