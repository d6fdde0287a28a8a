from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from support import make_cells

import scstore
from scstore.store import export
from scstore.store.reader import open_store


@pytest.fixture(scope="module")
def path(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "s.zarr"
    scstore.extract(make_cells(50, empty=3), path, model=str(llama), shard_rows=16)
    return path


def test_rows_go_from_store_to_file_in_blocks(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "BLOCK_ROWS", 7)
    store = open_store(path)
    wanted, found = store.to_anndata(), anndata.read_h5ad(scstore.export(path, tmp_path / "s.h5ad"))
    # writing turns text that repeats into categories
    pd.testing.assert_frame_equal(found.obs.astype(str), wanted.obs.astype(str))
    pd.testing.assert_frame_equal(found.var.astype(str), wanted.var.astype(str))
    np.testing.assert_array_equal(found.X.toarray(), wanted.X.toarray())
    assert set(found.obsm) == set(wanted.obsm)
    for name in wanted.obsm:
        np.testing.assert_array_equal(found.obsm[name], wanted.obsm[name])
    assert open_store(tmp_path / "s.h5ad").record == store.record


def test_chosen_views_and_rows(path: Path, tmp_path: Path) -> None:
    rows = np.array([3, 17, 40])
    export.write_h5ad(open_store(path), tmp_path / "s.h5ad", views=["readout", "genept", "genept"], rows=rows)
    found = anndata.read_h5ad(tmp_path / "s.h5ad")
    assert found.X is None
    assert list(found.obs_names) == ["cell3", "cell17", "cell40"]
    np.testing.assert_array_equal(found.obsm["genept"], open_store(path).view("genept")[rows])


def test_an_exported_file_is_exported_again(path: Path, tmp_path: Path) -> None:
    scstore.export(path, tmp_path / "a.h5ad")
    scstore.export(tmp_path / "a.h5ad", tmp_path / "b.h5ad")
    found, wanted = open_store(tmp_path / "b.h5ad"), open_store(path)
    assert (found.record, found.views) == (wanted.record, wanted.views)
    np.testing.assert_array_equal(found.view("genept")[:], wanted.view("genept")[:])
