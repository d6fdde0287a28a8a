"""Processes killed at random moments: a few here, 200 in `benchmarks/faults.py`."""

from __future__ import annotations

from pathlib import Path

from kills import kill_at_random


def test_killed_at_random_a_store_is_finished_all_the_same(tmp_path: Path) -> None:
    """RELIABILITY 21, I1–I3: SIGKILL of a real process."""
    found = kill_at_random(tmp_path, 3, seed=0)
    assert found.killed == 3
    assert found.violations == []
