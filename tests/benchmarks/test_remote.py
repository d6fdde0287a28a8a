from __future__ import annotations

from collections.abc import Callable

import pytest


def test_a_quick_run_reads_a_slow_server_in_all_ways(benchmark: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSTORE_CACHE", "")  # the benchmark sets its own
    lines, found = benchmark("remote", "--quick")
    assert lines[-1].endswith("- all held")
    ways = {"scstore", "scstore, cached", "requests", "http.client", "obstore"}
    for line in ("all it can", "125 MB/s"):
        assert ways <= set(found["figures"][line]["seconds"])
    one, ten, _ = found["figures"]["rows"]
    assert (one["requests"], one["bytes"]) == (1, 64)
    assert ten["requests"] <= 10
