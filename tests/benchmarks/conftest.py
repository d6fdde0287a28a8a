"""Runs a command of ``benchmarks/`` in this process, in an empty folder."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ROOT


@pytest.fixture
def benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[list[str], dict[str, Any]]]:
    """Gives ``run(name, *words)``: the lines that the command prints, and what it writes with ``--json``.

    Processes that it starts can import what lies in the folder.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    def run(name: str, *words: object) -> tuple[list[str], dict[str, Any]]:
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words), "--json", "found.json"])
        capsys.readouterr()
        code = module.main()
        printed = capsys.readouterr().out
        assert code == 0, printed
        return printed.splitlines(), json.loads((tmp_path / "found.json").read_text())

    return run
