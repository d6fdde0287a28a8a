from __future__ import annotations

from collections.abc import Callable


def test_a_quick_run_merges_the_parts(benchmark: Callable) -> None:
    lines, found = benchmark("cluster", "--quick")
    assert lines[-1].endswith("- all held")
    aligned, shifted = found["figures"].values()
    assert (aligned["parts"], aligned["linked"], shifted["linked"]) == (5, 1, 0)
    assert 0 < aligned["peak_gb"] < 1
