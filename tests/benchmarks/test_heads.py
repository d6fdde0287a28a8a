from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support import ROOT


def test_a_quick_run_compares_every_head(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "heads.py"), "--quick", "--json", "found.json"],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.splitlines()[-1].endswith("- all held")
    (found,) = json.loads((tmp_path / "found.json").read_text())["figures"].values()
    assert len(found) == 6
    for figures in found.values():
        assert figures["accuracy"] > 0.6
        assert figures["seconds"] > 0
    exact = found["linear, exact"]
    assert abs(exact["accuracy"] - found["LogisticRegression"]["accuracy"]) < 0.02
