"""What a command says at its end: the next command, which works as it is printed, and what a file is."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from support import Run, make_cells

import scstore

PLACES = {"STORE": "new.zarr", "CELLS": "new.h5ad", "HEAD": "heads/cell_type"}


@pytest.fixture
def folder(tmp_path: Path, llama: Path) -> Path:
    """Labelled and unlabelled cells whose metadata have columns that are no labels, and a model."""
    cells, new = make_cells(), make_cells(20, seed=1)
    cells.obs.insert(0, "n_counts", range(60))
    cells.obs.insert(1, "barcode", [f"AC{i}" for i in range(60)])
    cells.obs.insert(2, "batch", "one")
    cells.write_h5ad(tmp_path / "my cells.h5ad")
    del new.obs
    new.write_h5ad(tmp_path / "new.h5ad")
    shutil.copytree(llama, tmp_path / "model")
    return tmp_path


def hint(said: str) -> list[str]:
    """The next command, with what a user fills in."""
    (line,) = re.findall(r"^next: scstore (.*)$", said, re.MULTILINE)
    return [PLACES.get(word, word) for word in shlex.split(line)]


def test_each_hint_is_a_command_that_works(folder: Path, scstore_command: Run) -> None:
    run = scstore_command
    said = run("panel", "my cells.h5ad", "--label", "cell_type", "-n", "15", "-o", "panel.h5ad").stdout
    extract = hint(said)
    assert extract[:2] == ["extract", "my cells.h5ad"]
    extract[extract.index("new.zarr")] = "ref.zarr"
    fit = hint(run(*extract, "--model", "./model").stdout)
    assert fit == ["fit", "ref.zarr", "--label", "cell_type", "-o", "heads/cell_type"]
    annotate = hint(run(*fit).stdout)
    unlabelled = hint(run("extract", "new.h5ad", "-o", "new.zarr", "--like", "ref.zarr").stdout)
    assert [word.replace("new.zarr", "new.h5ad") for word in unlabelled] == annotate
    run(*annotate)
    assert (folder / "annotated.h5ad").is_file()
    run("verify", "heads/cell_type")


def test_without_labels_there_is_nothing_to_fit(folder: Path, scstore_command: Run) -> None:
    said = scstore_command("extract", "new.h5ad", "-o", "u.zarr", "--model", "./model").stdout
    assert hint(said)[0] == "annotate"


def test_info_knows_what_is_no_store(folder: Path, scstore_command: Run) -> None:
    scstore_command("panel", "my cells.h5ad", "--label", "cell_type", "-n", "15", "-o", "panel.h5ad")
    scstore.build_genes(folder / "genes.h5ad", cells=folder / "my cells.h5ad", encoder="random:8")
    for name, what in (("panel.h5ad", "15 genes"), ("genes.h5ad", "40 genes")):
        said = scstore_command("info", name).stdout
        assert what in said
        assert "cells" not in said.replace("my cells.h5ad", "")


def test_a_head_with_its_card_has_nothing_to_note(folder: Path, scstore_command: Run) -> None:
    scstore_command("extract", "my cells.h5ad", "-o", "ref.zarr", "--model", "./model")
    scstore_command("fit", "ref.zarr", "--label", "cell_type", "-o", "head")
    assert (folder / "head" / "README.md").is_file()
    assert "note" not in scstore_command("verify", "head").stdout
