"""Real parts for the tests: small random models, synthetic cells, the shared data where it is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test may reach for the network

import anndata
import pytest
from support import ROOT, Run, extract, make_cells, make_evaluation_cells, write_model

pytest_plugins = ["cell_files"]

SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the real data in ../shared/data, which is not here")
    return SHARED


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama: 3 layers, width 32, 128 positions, grouped-query attention."""
    return write_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT: 3 layers, width 32, 128 positions."""
    return write_model(tmp_path_factory.mktemp("models") / "bert", "bert")


@pytest.fixture(scope="session")
def evaluation_store(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 126 cells of three types (one is empty), with 7 patients and 2 species. Not to be written to."""
    path = tmp_path_factory.mktemp("evaluation") / "ref.zarr"
    extract(make_evaluation_cells(), path, llama)
    return path


@pytest.fixture
def cells() -> anndata.AnnData:
    """60 cells × 40 genes, three types, raw counts."""
    return make_cells()


@pytest.fixture
def cells_file(cells: anndata.AnnData, tmp_path: Path) -> Path:
    """The same as an .h5ad."""
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    return path


@pytest.fixture
def scstore_command(tmp_path: Path) -> Run:
    """The real command line in a process of its own, in an empty folder."""

    def run(*words: str | Path, code: int = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "scstore", *map(str, words)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "COLUMNS": "200", **(env or {})},
        )
        assert done.returncode == code, f"exit {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    return run
