"""Processes killed at random moments: a few here, 200 in `benchmarks/faults.py`."""

from __future__ import annotations

from pathlib import Path

from kills import kill_at_random
from warm import scratch_folder


def test_killed_at_random_a_store_is_finished_all_the_same() -> None:
    """RELIABILITY 21, I1–I3: SIGKILL of a real process."""
    with scratch_folder() as folder:
        found = kill_at_random(Path(folder), 8, seed=0)
    assert found.violations == []
    assert found.killed == sum(found.moments.values()) == 8
    assert found.finished
