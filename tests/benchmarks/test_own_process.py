from __future__ import annotations

import os
import sys

import pytest
from support import ROOT


def test_a_measurement_runs_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from own_process import in_own_process

    found = in_own_process(dict, [("threads", 1)], threads=1)
    assert found["threads"] == 1
    assert 0 < found["peak_gb"] < 4
    with pytest.raises(RuntimeError, match="_exit"):
        in_own_process(os._exit, 3, threads=1)


def test_a_command_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from own_process import run_and_watch

    said, figures = run_and_watch([sys.executable, "-c", "print('here')"], threads=1)
    assert said == "here\n"
    assert min(figures["seconds"], figures["cpu_seconds"]) > 0
    with pytest.raises(SystemExit, match="it failed"):
        run_and_watch([sys.executable, "-c", "raise SystemExit(3)"], threads=1)
