"""Disks that are really full or read-only; more rounds in `benchmarks/faults.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from full_disk import fill_disks, why_not
from warm import scratch_folder


def test_a_full_disk_is_one_plain_message_and_goes_on_where_there_is_room(tmp_path: Path) -> None:
    """RELIABILITY 22, 24, I1, I3, I4: on a file system that is mounted for it."""
    if (reason := why_not(tmp_path)) is not None:
        pytest.skip(reason)
    with scratch_folder() as folder:
        found = fill_disks(Path(folder), 2, seed=0)
    assert found.violations == []
    assert found.runs == 4
    assert found.stopped >= 1
