"""One thing given in another's place: what was given and what is wanted are named, whatever it is."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scstore.untrusted.recognise import what_is
from support import make_cells

import scstore
from scstore.errors import CellsError, GenesError, InputError, NotAStoreError
from scstore.genes.table import load_gene_table
from scstore.panels.panel import load_panel


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("things")
    cells = make_cells(40)
    cells.obsm["X_emb"] = np.random.default_rng(0).normal(size=(40, 3))
    cells.write_h5ad(folder / "cells.h5ad")
    cells.obs.to_csv(folder / "labels.csv")
    scstore.fit(folder / "cells.h5ad", folder / "head", label="cell_type", views=["X_emb"])
    scstore.panel(folder / "cells.h5ad", folder / "panel.h5ad", label="cell_type", n_genes=5)
    scstore.build_genes(folder / "genes.h5ad", cells=folder / "cells.h5ad", encoder="random:8", organism="human")
    return {file.stem: file for file in folder.iterdir()}


def test_words_for_things(things: dict[str, Path]) -> None:
    words = {
        "cells": "an AnnData",
        "labels": "",
        "head": "a head",
        "panel": "a panel of genes",
        "genes": "a gene table",
    }
    assert {name: what_is(path) for name, path in things.items()} == words
    assert what_is(scstore.open(things["cells"])).endswith("Store")


@pytest.mark.parametrize("given", ["head", "panel", "genes"])
def test_in_place_of_a_store(given: str, things: dict[str, Path]) -> None:
    for act in (
        lambda path: scstore.open(path),
        lambda path: scstore.predict(path, things["head"]),
        lambda path: scstore.query(things["cells"], path, k=1),
        lambda path: scstore.evaluate(path, label="cell_type"),
    ):
        with pytest.raises(NotAStoreError, match=what_is(things[given])):
            act(things[given])


@pytest.mark.parametrize("given", ["head", "panel", "genes"])
def test_in_place_of_cells(given: str, things: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CellsError, match=what_is(things[given])):
        scstore.panel(things[given], tmp_path / "p.h5ad", label="cell_type")


def test_objects_in_place_of_others(things: dict[str, Path], tmp_path: Path) -> None:
    """RELIABILITY 20 of the trial: swapped arguments print no address and no internals."""
    store, head = scstore.open(things["cells"]), scstore.load_head(things["head"])
    with pytest.raises(NotAStoreError, match="FusedHead"):
        scstore.predict(head, store)
    with pytest.raises(NotAStoreError, match="Store"):
        scstore.load_head(store)
    with pytest.raises(CellsError, match="FusedHead"):
        scstore.panel([head], tmp_path / "p.h5ad", label="cell_type")
    with pytest.raises(NotAStoreError, match="DataFrame"):
        scstore.fit(pd.DataFrame(), label="cell_type")
    assert scstore.open(store) is store


def test_files_in_place_of_others(things: dict[str, Path]) -> None:
    for name in ("genes", "cells"):
        with pytest.raises(NotAStoreError, match=what_is(things[name])):
            scstore.load_head(things[name])
    with pytest.raises(GenesError, match="a panel of genes"):
        load_gene_table(things["panel"])
    with pytest.raises(GenesError, match="a gene table"):
        load_panel(things["genes"])


def test_cells_without_features_are_told_what_is_missing(tmp_path: Path) -> None:
    make_cells(20).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match=r"scstore\.extract"):
        scstore.fit(tmp_path / "a.h5ad", label="cell_type")


def test_no_link_is_followed(things: dict[str, Path], tmp_path: Path) -> None:
    """I5: not even to find out what a file is."""
    os.mkfifo(tmp_path / "pipe")  # to be opened would take for ever
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file["uns"] = h5py.ExternalLink(tmp_path / "pipe", "uns")
        file["obs"] = h5py.SoftLink("/uns/obs")
    assert what_is(tmp_path / "a.h5ad") == ""
    assert what_is(tmp_path / "pipe") == ""
