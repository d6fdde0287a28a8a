from __future__ import annotations

import gzip
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import Notes, make_cells

import scstore
from scstore.errors import GenesError, MissingExtraError, ModelError, OptionError, OutputError
from scstore.gene_tables import encoding
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
    with pytest.raises(OptionError, match="20"):
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
    with pytest.raises(OptionError, match="text="):
        scstore.build_genes(out)
    with pytest.raises(OptionError, match="text="):
        scstore.build_genes(out, text=text, cells=text)
    make_cells(3).write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(OptionError, match="template="):
        scstore.build_genes(out, cells=tmp_path / "c.h5ad", template="{symbol}")
    with pytest.raises(GenesError, match="words"):
        scstore.build_genes(out, text=text, template="{words}", encoder="./nowhere")
    with pytest.raises(ModelError, match="nowhere"):
        scstore.build_genes(out, text=text, encoder="./nowhere")
    out.write_text("mine")
    with pytest.raises(OutputError):
        scstore.build_genes(out, text=text, encoder="random:4")
    assert out.read_text() == "mine"


INFO = (
    "#tax_id\tGeneID\tSymbol\tSynonyms\tdbXrefs\tdescription\ttype_of_gene\tFull_name_from_nomenclature_authority\t"
    "chromosome\tmap_location\tOther_designations"
)


def test_ncbi_files_become_a_table(tmp_path: Path) -> None:
    (tmp_path / "info").write_text(f"{INFO}\n9606\t1\tA1BG\t-\t-\tglycoprotein\tprotein-coding\t-\t-\t-\t-\n")
    (tmp_path / "summary").write_text("#tax_id\tGeneID\tSource\tSummary\n9606\t1\tRefSeq\tPlasma.\n")
    files = {"gene_info": tmp_path / "info", "gene_summary": tmp_path / "summary"}
    table = scstore.build_genes(tmp_path / "g.h5ad", **files, organism="human", encoder="random:4")
    assert list(load_gene_table(tmp_path / "g.h5ad").obs["text"]) == ["A1BG: glycoprotein. Plasma."]
    assert table.template == "{symbol}: {name}. {summary}"
    with pytest.raises(OptionError, match="organism="):
        scstore.build_genes(tmp_path / "h.h5ad", **files, encoder="random:4")
    with pytest.raises(OptionError, match="ortholog_gene_info="):
        scstore.build_genes(tmp_path / "h.h5ad", **files, organism="human", orthologs="o.csv", encoder="random:4")


