from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from scstore.errors import DamagedError, GenesError
from scstore.panels.panel import Panel, join_panels, load_panel, save_panel


def make_panel(genes: str = "ABCD", **options: Any) -> Panel:
    names = list(genes)
    obs = pd.DataFrame(
        {
            "symbol": names,
            "ensembl_id": "",
            "f_value": np.arange(len(names), 0, -1.0),
            "median": [0.5 + ord(name) / 100 for name in names],
            "n_cells": np.arange(len(names)) + 10,
        },
        index=pd.Index(names, name="gene"),
    )
    return Panel(obs, **{"label": "cell_type", "trained_on": ("c1", "c2"), "source": "cells.h5ad", **options})


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    panel = make_panel(record={"labels": ["cell_type"], "sizes": None})
    save_panel(panel, tmp_path / "p.h5ad")
    read = load_panel(tmp_path / "p.h5ad")
    assert read.digest == panel.digest
    assert (read.label, read.source, read.trained_on) == ("cell_type", "cells.h5ad", ("c1", "c2"))
    assert read.record == panel.record
    pd.testing.assert_frame_equal(read.obs, panel.obs)


def test_a_panel_without_labels_is_read_back(tmp_path: Path) -> None:
    panel = make_panel(label="", trained_on=())
    save_panel(Panel(panel.obs.drop(columns="f_value"), "", ()), tmp_path / "p.h5ad")
    read = load_panel(tmp_path / "p.h5ad")
    assert read.trained_on == ()
    assert read.digest == panel.digest


def test_files_of_the_first_version_are_read(tmp_path: Path) -> None:
    """Their header has label and source alone."""
    save_panel(make_panel(), tmp_path / "p.h5ad")
    adata = anndata.read_h5ad(tmp_path / "p.h5ad")
    header = json.loads(adata.uns["scstore"]["panel"])
    del header["record"]
    adata.uns["scstore"]["panel"] = json.dumps(header)
    adata.write_h5ad(tmp_path / "p.h5ad")
    assert load_panel(tmp_path / "p.h5ad").record == {}


def test_damage_is_found(tmp_path: Path) -> None:
    save_panel(make_panel(), tmp_path / "p.h5ad")
    adata = anndata.read_h5ad(tmp_path / "p.h5ad")
    adata.obs["median"] += 1
    adata.write_h5ad(tmp_path / "p.h5ad")
    with pytest.raises(DamagedError, match="digest"):
        load_panel(tmp_path / "p.h5ad")


def test_what_is_no_panel_is_refused(cells: anndata.AnnData, tmp_path: Path) -> None:
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(GenesError, match="cells.h5ad"):
        load_panel(tmp_path / "cells.h5ad")
    with pytest.raises(GenesError, match="absent.h5ad"):
        load_panel(tmp_path / "absent.h5ad")


def test_a_union_has_all_genes_in_turn() -> None:
    first, second = make_panel("ABCD"), make_panel("DXYA", label="tissue", trained_on=("c2", "c3"))
    union = join_panels([first, second], source="1, 2")
    assert list(union.obs.index) == ["A", "D", "B", "X", "C", "Y"]
    assert union.trained_on == ("c1", "c2", "c3")
    assert union.label == "cell_type, tissue"
    assert [parent["digest"] for parent in union.record["parents"]] == [first.digest, second.digest]
    assert union.obs["n_panels"].tolist() == [2, 2, 1, 1, 1, 1]
    assert join_panels([second, first]).digest == union.digest


def test_medians_of_a_union_are_weighted_by_cells() -> None:
    first, second = make_panel("A"), make_panel("A")
    second.obs["median"], second.obs["n_cells"] = 2.0, 30
    union = join_panels([first, second])
    assert union.obs["median"].iloc[0] == pytest.approx((first.obs["median"].iloc[0] * 10 + 2.0 * 30) / 40)
    assert union.obs["n_cells"].tolist() == [40]
    old = Panel(first.obs.drop(columns="n_cells"), "cell_type", ())
    assert join_panels([old, second]).obs["median"].iloc[0] == pytest.approx((first.obs["median"].iloc[0] + 2.0) / 2)
