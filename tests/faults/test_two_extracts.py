"""Two real processes that extract into one store at once, and a reader; more rounds in `benchmarks/faults.py`."""

from __future__ import annotations

import os

import pytest
from two_extracts import WAYS, Reader, race
from warm import Job, Warm

from scstore import fsio
from scstore.store.ledger import chunk_path, record_path


@pytest.mark.parametrize("way", WAYS)
def test_a_reader_never_sees_a_row_change_or_go(processes: Warm, way: str) -> None:
    """RELIABILITY 25, 33: the one that is refused says plainly why; of parts, none is."""
    found = race(processes, processes.whole.parent.parent / way / "s.zarr", way)
    assert found.violations == []
    assert found.reader.looks
    if way == "parts":
        assert not found.refused


def test_of_two_at_once_one_is_refused(processes: Warm) -> None:
    """RELIABILITY 25: a process is told who writes, and nothing is made."""
    root = processes.whole.parent.parent / "refused" / "s.zarr"
    root.parent.mkdir()
    with fsio.lock(root.with_name(f"{root.name}.lock")):
        ended = processes.run(Job(root))
    assert (ended.code, ended.error) == (1, "LockedError")
    assert f"process {os.getpid()} on " in ended.message
    assert "Wait for it to end" in ended.message
    assert list(root.parent.iterdir()) == []


def test_the_reader_finds_what_it_looks_for(processes: Warm) -> None:
    """The harness itself: a row that changes with its record, or goes, is seen."""
    root = processes.whole.parent.parent / "seen" / "s.zarr"
    root.parent.mkdir()
    assert processes.run(Job(root)).code == 0
    reader = Reader()
    reader.look(root)
    assert reader.violations == []
    record_path(root, 1).unlink()
    reader.look(root)
    assert "I2: readout_wmean_l3: rows [6, 7, 8, 9, 10, 11]" in reader.violations[0]
    reader.violations.clear()
    chunk = chunk_path(root, "genept", 0)
    chunk.write_bytes(bytes(chunk.stat().st_size))
    reader.look(root)
    assert "I1: a visible row cannot be read: DamagedError" in reader.violations[0]
