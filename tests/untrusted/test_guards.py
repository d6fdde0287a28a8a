"""Members of files and folders, and errors of storage libraries."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from scstore.errors import CellsError
from scstore.untrusted.guards import FLOOR, Guard, declared_bytes, reading, too_large
from scstore.untrusted.hdf5 import open_hdf5
from scstore.untrusted.zarr import open_zarr

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
        assert "many" in str(too_large(many, stored))
        assert "67,108,868 bytes (shape (16777217,))" in str(too_large(large, 1000))


def test_an_array_of_no_shape(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["none"] = h5py.Empty("f4")
        file["one"] = 3.0
        assert [too_large(file[name], 1000) for name in ("none", "one")] == [None, None]


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied"), SystemError("Negative size\npassed"), EOFError(), CellsError("f: X")],
)
def test_errors_in_plain_words(error):
    """I4: whatever a codec raises becomes one message that names file and slot."""
    with pytest.raises(CellsError, match=r"^f: X[^\n]*$"), reading("f", "X"):
        raise error


def test_missing_members(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["here"] = 1
        file["dangling"] = h5py.SoftLink("/nowhere")
    with open_hdf5(tmp_path / "a.h5") as file:
        guard = Guard("a.h5")
        assert guard.member(file, "there") is None
        with pytest.raises(CellsError, match=r"a\.h5: dangling"):
            guard.member(file, "dangling")
    group = zarr.open_group(tmp_path / "b.zarr", mode="w")
    group.create_array("here", shape=(1,), dtype="i4")
    opened = open_zarr(tmp_path / "b.zarr")
    assert Guard("b").member(opened, "there") is None
    assert Guard("b").member(opened, "here").shape == (1,)


def test_a_filter_that_is_not_installed_is_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("a", data=np.zeros(10), chunks=(5,), compression="gzip")
        properties = array.id.get_create_plist()
        properties.remove_filter(h5py.h5z.FILTER_DEFLATE)
        properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))  # Zstandard, of hdf5plugin
        space = h5py.h5s.create_simple((10,))
        h5py.h5d.create(file.id, b"b", h5py.h5t.NATIVE_DOUBLE, space, properties)
    with open_hdf5(tmp_path / "a.h5") as file:
        assert Guard("a.h5").member(file, "a").shape == (10,)
        with pytest.raises(CellsError, match="32015"):
            Guard("a.h5").member(file, "b")
