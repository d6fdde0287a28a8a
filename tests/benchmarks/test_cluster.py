from __future__ import annotations

from collections.abc import Callable

import pytest


def test_a_quick_run_merges_the_parts(benchmark: Callable) -> None:
    lines, found = benchmark("cluster", "--only", "merge", "--quick")
    assert lines[-1].endswith("- all held")
    aligned, shifted = found["figures"].values()
    assert (aligned["parts"], aligned["linked"], shifted["linked"]) == (5, 1, 0)
    assert 0 < aligned["peak_gb"] < 1


def test_a_quick_run_fits_and_predicts_on_workers(benchmark: Callable) -> None:
    pytest.importorskip("distributed")
    lines, found = benchmark("cluster", "--only", "dask", "--workers", "2", "--quick")
    assert lines[-1].endswith("- all held")
    figures = found["figures"]
    assert "on a cluster" in figures["dask: 2000 2 workers"]["note"]
    assert "exact" in figures["dask: 2000 one process"]["note"]
