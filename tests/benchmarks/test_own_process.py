from __future__ import annotations

import os

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
