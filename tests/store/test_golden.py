"""RELIABILITY 34: files of every released format read identically for ever."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import anndata
import numpy as np
import pytest
from make_golden import observe
from support import ROOT

import scstore
from scstore.genes.table import load_gene_table
from scstore.panels.panel import load_panel
from scstore.sealed import FORMAT

GOLDEN = sorted(path for path in (ROOT / "stores" / "golden").iterdir() if path.is_dir())


def test_the_current_format_has_golden_files() -> None:
    assert FORMAT in [path.name for path in GOLDEN]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_golden_files_read_as_they_did(golden: Path) -> None:
    expected = json.loads((golden / "expected.json").read_text())
    seen = observe(golden)
    for kind in expected["confidence"]:
        np.testing.assert_allclose(seen["confidence"][kind], expected["confidence"][kind], atol=2e-4)  # type: ignore[index]
    for part in (seen, expected):
        del part["confidence"]
    assert seen == expected


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_the_same_cells_and_model_give_the_golden_rows_today(golden: Path, tmp_path: Path) -> None:
    """A released feature space keeps its numbers: the same fingerprint, the same rows within half precision."""
    store = scstore.extract(
        golden / "cells.h5ad",
        tmp_path / "s.zarr",
        model=str(golden / "model"),
        genes=str(golden / "store.genes.h5ad"),
        panel=str(golden / "panel.h5ad"),
    )
    frozen = scstore.open(golden / "store.zarr")
    for name in frozen.views:
        assert store.view(name).fingerprint == frozen.view(name).fingerprint
        if name != "X":
            np.testing.assert_allclose(store.view(name)[:], frozen.view(name)[:], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_golden_tables_and_panels_read(golden: Path) -> None:
    assert len(load_gene_table(golden / "store.genes.h5ad")) == 24
    assert len(load_panel(golden / "panel.h5ad")) == 15


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_nothing_is_wrong_with_golden_files(golden: Path) -> None:
    for name in ("store.zarr", "store.genes.h5ad", "panel.h5ad", "linear", "mlp", "knn"):
        assert scstore.verify(golden / name, deep=True).findings == ()


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_golden_stores_open_with_anndata_alone(golden: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adata = anndata.read_zarr(golden / "store.zarr")
    assert adata.n_obs == 36
    assert all(np.isfinite(view).all() for view in adata.obsm.values())


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_a_golden_store_still_exports(golden: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(golden / "store.zarr", tmp_path / "store.zarr")
    assert scstore.open(scstore.export(copy, tmp_path / "s.h5ad")).views == scstore.open(golden / "store.zarr").views
