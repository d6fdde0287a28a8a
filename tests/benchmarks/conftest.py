"""Runs a command of ``benchmarks/`` in this process, in an empty folder."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from support import ROOT

KINDS = ("B", "NK", "T")


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


@pytest.fixture
def made_up_donors(tmp_path: Path) -> Path:
    """Three donors in the layout of the benchmark's blood cells: 60 cells each, 20 marker genes a type of 120."""
    rng = np.random.default_rng(0)
    kinds, donors = np.arange(180) % 3, np.repeat(["3pv1", "3pv2", "5p"], 60)
    means = np.full((180, 120), 1.0)
    for code in range(3):
        means[np.ix_(kinds == code, range(20 * code, 20 * code + 20))] = 2.5
    obs = pd.DataFrame({"cell_type": np.array(KINDS)[kinds], "donor": donors}, index=[f"c{i}" for i in range(180)])
    var = pd.DataFrame(index=[f"GEN{chr(65 + i // 26)}{chr(65 + i % 26)}" for i in range(120)])
    counts = sparse.csr_matrix(rng.poisson(means).astype(np.float32))
    anndata.AnnData(counts, obs=obs, var=var).write_h5ad(tmp_path / "pbmc_3donors.h5ad")
    return tmp_path
