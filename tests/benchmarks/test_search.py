from __future__ import annotations

import json
from pathlib import Path

from support import run_benchmark


def test_a_quick_run_compares_every_search(tmp_path: Path) -> None:
    done = run_benchmark(tmp_path, "search.py", "--quick", "--json", "found.json")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.splitlines()[-1].endswith("- all held")
    (found,) = json.loads((tmp_path / "found.json").read_text())["figures"].values()
    rows = found["rows"]
    assert rows["FAISS Flat"]["recall"] > 0.999
    assert rows["scstore"]["megabytes"] < rows["FAISS Flat"]["megabytes"]
    assert 0 < rows["scstore"]["build_peak_gb"] < 2
    assert abs(found["told"] - rows["scstore"]["recall"]) < 0.05
    assert found["over_flat"] > 0
    for name in ("hnswlib", "usearch"):
        assert name in rows or f"{name} is not installed" in done.stdout
