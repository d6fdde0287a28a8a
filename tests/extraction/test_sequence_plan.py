"""Cells of one species through the gene table, panel and store of another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from support import Notes, extract, make_cells
from typer.testing import CliRunner

import scstore
from scstore.cli import app
from scstore.errors import FeatureSpaceError, GenesError, OptionError
from scstore.gene_tables import encoding
from scstore.genes.table import expression_genes, load_gene_table

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
    with pytest.raises(GenesError, match="mouse"):
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
    with pytest.raises(FeatureSpaceError, match="the table of orthologs: another one"):
        extract(named("Gene"), tmp_path / "m.zarr", llama, orthologs=str(other), **options)


def test_without_a_table_the_panels_species_counts(orthologs: Path, llama: Path, tmp_path: Path) -> None:
    """Symbols are encoded as their orthologs', so that a human panel applies."""
    scstore.panel(named("GENE"), tmp_path / "p.h5ad", label="cell_type", n_genes=12)
    panel = str(tmp_path / "p.h5ad")
    human = extract(named("GENE"), tmp_path / "h.zarr", llama, panel=panel)
    mouse = extract(named("Gene"), tmp_path / "m.zarr", llama, panel=panel, orthologs=str(orthologs))
    np.testing.assert_array_equal(rows(human)[0], rows(mouse)[0])
    with pytest.raises(OptionError, match="orthologs"):
        extract(named("Gene"), tmp_path / "x.zarr", llama, orthologs=str(orthologs))


def test_cells_of_the_tables_own_species_stay_as_they_are(
    genes: Path, orthologs: Path, llama: Path, tmp_path: Path
) -> None:
    notes = Notes()
    store = extract(
        named("GENE"), tmp_path / "h.zarr", llama, genes=str(genes), orthologs=str(orthologs), progress=notes
    )
    assert any("orthologs: not needed" in said for said in notes.said)
    assert store.record is not None
    assert "orthologs" not in store.record["input"]


def test_unclear_species_are_refused(genes: Path, orthologs: Path, llama: Path, tmp_path: Path) -> None:
    unclear = named("C")
    with pytest.raises(GenesError, match="AnnData in memory"):
        extract(unclear, tmp_path / "x.zarr", llama, genes=str(genes), orthologs=str(orthologs))
    with pytest.raises(OptionError, match="'rat'"):
        extract(unclear, tmp_path / "x.zarr", llama, genes=str(genes), orthologs=str(orthologs), organism="rat")
    assert not (tmp_path / "x.zarr").exists()


def both_species(*, left_out: tuple[int, ...] = ()) -> list[anndata.AnnData]:
    """Human cells, and mouse cells that measured the genes the other way round."""
    human, mouse = named("GENE"), named("Gene", seed=1)
    mouse.obs_names = [f"mouse{i}" for i in range(30)]
    kept = [i for i in range(N) if i not in left_out]
    return [human, mouse[:, kept[::-1]].copy()]


def test_a_projector_learns_from_mouse_cells_what_it_learns_from_human_ones(
    genes: Path, orthologs: Path, llama: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"label": "cell_type", "model": str(llama), "genes": str(genes), "epochs": 1}
    human = scstore.align(named("GENE"), tmp_path / "h", **options)
    mouse = scstore.align(named("Gene"), tmp_path / "m", orthologs=str(orthologs), **options)
    assert mouse.digest == human.digest
    assert mouse.training["curve"] == human.training["curve"]
    recorded = mouse.training["input"]["orthologs"]
    assert (recorded["from"], recorded["to"]) == ("mouse", "human")
    assert "orthologs" not in human.training["input"]
    with pytest.raises(GenesError, match="mouse"):
        scstore.align(named("Gene"), tmp_path / "x", **options)


def test_the_commands_take_orthologs(
    genes: Path, orthologs: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(genes.parent)
    human, mouse = both_species(left_out=(7,))
    human.write_h5ad("human.h5ad")
    mouse.write_h5ad("mouse.h5ad")

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        return done.output

    run("panel", "human.h5ad", "--label", "cell_type", "-n", "12", "-o", "p.h5ad")
    words = ["align", "mouse.h5ad", "--label", "cell_type", "-o", "p", "--model", str(llama), "--genes", "h.h5ad"]
    said = run(*words, "--panel", "p.h5ad", "--orthologs", "orthologs.csv", "--epochs", "1")
    assert "--genes h.h5ad --panel p.h5ad --orthologs orthologs.csv" in said


def test_only_the_panels_texts_are_encoded_and_cells_like_these_may_have_all_of_them(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference lacks a gene of its panel; its table has it all the same, for cells that measured it."""
    monkeypatch.setattr(encoding, "SPREAD", 0)
    cells = make_cells(30)
    panel = scstore.panel(cells, tmp_path / "p.h5ad", label="cell_type", n_genes=12)
    inside = [name for name in cells.var_names if name in panel.obs.index]
    reference = cells[:, cells.var_names != inside[0]].copy()
    store = extract(reference, tmp_path / "ref.zarr", llama, panel=str(tmp_path / "p.h5ad"))
    table = load_gene_table(tmp_path / "ref.genes.h5ad")
    assert set(table.obs["symbol"][table.encoded]) == set(inside)
    assert set(store.expression_genes["symbol"]) == set(reference.var_names)
    with pytest.raises(FeatureSpaceError, match="have no vector"):
        expression_genes(store, purpose="a test")
    new = scstore.extract(cells, tmp_path / "new.zarr", like=tmp_path / "ref.zarr")
    assert set(new.expression_genes["symbol"]) == set(cells.var_names)
    lacks = np.asarray(cells[:, inside[0]].X.todense()).ravel() == 0
    assert 0 < lacks.sum() < 30
    same = (new.view("genept")[:] == store.view("genept")[:]).all(axis=1)
    np.testing.assert_array_equal(same, lacks)
    assert new.view("genept").fingerprint == store.view("genept").fingerprint
    assert (new.obs["scstore_n_genes"] - store.obs["scstore_n_genes"]).tolist() == (~lacks).astype(int).tolist()


def test_genes_without_a_vector_never_enter(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SPREAD", 0)
    cells, notes = make_cells(30), Notes()
    for name, some in (("c.h5ad", cells), ("few.h5ad", cells[:, :9].copy())):
        some.write_h5ad(tmp_path / name)
    (tmp_path / "t.tsv").write_text("symbol\n" + "".join(f"{name}\n" for name in cells.var_names))
    scstore.build_genes(
        tmp_path / "g.h5ad", text=tmp_path / "t.tsv", only_genes_of=tmp_path / "few.h5ad", encoder=str(llama)
    )
    store = extract(cells, tmp_path / "s.zarr", llama, genes=str(tmp_path / "g.h5ad"))
    assert store.obs["scstore_n_genes"].tolist() == (cells[:, :9].X > 0).sum(axis=1).ravel().tolist()[0]
    scstore.panel(cells[:, 5:].copy(), tmp_path / "p.h5ad", label="cell_type", n_genes=20)
    options = {"genes": str(tmp_path / "g.h5ad"), "panel": str(tmp_path / "p.h5ad"), "progress": notes}
    extract(cells, tmp_path / "p.zarr", llama, **options)
    assert any("20 of its 20 are measured here, 4 of these have a vector" in said for said in notes.said)
