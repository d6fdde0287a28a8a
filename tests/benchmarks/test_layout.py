from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT

PAGE = ROOT / "stores" / "README.md"


def test_a_quick_run_reads_every_layout_as_it_was_written(benchmark: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSTORE_CACHE", "")  # the benchmark sets its own
    _, found = benchmark("layout", "--quick", "--delay", "0")
    layouts = found["figures"]["layouts"]
    assert list(layouts) == ["512 columns", "expression"]
    for some in layouts.values():
        today = [one for one in some if one["name"].endswith("(today)")]
        assert {one["mean"] for one in today} == {1}
        assert all(len(one["seconds"]) == 6 and one["requests"]["ten"] for one in some)
    names = {one["name"] for one in layouts["512 columns"]}
    assert {"scstore: 4 MB (today)", "zarr: 4 MB, zstd", "zarr: 16 MB in chunks of 64"} <= names


def test_the_page_holds_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the files that it names: newer ones change it when the command is run again."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import layout

    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"layout_\w+_[\d-]+\.json", text):
        shutil.copy(layout.RESULTS / name, tmp_path)
    written = tmp_path / "page.md"
    written.write_text(re.sub(r"(: expression -->\n|columns -->\n)(?:\|.*\n)+", r"\1", text), encoding="utf-8")
    monkeypatch.setattr(layout, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["layout.py", "--page", str(written)])
    assert layout.main() == 0
    assert written.read_text(encoding="utf-8") == text
