from __future__ import annotations

from collections.abc import Callable


def test_a_quick_run_compares_every_search(benchmark: Callable) -> None:
    lines, found = benchmark("search", "--quick")
    assert lines[-1].endswith("- all held")
    (found,) = found["figures"].values()
    rows = found["rows"]
    assert rows["FAISS Flat"]["recall"] > 0.999
    assert rows["scstore"]["megabytes"] < rows["FAISS Flat"]["megabytes"]
    assert 0 < rows["scstore"]["build_peak_gb"] < 2
    assert abs(found["measured"] - rows["scstore"]["recall"]) < 0.05
    assert found["over_flat"] > 0
    for name in ("hnswlib", "usearch"):
        assert name in rows or any(f"{name} is not installed" in line for line in lines)
