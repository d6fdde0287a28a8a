from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest


def test_a_quick_run_finds_every_flipped_byte(benchmark: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; the other parts have a shortened form in tests/faults."""
    import faults

    monkeypatch.setattr(faults, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    lines, found = benchmark("faults", "--quick", "--only", "flips")
    assert lines[-1].endswith("- all held")
    flipped = found["figures"]["flipped bytes"]
    assert (flipped["runs"], flipped["bad"]) == (50, [])
