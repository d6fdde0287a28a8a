from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from scstore.errors import DamagedError, GenesError
from scstore.panels.panel import Panel, load_panel, save_panel


def make_panel(genes: str = "ABCD", **options: Any) -> Panel:
    names = list(genes)
    obs = pd.DataFrame(
        {
            "symbol": names,
            "ensembl_id": "",
            "score": np.arange(len(names), 0, -1.0),
        },
        index=pd.Index(names, name="gene"),
    )
    return Panel(obs, **{"label": "cell_type", "trained_on": ("c1", "c2"), **options})


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    panel = make_panel(record={"label": "cell_type"})
    save_panel(panel, tmp_path / "p.h5ad")
    read = load_panel(tmp_path / "p.h5ad")
    assert read.digest == panel.digest
    assert (read.label, read.trained_on) == ("cell_type", ("c1", "c2"))
    assert read.record == panel.record
    pd.testing.assert_frame_equal(read.obs, panel.obs)


def test_a_panel_without_labels_is_read_back(tmp_path: Path) -> None:
    panel = make_panel(label="", trained_on=())
    save_panel(Panel(panel.obs.drop(columns="score"), "", ()), tmp_path / "p.h5ad")
    read = load_panel(tmp_path / "p.h5ad")
    assert read.trained_on == ()
    assert read.digest == panel.digest


def test_damage_is_found(tmp_path: Path) -> None:
    save_panel(make_panel(), tmp_path / "p.h5ad")
    adata = anndata.read_h5ad(tmp_path / "p.h5ad")
    adata.obs["symbol"] = adata.obs["symbol"].to_numpy()[::-1]
    adata.write_h5ad(tmp_path / "p.h5ad")
    with pytest.raises(DamagedError, match="digest"):
        load_panel(tmp_path / "p.h5ad")


def test_what_is_no_panel_is_refused(cells: anndata.AnnData, tmp_path: Path) -> None:
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(GenesError, match="cells.h5ad"):
        load_panel(tmp_path / "cells.h5ad")
    with pytest.raises(GenesError, match="absent.h5ad"):
        load_panel(tmp_path / "absent.h5ad")
