"""Members of files and folders, and errors of storage libraries."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import zarr

from scstore.errors import CellsError
from scstore.untrusted.guards import Guard, reading
from scstore.untrusted.hdf5 import open_hdf5
from scstore.untrusted.zarr import open_zarr


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
        guard = Guard("a.h5", 1000)
        assert guard.member(file, "there") is None
        with pytest.raises(CellsError, match=r"a\.h5: dangling"):
            guard.member(file, "dangling")
    group = zarr.open_group(tmp_path / "b.zarr", mode="w")
    group.create_array("here", shape=(1,), dtype="i4")
    opened = open_zarr(tmp_path / "b.zarr")
    assert Guard("b", 1000).member(opened, "there") is None
    assert Guard("b", 1000).member(opened, "here").shape == (1,)


def test_a_filter_that_is_not_installed_is_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("a", data=np.zeros(10), chunks=(5,), compression="gzip")
        properties = array.id.get_create_plist()
        properties.remove_filter(h5py.h5z.FILTER_DEFLATE)
        properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))  # Zstandard, of hdf5plugin
        space = h5py.h5s.create_simple((10,))
        h5py.h5d.create(file.id, b"b", h5py.h5t.NATIVE_DOUBLE, space, properties)
    with open_hdf5(tmp_path / "a.h5") as file:
        assert Guard("a.h5", 1000).member(file, "a").shape == (10,)
        with pytest.raises(CellsError, match="32015"):
            Guard("a.h5", 1000).member(file, "b")
