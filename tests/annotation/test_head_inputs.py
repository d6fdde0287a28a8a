"""A head that labels cells measured on other genes, from store to labels."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from support import Notes

import scstore
from scstore.errors import CellsError, FeatureSpaceError, GenesError, OptionError
from scstore.genes.table import GeneTable, describe_by_symbol, save_gene_table
from scstore.reporting.card import model_card

N_GENES = 160
SYMBOLS = [f"GENE{i}" for i in range(N_GENES)]
OWNER = np.random.default_rng(0).integers(0, 4, N_GENES)  # a type's own gene, or (3) everybody's


def gene_file(path: Path, *, encoder: str = "text") -> Path:
    """Genes whose vectors say which type they belong to."""
    vectors = np.eye(4, 16)[OWNER] + np.random.default_rng(1).normal(size=(N_GENES, 16)) * 0.35 + 2
    obs, template = describe_by_symbol(SYMBOLS, organism="human")
    save_gene_table(GeneTable(obs, vectors.astype(np.float32), {"name": encoder}, template), path)
    return path


def measured(n: int, genes: slice, *, seed: int) -> anndata.AnnData:
    """Cells of three types of which only some genes were measured."""
    rng = np.random.default_rng(seed)
    types = rng.integers(0, 3, n)
    counts = rng.poisson(0.3 + 2.0 * (OWNER[None] == types[:, None]) + 1.0 * (OWNER == 3)[None]).astype(np.float32)
    obs = pd.DataFrame({"cell_type": [f"type {kind}" for kind in types]}, index=[f"{seed}-{i}" for i in range(n)])
    return anndata.AnnData(csr_matrix(counts[:, genes]), obs=obs, var=pd.DataFrame(index=SYMBOLS[genes]))


def store_of(cells: anndata.AnnData, path: Path, genes: Path) -> scstore.Store:
    return scstore.extract(cells, path, preset="genept-w", genes=str(genes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ref.zarr` and `new.zarr`, with no gene in common, and the head `head`."""
    folder = tmp_path_factory.mktemp("across")
    genes = gene_file(folder / "genes.h5ad")
    store_of(measured(240, slice(0, 80), seed=1), folder / "ref.zarr", genes)
    store_of(measured(150, slice(80, 160), seed=2), folder / "new.zarr", genes)
    scstore.fit(folder / "ref.zarr", folder / "head", label="cell_type", head="across-genes")
    return folder


def test_cells_get_labels_though_no_gene_is_shared(folder: Path) -> None:
    notes = Notes()
    table = scstore.predict(folder / "new.zarr", folder / "head", unassigned="none", progress=notes)
    truth = scstore.open(folder / "new.zarr").obs["cell_type"]
    assert (table["label"].to_numpy() == truth.to_numpy()).mean() > 0.95
    assert list(table.index) == list(truth.index)
    told = "\n".join(notes.said)
    assert "0 of the 80 genes here were measured in training" in told
    assert "may change with the cells beside it" in told
    assert "of the same data set" in told


def test_genes_that_say_little_are_refused(folder: Path, tmp_path: Path) -> None:
    """Genes that all types express alike: what held-out cells showed with all their genes does not hold for them."""
    cells = measured(150, slice(80, 160), seed=9)[:, OWNER[80:] == 3].copy()
    store = store_of(cells, tmp_path / "everybody.zarr", folder / "genes.h5ad")
    with pytest.raises(GenesError, match="min_accuracy=0"):
        scstore.predict(store, folder / "head")
    table = scstore.predict(store, folder / "head", min_accuracy=0)
    every = scstore.predict(store, folder / "head", min_accuracy=0, unassigned="none")
    right = (every["label"].to_numpy() == cells.obs["cell_type"].to_numpy()).mean()
    assert right < 0.6
    assert every["confidence"].mean() < right + 0.15
    assert (table["label"] == "unassigned").mean() > 0.9


def test_whole_groups_are_held_out(folder: Path, tmp_path: Path) -> None:
    cells = measured(240, slice(0, 80), seed=1)
    cells.obs["donor"] = np.repeat(["a", "b", "c"], 80)
    store = store_of(cells, tmp_path / "ref.zarr", folder / "genes.h5ad")
    head = scstore.fit(store, tmp_path / "head", label="cell_type", head="across-genes", group="donor")
    assert head.record_["group"] == "donor"
    notes = Notes()
    scstore.predict(folder / "new.zarr", tmp_path / "head", progress=notes)
    assert "of another 'donor'" in "\n".join(notes.said)
    assert "whole groups of donor" in model_card(scstore.load_head(tmp_path / "head"), name="head")


