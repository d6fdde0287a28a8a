from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support import ROOT, make_cells


def test_a_quick_run_scores_every_rule(tmp_path: Path) -> None:
    cells = make_cells(120, 150)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    words = ["cells.h5ad", "--quick", "--json", "found.json"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "panels.py"), *words],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.splitlines()[-1].startswith("goals checked: none")
    found = json.loads((tmp_path / "found.json").read_text())["figures"]["macro_f1"]
    assert len(found) == 6
    assert found["F"]["50"] > 0.9
    assert found["F within groups"]["50"] > 0.9
