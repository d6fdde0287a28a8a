from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support import ROOT


def test_a_quick_run_compares_every_search(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "search.py"), "--quick", "--json", "found.json"],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.splitlines()[-1].endswith("- all held")
    (found,) = json.loads((tmp_path / "found.json").read_text())["figures"].values()
    assert found["FAISS Flat"]["recall"] > 0.999
    assert {"scstore", "FAISS Flat"} <= set(found)
    assert found["scstore"]["megabytes"] < found["FAISS Flat"]["megabytes"]
    for name in ("hnswlib", "usearch"):
        assert name in found or f"{name} is not installed" in done.stdout