def test_genes_that_are_shared_are_counted(folder: Path, tmp_path: Path) -> None:
    store = store_of(measured(120, slice(60, 160), seed=3), tmp_path / "some.zarr", folder / "genes.h5ad")
    notes = Notes()
    table = scstore.predict(store, folder / "head", progress=notes)
    assert "20 of the 100 genes here" in "\n".join(notes.said)
    assert set(table["status"]) <= {"ok", "unsure"}
    assert table["novelty"].isna().all()


def test_a_head_in_memory_and_from_disk_say_the_same(folder: Path, tmp_path: Path) -> None:
    fitted = scstore.fit(folder / "ref.zarr", label="cell_type", head="across-genes")
    here = scstore.predict(folder / "new.zarr", fitted, proba=True)
    there = scstore.predict(folder / "new.zarr", folder / "head", tmp_path / "labels.parquet", proba=True)
    pd.testing.assert_frame_equal(here, there)
    written = pd.read_parquet(tmp_path / "labels.parquet")
    assert list(written["best_label"]) == list(there["best_label"])
    np.testing.assert_allclose(written["confidence"], there["confidence"], rtol=1e-3)
    assert fitted.held_out_["n"] == 6 * 240


def test_other_texts_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    other = gene_file(tmp_path / "other.h5ad", encoder="another")
    store = store_of(measured(120, slice(80, 160), seed=4), tmp_path / "new.zarr", other)
    with pytest.raises(FeatureSpaceError, match=r"encoder.*text.*another"):
        scstore.predict(store, folder / "head")


def test_what_cannot_be_done_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="views="):
        scstore.fit(folder / "ref.zarr", label="cell_type", head="across-genes", views=["X"])
    with pytest.raises(OptionError, match="prior_adjustment="):
        scstore.fit(folder / "ref.zarr", label="cell_type", head="across-genes", prior_adjustment=0.0)
    with pytest.raises(OptionError, match="distance"):
        scstore.predict(folder / "new.zarr", folder / "head", unassigned="distance")
    few = store_of(measured(20, slice(80, 160), seed=5), tmp_path / "few.zarr", folder / "genes.h5ad")
    with pytest.raises(CellsError, match="20 cells"):
        scstore.predict(few, folder / "head")
    bare = scstore.extract(
        measured(120, slice(0, 80), seed=6), tmp_path / "bare.zarr", preset="genept-w",
        genes=str(folder / "genes.h5ad"), keep_expression=False,
    )  # fmt: skip
    with pytest.raises(FeatureSpaceError, match="bare.zarr"):
        scstore.fit(bare, label="cell_type", head="across-genes")


def test_its_card(folder: Path) -> None:
    head = scstore.load_head(folder / "head")
    card = model_card(head, name="head")
    assert "across-genes" in card
    assert head.cases_ is not None
    rows = [f"{a:.3f} | {t:.2f}" for a, t in zip(head.cases_.accuracy, head.cases_.temperature, strict=True)]
    assert all(row in card for row in rows)


def test_evaluate_has_it_beside_its_control(folder: Path) -> None:
    found = scstore.evaluate(folder / "ref.zarr", label="cell_type", folds=2, hold_out_genes=0.5)
    regime = found.regimes[-1]
    assert regime.name == "disjoint genes"
    scores = regime.scored.scores.groupby("row")["macro_f1"].mean()
    assert scores["across-genes"] > 0.9
    assert scores["across-genes"] > scores["across-genes_random"] + 0.2
    marked = {row.name: row.marked for row in regime.scored.rows}
    assert marked["across-genes"] == "across-genes"
    assert marked["across-genes_random"] == "- across-genes_random"


def test_evaluate_of_few_cells_says_why_the_row_is_missing(folder: Path, tmp_path: Path) -> None:
    few = store_of(measured(90, slice(0, 160), seed=7), tmp_path / "few.zarr", folder / "genes.h5ad")
    found = scstore.evaluate(few, label="cell_type", folds=2, hold_out_genes=0.5)
    regime = found.regimes[-1]
    assert "across-genes" not in set(regime.scored.scores["row"])
    assert any("the across-genes head failed and has no row" in note for note in regime.notes)