def test_only_the_genes_of_some_cells_are_encoded(
    text: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gene has the vector it would have in the whole table; cells and panels add up; the others have names."""
    monkeypatch.setattr(encoding, "SPREAD", 0)
    cells = make_cells(30)
    cells[:3, [7, 3]].copy().write_h5ad(tmp_path / "a.h5ad")
    genes = scstore.panel(cells[:, [3, 20]].copy(), tmp_path / "b.h5ad", label_free=True, n_genes=2)
    assert set(genes.obs.index) == {"GENE3", "GENE20"}
    notes = Notes()
    how = {"text": text, "encoder": str(llama)}
    whole = scstore.build_genes(tmp_path / "whole.h5ad", **how)
    both = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    some = scstore.build_genes(tmp_path / "some.h5ad", only_genes_of=both, progress=notes, **how)
    assert list(some.obs["symbol"]) == list(whole.obs["symbol"])
    assert np.flatnonzero(some.encoded).tolist() == [3, 7, 20]
    np.testing.assert_allclose(some.vectors[[3, 7, 20]], whole.vectors[[3, 7, 20]], atol=1e-5)
    assert "genes: 3 of 40 are genes of" in notes.said[1]
    assert load_gene_table(tmp_path / "some.h5ad").info["n_encoded"] == 3
    one = scstore.build_genes(tmp_path / "one.h5ad", only_genes_of=tmp_path / "a.h5ad", **how)
    assert np.flatnonzero(one.encoded).tolist() == [3, 7]
    renamed = cells.copy()
    renamed.var_names = [f"OTHER{i}" for i in range(renamed.n_vars)]
    renamed.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(GenesError, match="other.h5ad"):
        scstore.build_genes(tmp_path / "none.h5ad", only_genes_of=tmp_path / "other.h5ad", **how)
    for source in ({"vectors": "v.pkl"}, {"cells": tmp_path / "a.h5ad", "encoder": "random:4"}):
        with pytest.raises(OptionError, match="only_genes_of="):
            scstore.build_genes(tmp_path / "none.h5ad", only_genes_of=both, **source)
    assert not (tmp_path / "none.h5ad").exists()


HUMAN = "9606\t915\tCD3D\tT3D\tEnsembl:ENSG00000167286\tx\tprotein-coding\tCD3 delta\t-\t-\t-\n"
MOUSE = "10090\t12500\tCd3d\t-\tEnsembl:ENSMUSG00000032094\tx\tprotein-coding\tCD3 antigen\t-\t-\t-\n"
SERVED = {
    "/GENE_INFO/Mammalia/Homo_sapiens.gene_info.gz": f"{INFO}\n{HUMAN}",
    "/GENE_INFO/Mammalia/Mus_musculus.gene_info.gz": f"{INFO}\n{MOUSE}",
    "/gene_summary.gz": "#tax_id\tGeneID\tSource\tSummary\n9606\t915\tRefSeq\tPart of the TCR.\n",
    "/gene_orthologs.gz": (
        "#tax_id\tGeneID\trelationship\tOther_tax_id\tOther_GeneID\n9606\t915\tOrtholog\t10090\t12500\n"
    ),
}


def test_a_mouse_gene_takes_the_summary_of_its_human_ortholog(tmp_path: Path) -> None:
    places = {name: tmp_path / name.rsplit("/", 1)[-1] for name in SERVED}
    for name, text in SERVED.items():
        places[name].write_bytes(gzip.compress(text.encode()))
    human, mouse, summary, orthologs = (places[name] for name in SERVED)
    table = scstore.build_genes(
        tmp_path / "mouse.h5ad",
        gene_info=mouse,
        gene_summary=summary,
        orthologs=orthologs,
        ortholog_gene_info=human,
        organism="mouse",
        encoder="random:4",
    )
    assert list(table.obs["text"]) == ["Cd3d: CD3 antigen. Part of the TCR."]
    assert list(table.obs["text_source"]) == ["ortholog summary"]


def test_published_vectors_become_a_table_that_extraction_uses(llama: Path, tmp_path: Path) -> None:
    vectors = {f"GENE{i}": np.random.default_rng(i).standard_normal(6).tolist() for i in range(40)}
    (tmp_path / "GenePT.pickle").write_bytes(pickle.dumps(vectors))
    notes = Notes()
    table = scstore.build_genes(tmp_path / "g.h5ad", vectors=tmp_path / "GenePT.pickle", progress=notes)
    assert set(table.obs["organism"]) == {"human"}  # guessed
    assert load_gene_table(tmp_path / "g.h5ad").encoder["file"] == "GenePT.pickle"
    assert "published vectors 6 wide" in notes.said[0]
    store = scstore.extract(make_cells(), tmp_path / "s.zarr", model=str(llama), genes=str(tmp_path / "g.h5ad"))
    assert store.view("genept").shape == (60, 6)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"vectors": "v", "text": "t"}, "text= and vectors="),
        ({"vectors": "v", "encoder": "minilm"}, "encoder='minilm'"),
        ({"vectors": "v", "template": "{symbol}"}, "template='{symbol}'"),
        ({"vectors": "v", "gene_info": "i"}, "gene_info= and vectors="),
        ({"text": "t", "gene_summary": "s"}, "gene_summary='s'"),
        ({"text": "t", "orthologs": "o"}, "orthologs='o'"),
        ({"text": "t", "encoder": "openai:m", "device": "cpu"}, "device='cpu'"),
        ({"text": "t", "enncoder": "minilm"}, "encoder="),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: dict[str, str], named: str) -> None:
    with pytest.raises(OptionError, match=re.escape(named)):
        scstore.build_genes(tmp_path / "g.h5ad", **options)
    assert not list(tmp_path.iterdir())


def test_encoders_without_a_model_need_no_torch(text: Path, tmp_path: Path) -> None:
    """Published and random vectors, and an endpoint's, on a laptop that has the base install."""
    script = (
        "import sys, scstore, json; sys.modules['torch'] = None\n"
        f"scstore.build_genes('g.h5ad', text={str(text)!r}, encoder='random:4')\n"
        "import scstore.gene_tables.endpoint\n"
        "print(json.dumps(sorted({'transformers', 'accelerate'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_without_the_extra_for_endpoints(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "scstore.gene_tables.endpoint", raising=False)
    with pytest.raises(MissingExtraError, match=r"scstore\[endpoint\]"):
        scstore.build_genes(tmp_path / "g.h5ad", text=text, encoder="openai:m")
