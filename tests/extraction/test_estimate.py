from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
from support import make_cells
from typer.testing import CliRunner

import scstore
from scstore.cli import app
from scstore.extraction import estimate as module
from scstore.extraction.estimate import estimate
from scstore.model.flops import cell_flop
from scstore.model.loading import locate_model


def test_it_counts_what_extraction_does(llama: Path, tmp_path: Path) -> None:
    cells = make_cells(70, empty=2)
    found = estimate(cells, tmp_path / "s.zarr", model=str(llama))
    assert list(tmp_path.iterdir()) == []
    store = scstore.extract(cells, tmp_path / "s.zarr", model=str(llama))
    overhead = 128 - store.record["views"]["genept"]["space"]["top_genes"]  # type: ignore[index]
    n_genes = store.obs["scstore_n_genes"].to_numpy()
    lengths = n_genes[n_genes > 0] + overhead
    assert (found.n_cells, found.n_empty, found.tokens) == (70, 1, lengths.sum())
    assert found.flop == pytest.approx(cell_flop(locate_model(str(llama)).config, lengths, depth=3).sum())
    rows = sum(store.view(name)[:].nbytes for name in store.views if name != "X")
    assert found.store_bytes == rows
    assert found.cells_per_second is not None
    assert found.seconds == pytest.approx(69 / found.cells_per_second)


def test_layers_above_the_deepest_cost_nothing(cells: anndata.AnnData, llama: Path, tmp_path: Path) -> None:
    one, three = (estimate(cells, tmp_path / "s", model=str(llama), layers=(n,)).flop for n in (1, 3))
    assert three == pytest.approx(3 * one)


def test_what_would_take_minutes_is_not_measured(
    cells: anndata.AnnData, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MEASURABLE", 1.0)
    found = estimate(cells, tmp_path / "s", model=str(llama))
    assert found.cells_per_second is None
    assert any("not measured on cpu" in line for line in found.lines())


def test_cells_without_genes_cost_nothing(llama: Path, tmp_path: Path) -> None:
    found = estimate(make_cells(1, empty=0), tmp_path / "s", model=str(llama))
    assert (found.tokens, found.flop, found.n_empty) == (0, 0, 1)
    assert np.isfinite([float(word) for line in found.lines() for word in line.split() if word.isdecimal()]).all()


def test_the_command(llama: Path, tmp_path: Path) -> None:
    make_cells().write_h5ad(tmp_path / "c.h5ad")
    words = ["extract", str(tmp_path / "c.h5ad"), "-o", str(tmp_path / "s.zarr"), "--model", str(llama), "--dry-run"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    for word in ("cells: 60", "tokens:", "FLOP", "GB", "cells/s measured"):
        assert word in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["c.h5ad"]
