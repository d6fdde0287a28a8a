"""``--panel auto``: a label-free panel beside the store."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import Notes, extract, make_cells

import scstore
from scstore.errors import FeatureSpaceError, GenesError, OutputError


def test_default_fits_a_panel_once_and_keeps_it(llama: Path, tmp_path: Path) -> None:
    cells = make_cells(60, 250)
    cells.write_h5ad(tmp_path / "c.h5ad")
    store = extract(tmp_path / "c.h5ad", tmp_path / "s.zarr", llama, preset="default")
    kept = tmp_path / "s.panel.h5ad"
    assert store.record is not None
    assert store.record["options"]["panel"] == "s.panel.h5ad"
    assert (store.record["panel"]["n_genes"], store.record["panel"]["label"]) == (200, "")
    named = extract(tmp_path / "c.h5ad", tmp_path / "named.zarr", llama, panel=str(kept))
    for view in store.views[:-1]:  # the preset's name is no part of the space
        assert store.view(view).fingerprint == named.view(view).fingerprint
    written = kept.stat().st_mtime_ns
    notes = Notes()
    (tmp_path / "s.zarr" / "_scstore" / "shards" / "000000.json").unlink()
    extract(tmp_path / "c.h5ad", tmp_path / "s.zarr", llama, preset="default", progress=notes)
    assert kept.stat().st_mtime_ns == written
    assert not any("chosen on these cells" in note for note in notes.said)
    new = scstore.extract(make_cells(10, 250, seed=1), tmp_path / "n.zarr", like=tmp_path / "s.zarr")
    assert new.view("readout").fingerprint == store.view("readout").fingerprint
    kept.unlink()
    with pytest.raises(FeatureSpaceError, match=r"s\.panel\.h5ad"):
        extract(tmp_path / "c.h5ad", tmp_path / "s.zarr", llama, preset="default")


def test_a_panel_of_other_cells_is_not_replaced(llama: Path, tmp_path: Path) -> None:
    extract(make_cells(60, 250), tmp_path / "s.zarr", llama, panel="auto")
    with pytest.raises(OutputError, match=r"s\.panel\.h5ad"):
        extract(make_cells(50, 250), tmp_path / "s.zarr", llama, panel="auto", overwrite=True)
    extract(make_cells(60, 250), tmp_path / "all.zarr", llama)
    with pytest.raises(FeatureSpaceError, match=r"all\.zarr"):
        extract(make_cells(60, 250), tmp_path / "all.zarr", llama, panel="auto")
    with pytest.raises(GenesError):
        extract(make_cells(60), tmp_path / "few.zarr", llama, panel="auto")
