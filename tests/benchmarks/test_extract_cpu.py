from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support import ROOT


def test_a_quick_run_gives_equal_rows_and_every_figure(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    words = ["--quick", "--models", "llama", "--json", str(out)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "extract_cpu.py"), *words],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "speed goals are not" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("goals checked: llama: difference from the hand-written loop")
    assert last.endswith("all held")
    found = json.loads(out.read_text())
    assert {"date", "versions", "cpu_cores", "torch_threads"} <= set(found["environment"])
    llama = found["figures"]["llama"]
    assert llama["weights"] == "random"
    assert llama["largest_relative_difference"] <= 1e-4
    assert set(llama["overhead"]) == {"extracting", "shaping the store and extracting", "whole call"}
    assert all(rate > 0 for rate in llama["cells_per_second"].values())
    assert 1 <= llama["padded_over_real_tokens"] < 1.5
    assert found["figures"]["ranking"]["cells_per_second"]["two_threads"] > 0
    checked = {goal["name"]: goal["held"] for goal in found["goals"]}
    assert checked["llama: difference from the hand-written loop"] is True
    assert checked["llama: times the hand-written loop"] is None
    assert checked["ranking, cells/s"] is None
