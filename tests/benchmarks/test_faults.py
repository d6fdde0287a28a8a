from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support import ROOT


def test_a_quick_run_finds_every_flipped_byte(tmp_path: Path) -> None:
    """The other parts have a shortened form in tests/faults."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--quick", "--only", "flips", "--json", "found.json"],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.splitlines()[-1].endswith("- all held")
    found = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert (found["flipped bytes"]["runs"], found["flipped bytes"]["bad"]) == (50, [])
