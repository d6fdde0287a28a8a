"""What an array may declare: nothing that is really written is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from scstore.untrusted.limits import FLOOR, declared_bytes, too_large

N = FLOOR // 4 * 2
"""float32 values of twice the floor."""


@pytest.mark.parametrize(
    "packing",
    [
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True},
        {"compression": "lzf"},
        {"scaleoffset": 3},
        {},
    ],
    ids=str,
)
def test_zeros_that_were_written_are_read(packing: dict[str, object], tmp_path: Path) -> None:
    """A matrix of zeros packs a thousand times, and with some filters without a bound."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("noise", data=np.random.default_rng(0).integers(0, 256, 1 << 18, dtype=np.uint8))
        written = file.create_dataset("a", shape=(N,), dtype="f4", chunks=(1 << 18,), **packing)
        written[:] = np.zeros(N, np.float32)
        file.flush()
        stored = (tmp_path / "a.h5").stat().st_size
        assert declared_bytes(written) == 2 * FLOOR
        assert too_large(written, stored) is None


def test_what_was_never_written_is_refused_beyond_the_floor(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        small = file.create_dataset("small", shape=(FLOOR // 4,), dtype="f4", chunks=(1000,))
        large = file.create_dataset("large", shape=(FLOOR // 4 + 1,), dtype="f4", chunks=(1 << 16,))
        contiguous = file.create_dataset("contiguous", shape=(FLOOR // 4 + 1,), dtype="f4")
        many = file.create_dataset("many", shape=(N,), dtype="f4", chunks=(1000,))
        stored = 1 << 30
        assert too_large(small, stored) is None
        assert "large" in str(too_large(large, stored))
        assert "contiguous" in str(too_large(contiguous, stored))
        assert too_large(many, stored) is None  # 33,555 chunks are not counted
        assert "67,108,868 bytes (shape (16777217,))" in str(too_large(large, 1000))


def test_an_array_of_no_shape(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["none"] = h5py.Empty("f4")
        file["one"] = 3.0
        assert [too_large(file[name], 1000) for name in ("none", "one")] == [None, None]
