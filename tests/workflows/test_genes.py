from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import make_cells

import scstore
from scstore.errors import GenesError, ModelError, OptionError, OutputError
from scstore.genes.table import load_gene_table


@pytest.fixture
def text(tmp_path: Path) -> Path:
    rows = [f"GENE{i}\tgene number {i}\tA protein of the blood." for i in range(40)]
    (tmp_path / "genes.tsv").write_text("\n".join(["symbol\tname\tsummary", *rows]) + "\n")
    return tmp_path / "genes.tsv"


def test_texts_become_a_table_that_extraction_uses(text: Path, llama: Path, tmp_path: Path) -> None:
    table = scstore.build_genes(
        tmp_path / "g.h5ad", text=text, template="{symbol}: {name}. {summary}", encoder=str(llama), organism="human"
    )
    assert (len(table), table.width) == (40, 32)
    assert table.obs["text"].iloc[3] == "GENE3: gene number 3. A protein of the blood."
    assert load_gene_table(tmp_path / "g.h5ad").digest == table.digest
    store = scstore.extract(make_cells(), tmp_path / "s.zarr", model=str(llama), genes=str(tmp_path / "g.h5ad"))
    assert store.view("genept").space["genes"]["digest"] == table.digest
    assert not (tmp_path / "s.genes.h5ad").exists()


def test_a_table_of_the_backbone_itself_needs_no_projector(text: Path, llama: Path, tmp_path: Path) -> None:
    scstore.build_genes(tmp_path / "g.h5ad", text=text, encoder=str(llama))
    genes = str(tmp_path / "g.h5ad")
    store = scstore.extract(make_cells(), tmp_path / "s.zarr", model=str(llama), genes=genes, projector="native")
    assert store.is_complete


def test_another_width_needs_a_projector(text: Path, llama: Path, tmp_path: Path) -> None:
    scstore.build_genes(tmp_path / "g.h5ad", text=text, encoder="random:20")
    genes = str(tmp_path / "g.h5ad")
    with pytest.raises(OptionError, match="20 wide, the model 32"):
        scstore.extract(make_cells(), tmp_path / "s.zarr", model=str(llama), genes=genes, projector="native")
    store = scstore.extract(make_cells(), tmp_path / "t.zarr", model=str(llama), genes=genes)
    assert (store.view("readout").shape[1], store.view("genept").shape[1]) == (32, 20)


def test_random_vectors_are_the_same_in_every_table(tmp_path: Path) -> None:
    for name, cells in (("a", make_cells(5)), ("b", make_cells(5)[:, 10:].copy())):
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
        scstore.build_genes(tmp_path / f"{name}g.h5ad", cells=tmp_path / f"{name}.h5ad", encoder="random:8")
    a, b = (load_gene_table(tmp_path / f"{name}g.h5ad") for name in "ab")
    np.testing.assert_array_equal(a.vectors[10:], b.vectors)


def test_symbols_of_cells_are_texts(tmp_path: Path, llama: Path) -> None:
    make_cells(3).write_h5ad(tmp_path / "c.h5ad")
    table = scstore.build_genes(tmp_path / "g.h5ad", cells=tmp_path / "c.h5ad", encoder=str(llama))
    assert list(table.obs["text"]) == [f"GENE{i}" for i in range(40)]
    assert set(table.obs["text_source"]) == {"symbol"}


def test_mistakes_are_found_before_any_model_loads(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "g.h5ad"
    with pytest.raises(OptionError, match="one of --text"):
        scstore.build_genes(out)
    with pytest.raises(OptionError, match="one of --text"):
        scstore.build_genes(out, text=text, cells=text)
    make_cells(3).write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(OptionError, match="--template goes with --text"):
        scstore.build_genes(out, cells=tmp_path / "c.h5ad", template="{symbol}")
    with pytest.raises(GenesError, match="no column 'words'"):
        scstore.build_genes(out, text=text, template="{words}", encoder="./nowhere")
    with pytest.raises(ModelError, match="no such folder"):
        scstore.build_genes(out, text=text, encoder="./nowhere")
    out.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        scstore.build_genes(out, text=text, encoder="random:4")
    assert out.read_text() == "mine"


INFO = "#tax_id\tGeneID\tSymbol\tSynonyms\tdbXrefs\tdescription\ttype_of_gene\tFull_name_from_nomenclature_authority"


def test_ncbi_files_become_a_table(tmp_path: Path) -> None:
    (tmp_path / "info").write_text(f"{INFO}\n9606\t1\tA1BG\t-\t-\tglycoprotein\tprotein-coding\t-\n")
    (tmp_path / "summary").write_text("#tax_id\tGeneID\tSource\tSummary\n9606\t1\tRefSeq\tPlasma.\n")
    files = {"gene_info": tmp_path / "info", "gene_summary": tmp_path / "summary"}
    table = scstore.build_genes(tmp_path / "g.h5ad", **files, organism="human", encoder="random:4")
    assert list(load_gene_table(tmp_path / "g.h5ad").obs["text"]) == ["A1BG: glycoprotein. Plasma."]
    assert table.template == "{symbol}: {name}. {summary}"
    with pytest.raises(OptionError, match="--organism human or mouse"):
        scstore.build_genes(tmp_path / "h.h5ad", **files, encoder="random:4")
    with pytest.raises(OptionError, match="go together"):
        scstore.build_genes(tmp_path / "h.h5ad", **files, organism="human", orthologs="o.csv", encoder="random:4")
