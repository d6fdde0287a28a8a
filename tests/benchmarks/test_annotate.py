from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def test_a_quick_run_gives_every_figure(benchmark: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which starts sooner than five others."""
    import annotate

    from scstore import cli

    def run(words: list[str | Path], *, threads: int) -> tuple[str, dict[str, float]]:
        assert words[1:3] == ["-m", "scstore"]
        assert cli.run([str(word) for word in words[3:]]) == 0
        return "", {"seconds": 2.0, "cpu_seconds": 1.0, "peak_gb": 0.5}

    def prepare(function: Callable, *given: object, threads: int) -> None:
        function(*given)

    monkeypatch.setattr(annotate, "in_own_process", prepare)
    monkeypatch.setattr(annotate, "run_and_watch", run)
    monkeypatch.setattr(annotate, "QUICK", {"n_genes": 600, "cells": 60, "reference": 80, "many": 90})
    lines, found = benchmark("annotate", "--quick")
    assert lines[-1].endswith("- all held")
    assert len(found["goals"]) == 8
    assert len([goal for goal in found["goals"] if goal["held"]]) == 2  # X comes back
    rows = found["figures"]["rows"]
    assert set(rows) == {
        f"{n} cells, {head}" for n in (60, 90) for head in ("expression", "expression and gene vectors")
    }
    assert all(row["accuracy"] > 0.2 for row in rows.values())  # 0.1 is chance
    assert set(found["figures"]["bytes_for_each_further_cell"].values()) == {0.0}
