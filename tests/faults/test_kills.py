"""Processes killed at random moments: a few here, 200 in `benchmarks/faults.py`."""

from __future__ import annotations

from kills import kill_at_random
from warm import Warm


def test_killed_at_random_a_store_is_finished_all_the_same(processes: Warm) -> None:
    """RELIABILITY 21, I1–I3: SIGKILL of a real process."""
    found = kill_at_random(processes, processes.whole.parent.parent / "killed" / "s.zarr", 5, seed=0)
    assert found.violations == []
    assert found.killed == sum(found.moments.values()) == 5
    assert found.finished
