"""Cells of one species through the gene table, panel and store of another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from support import Notes, extract, make_cells

import scstore
from scstore.errors import FeatureSpaceError, GenesError, OptionError

N = 40
VIEWS = ("readout_wmean_l3", "readout_last_l3", "genept", "genept_random")


def named(style: str, *, seed: int = 0) -> anndata.AnnData:
    """The same counts under human-like (GENE7) or mouse-like (Gene7) symbols."""
    cells = make_cells(30, N, seed=seed)
    cells.var_names = [f"{style}{i}" for i in range(N)]
    return cells


def write_orthologs(path: Path, *, left_out: tuple[int, ...] = ()) -> Path:
    rows = [f"GENE{i},Gene{i}" for i in reversed(range(N)) if i not in left_out]
    path.write_text("human,mouse\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def orthologs(tmp_path: Path) -> Path:
    return write_orthologs(tmp_path / "orthologs.csv")


@pytest.fixture
def genes(tmp_path: Path, llama: Path) -> Path:
    """A human gene table."""
    (tmp_path / "h.tsv").write_text("symbol\n" + "\n".join(f"GENE{i}" for i in range(N)) + "\n")
    scstore.build_genes(tmp_path / "h.h5ad", text=tmp_path / "h.tsv", organism="human", encoder=str(llama))
    return tmp_path / "h.h5ad"


def rows(store: scstore.Store) -> list[np.ndarray]:
    return [store.view(view)[:] for view in VIEWS]


def test_mouse_cells_give_the_rows_of_human_cells_with_the_same_counts(
    genes: Path, orthologs: Path, llama: Path, tmp_path: Path
) -> None:
    human = extract(named("GENE"), tmp_path / "h.zarr", llama, genes=str(genes))
    notes = Notes()
    mouse = extract(
        named("Gene"), tmp_path / "m.zarr", llama, genes=str(genes), orthologs=str(orthologs), progress=notes
    )
    for ours, theirs in zip(rows(human), rows(mouse), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(human.view("X")[:].toarray(), mouse.view("X")[:].toarray())
    assert human.view("readout").fingerprint == mouse.view("readout").fingerprint
    assert any("40 of 40 mouse genes are read as their human orthologs" in said for said in notes.said)
    assert mouse.record is not None
    recorded = mouse.record["input"]["orthologs"]
    assert (recorded["from"], recorded["to"]) == ("mouse", "human")
    assert mouse.record["options"]["orthologs"] == "orthologs.csv"


def test_expression_is_normalised_before_genes_without_an_ortholog_are_dropped(
    genes: Path, llama: Path, tmp_path: Path
) -> None:
    """What is left has the values that it has among all measured genes."""
    some = write_orthologs(tmp_path / "some.csv", left_out=(2, 3, 39))
    whole = extract(named("GENE"), tmp_path / "h.zarr", llama, genes=str(genes)).view("X")[:].toarray()
    store = extract(named("Gene"), tmp_path / "m.zarr", llama, genes=str(genes), orthologs=str(some))
    left = store.view("X")[:].toarray()
    np.testing.assert_array_equal(left, np.delete(whole, [2, 3, 39], axis=1))
    assert list(store.expression_genes["symbol"]) == [f"GENE{i}" for i in range(N) if i not in (2, 3, 39)]


def test_like_a_human_store(genes: Path, orthologs: Path, llama: Path, tmp_path: Path) -> None:
    """--like takes the feature space; the orthologs are the caller's to give. A human head then labels mouse cells."""
    reference = extract(named("GENE"), tmp_path / "h.zarr", llama, genes=str(genes))
    scstore.fit(tmp_path / "h.zarr", tmp_path / "head", label="cell_type")
    with pytest.raises(GenesError, match="look like mouse"):
        scstore.extract(named("Gene"), tmp_path / "m.zarr", like=tmp_path / "h.zarr")
    store = scstore.extract(named("Gene"), tmp_path / "m.zarr", like=tmp_path / "h.zarr", orthologs=str(orthologs))
    np.testing.assert_array_equal(rows(store)[0], rows(reference)[0])
    labels = scstore.predict(tmp_path / "m.zarr", head=tmp_path / "head")
    assert len(labels) == 30


