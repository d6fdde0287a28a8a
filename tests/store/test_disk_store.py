from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from broken_disk import BrokenDisk, in_place_of_the_disk

from scstore.store.disk_store import DiskStore


def test_every_file_of_zarr_is_written_through_the_seam(tmp_path: Path) -> None:
    disk = BrokenDisk()
    with in_place_of_the_disk(disk):
        group = zarr.open_group(DiskStore(tmp_path / "z"), mode="w", zarr_format=3)
        group.create_array("a", data=np.arange(10), chunks=(4,))
    written = {file for what, file in disk.trace if what == "write"}
    assert written == {str(file) for file in (tmp_path / "z").rglob("*") if file.is_file()}
    assert len(written) == 5
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "z", mode="r")["a"][:], np.arange(10))


def test_a_full_disk_is_an_error_and_no_hole(tmp_path: Path) -> None:
    """RELIABILITY 22: a chunk that was not written would read as zeros."""
    group = zarr.open_group(DiskStore(tmp_path / "z"), mode="w", zarr_format=3)
    array = group.create_array("a", shape=(10,), chunks=(4,), dtype="f4")
    with in_place_of_the_disk(BrokenDisk(2, "enospc")), pytest.raises(OSError, match="No space"):
        array[:] = np.ones(10)