def test_a_run_goes_on_with_the_same_orthologs_alone(genes: Path, orthologs: Path, llama: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"genes": str(genes), "shard_rows": 10}
    store = extract(named("Gene"), tmp_path / "m.zarr", llama, orthologs=str(orthologs), **options)
    shutil.copy(orthologs, tmp_path / "copy.csv")  # another file with the same pairs is the same
    again = extract(named("Gene"), tmp_path / "m.zarr", llama, orthologs=str(tmp_path / "copy.csv"), **options)
    np.testing.assert_array_equal(rows(store)[0], rows(again)[0])
    other = write_orthologs(tmp_path / "other.csv", left_out=(5,))
    with pytest.raises(FeatureSpaceError, match=r"input\.orthologs\.digest"):
        extract(named("Gene"), tmp_path / "m.zarr", llama, orthologs=str(other), **options)


def test_without_a_table_the_panels_species_counts(orthologs: Path, llama: Path, tmp_path: Path) -> None:
    """Symbols are encoded as their orthologs', so that a human panel applies."""
    scstore.panel(named("GENE"), tmp_path / "p.h5ad", label="cell_type", n_genes=12)
    panel = str(tmp_path / "p.h5ad")
    human = extract(named("GENE"), tmp_path / "h.zarr", llama, panel=panel)
    mouse = extract(named("Gene"), tmp_path / "m.zarr", llama, panel=panel, orthologs=str(orthologs))
    np.testing.assert_array_equal(rows(human)[0], rows(mouse)[0])
    with pytest.raises(OptionError, match="--orthologs needs --genes or --panel"):
        extract(named("Gene"), tmp_path / "x.zarr", llama, orthologs=str(orthologs))


def test_cells_of_the_tables_own_species_stay_as_they_are(
    genes: Path, orthologs: Path, llama: Path, tmp_path: Path
) -> None:
    notes = Notes()
    store = extract(
        named("GENE"), tmp_path / "h.zarr", llama, genes=str(genes), orthologs=str(orthologs), progress=notes
    )
    assert "orthologs: not needed, the cells are human like the genes they are matched with" in notes.said
    assert store.record is not None
    assert "orthologs" not in store.record["input"]


def test_unclear_species_are_refused(genes: Path, orthologs: Path, llama: Path, tmp_path: Path) -> None:
    numbered = named("")
    with pytest.raises(GenesError, match=r"do not look like either\. Give --organism human or mouse"):
        extract(numbered, tmp_path / "x.zarr", llama, genes=str(genes), orthologs=str(orthologs))
    with pytest.raises(GenesError, match=r"these are 'rat'\. Give --organism"):
        extract(numbered, tmp_path / "x.zarr", llama, genes=str(genes), orthologs=str(orthologs), organism="rat")
    assert not (tmp_path / "x.zarr").exists()


def test_a_table_of_both_species(genes: Path, llama: Path, tmp_path: Path) -> None:
    """Each kind of cell takes its own rows; the feature space is one."""
    (tmp_path / "m.tsv").write_text("symbol\n" + "\n".join(f"Gene{i}" for i in range(N)) + "\n")
    scstore.build_genes(tmp_path / "m.h5ad", text=tmp_path / "m.tsv", organism="mouse", encoder=str(llama))
    scstore.merge_genes([genes, tmp_path / "m.h5ad"], tmp_path / "both.h5ad")
    both = str(tmp_path / "both.h5ad")
    human = extract(named("GENE"), tmp_path / "h.zarr", llama, genes=both)
    mouse = extract(named("Gene"), tmp_path / "m.zarr", llama, genes=both)
    assert set(human.expression_genes["organism"]) == {"human"}
    assert set(mouse.expression_genes["organism"]) == {"mouse"}
    assert human.view("readout").fingerprint == mouse.view("readout").fingerprint
    with pytest.raises(GenesError, match="Say it with --organism"):
        extract(named(""), tmp_path / "x.zarr", llama, genes=both)
    upper = extract(named("Gene"), tmp_path / "y.zarr", llama, genes=both, organism="mouse")
    np.testing.assert_array_equal(rows(upper)[0], rows(mouse)[0])
    json.dumps(mouse.record)
