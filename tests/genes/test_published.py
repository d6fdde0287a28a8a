from __future__ import annotations

import gzip
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from scstore import fsio
from scstore.errors import GenesError
from scstore.genes.orthologs import read_orthologs
from scstore.genes.published import FIELDS, describe_by_ncbi, read_gene_info, read_published, read_summaries
from scstore.genes.table import coverage, load_gene_table, save_gene_table

NAMES = ["CD3D", "LYZ", "ENSG00000105374.9"]
VECTORS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
Write = Callable[[Path], None]


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(VECTORS, columns=list("abcd"), **columns)


FORMS: dict[str, Write] = {
    "lists.pickle": lambda path: path.write_bytes(pickle.dumps(dict(zip(NAMES, VECTORS.tolist(), strict=True)))),
    "arrays.pkl": lambda path: path.write_bytes(pickle.dumps(dict(zip(NAMES, VECTORS, strict=True)), protocol=4)),
    "lists.pkl": lambda path: path.write_bytes(pickle.dumps(dict(zip(NAMES, VECTORS.tolist(), strict=True)), 4)),
    "index.parquet": lambda path: frame(index=NAMES).to_parquet(path),
    "column.parquet": lambda path: frame().assign(gene=NAMES).to_parquet(path),
    "first.parquet": lambda path: frame().assign(x=NAMES)[["x", *"abcd"]].to_parquet(path),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_table(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    FORMS[name](path)
    table = read_published(path, organism="human")
    np.testing.assert_array_equal(table.vectors, VECTORS)
    assert list(table.obs.index) == ["CD3D", "LYZ", "ENSG00000105374"]
    assert list(table.obs["ensembl_id"]) == ["", "", "ENSG00000105374"]
    assert set(table.obs["organism"]) == {"human"}
    assert set(table.obs["text_source"]) == {"published"}
    assert table.encoder == {"kind": "published", "file": name, "digest": fsio.digest_file(path)}
    save_gene_table(table, tmp_path / "saved.h5ad")
    assert load_gene_table(tmp_path / "saved.h5ad").digest == table.digest


def mapping(**vectors: Any) -> Write:
    return lambda path: path.write_bytes(pickle.dumps(vectors))


BAD: dict[str, Write] = {
    "ragged.pkl": mapping(A=[1.0, 2.0], B=[1.0]),
    "nan.pkl": mapping(A=[1.0], B=[float("nan")]),
    "huge.pkl": mapping(A=[1.0], B=[1e300]),
    "words.pkl": mapping(B=["x"]),
    "nested.pkl": mapping(B=[[1.0]]),
    "scalar.pkl": mapping(B=1.0),
    "uneven.pkl": mapping(B=[[1.0], [1.0, 2.0]]),
    "none.pkl": mapping(B=None),
    "width0.pkl": mapping(B=[]),
    "empty.pkl": mapping(),
    "blank.pkl": mapping(**{"": [1.0]}),
    "keys.pkl": lambda path: path.write_bytes(pickle.dumps({7: [1.0]})),
    "versions.pkl": mapping(**{"ENSG00000167286.1": [1.0], "ENSG00000167286.2": [2.0]}),
    "twice.parquet": lambda path: frame(index=["A", "A", "B"]).to_parquet(path),
    "text.parquet": lambda path: frame().assign(gene=NAMES, x="y").to_parquet(path),
    "half.parquet": lambda path: path.write_bytes(b"PAR1\0\0"),
    "vectors.npz": lambda path: np.savez(path, genes=np.array(["A"]), vectors=np.eye(1)),
    "packed.pickle.gz": lambda path: path.write_bytes(gzip.compress(b"x")),
    "words.csv": lambda path: path.write_text("a,b\n") and None,
    "absent.pkl": lambda path: None,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_vectors_are_refused_and_named(tmp_path: Path, name: str) -> None:
    BAD[name](tmp_path / name)
    with pytest.raises(GenesError, match=name) as caught:
        read_published(tmp_path / name)
    if name in ("ragged.pkl", "nan.pkl", "huge.pkl", "words.pkl", "nested.pkl", "scalar.pkl"):
        assert "'B'" in str(caught.value)


@pytest.mark.parametrize("name", ["one vector", "lists of lists", "long words", "one number"])
def test_vectors_that_unfold(tmp_path: Path, name: str) -> None:
    """RELIABILITY 63: a little is named many times."""
    row, path = [1.5] * (1 << 15), tmp_path / "vectors"
    if name == "one number":
        pd.DataFrame({f"d{i}": np.zeros(200_000, "f4") for i in range(100)}).to_parquet(path)
    else:
        shared: Any = {"one vector": row, "lists of lists": [row] * 1000, "long words": ["x" * (1 << 20)] * 1000}[name]
        path.write_bytes(pickle.dumps({f"G{i}": shared for i in range(4000)}))
    tracemalloc.start()
    with pytest.raises(GenesError, match="would take" if name.startswith("one") else "is not a list of numbers"):
        read_published(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()


HEADER = (
    "#tax_id\tGeneID\tSymbol\tLocusTag\tSynonyms\tdbXrefs\tchromosome\tmap_location\tdescription\ttype_of_gene\t"
    "Symbol_from_nomenclature_authority\tFull_name_from_nomenclature_authority\tNomenclature_status\t"
    "Other_designations\tModification_date\tFeature_type\n"
)


def line(tax: int, gene: int, symbol: str, *, name: str = "-", xrefs: str = "-", kind: str = "protein-coding") -> str:
    return (
        f"{tax}\t{gene}\t{symbol}\t-\tS1|S2\t{xrefs}\t1\t1p\tdescribed {symbol}\t{kind}\t-\t{name}\tO\t-\t20210101\t-\n"
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    human = (
        line(9606, 915, "CD3D", name="CD3 delta", xrefs="MIM:1|HGNC:HGNC:2|Ensembl:ENSG00000167286")
        + line(9606, 4069, "LYZ")
        + line(9606, 7, "REGION", kind="biological-region")
        + line(10090, 8, "Other")
    )
    mouse = line(10090, 12500, "Cd3d", name="CD3 antigen") + line(10090, 17105, "Lyz2") + line(10090, 9, "Own")
    summaries = "9606\t915\tRefSeq\tPart of the T-cell receptor.\n10090\t9\tRefSeq\tIts own.\n"
    found = {name: tmp_path / name for name in ("human.gz", "mouse", "summary.gz", "orthologs.csv")}
    found["human.gz"].write_bytes(gzip.compress((HEADER + human).encode()))
    found["mouse"].write_text(HEADER + mouse)
    found["summary.gz"].write_bytes(gzip.compress(("#tax_id\tGeneID\tSource\tSummary\n" + summaries).encode()))
    found["orthologs.csv"].write_text("human,mouse\nCD3D,Cd3d\nLYZ,Lyz1\nLYZ,Lyz2\nMT-TF,\n")
    return found


def test_genes_of_the_organism_alone_and_no_regions(files: dict[str, Path]) -> None:
    genes = read_gene_info(files["human.gz"], organism="human")
    assert list(genes["symbol"]) == ["CD3D", "LYZ"]
    assert list(genes["ensembl_id"]) == ["ENSG00000167286", ""]
    assert list(genes["name"]) == ["CD3 delta", "described LYZ"]
    assert list(genes["synonyms"]) == ["S1|S2", "S1|S2"]


def test_a_summary_falls_back_to_the_orthologs_then_to_the_name(files: dict[str, Path]) -> None:
    human = read_gene_info(files["human.gz"], organism="human")
    mouse = read_gene_info(files["mouse"], organism="mouse")
    summaries = read_summaries(files["summary.gz"])
    obs, template = describe_by_ncbi(
        mouse,
        summaries,
        organism="mouse",
        orthologs=read_orthologs(files["orthologs.csv"]).symbols("mouse"),
        ortholog_genes=human,
    )
    assert list(obs["text_source"]) == ["ortholog summary", "name", "summary"]
    assert list(obs["text"]) == [
        "Cd3d: CD3 antigen. Part of the T-cell receptor.",
        "Lyz2: described Lyz2.",
        "Own: described Own. Its own.",
    ]
    assert template == "{symbol}: {name}. {summary}"
    assert coverage(obs).count("33%") == 3


def test_empty_fields_leave_no_punctuation(files: dict[str, Path]) -> None:
    genes = read_gene_info(files["human.gz"], organism="human").assign(name="")
    obs, _ = describe_by_ncbi(genes, {}, organism="human")
    assert list(obs["text"]) == ["CD3D.", "LYZ."]
    assert set(obs["text_source"]) == {"symbol"}


def test_files_of_another_form_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\tworld\n1\t2\n")
    whole = files["human.gz"].read_bytes()
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    for name in ("text", "cut.gz", "absent"):
        with pytest.raises(GenesError, match=name):
            read_gene_info(tmp_path / name, organism="human")
        with pytest.raises(GenesError, match=name):
            read_summaries(tmp_path / name)
    with pytest.raises(GenesError, match="human_only"):
        mouse_free = tmp_path / "human_only"
        mouse_free.write_text(HEADER + line(9606, 1, "A"))
        read_gene_info(mouse_free, organism="mouse")


def test_a_template_names_its_fields(files: dict[str, Path]) -> None:
    genes = read_gene_info(files["human.gz"], organism="human")
    with pytest.raises(GenesError, match=r"\{name\}, \{summary\}"):
        describe_by_ncbi(genes, {}, organism="human", template="{words}")


def test_a_template_may_use_all_that_the_files_say(files: dict[str, Path]) -> None:
    genes = read_gene_info(files["human.gz"], organism="human")
    genes["other_designations"] = ["delta chain|T3D", ""]
    summaries = read_summaries(files["summary.gz"])
    template = " / ".join(f"{{{name}}}" for name in FIELDS)
    obs, _ = describe_by_ncbi(genes, summaries, organism="human", template=template)
    assert obs["text"].iloc[0] == (
        "CD3D / CD3 delta / Part of the T-cell receptor. / protein-coding / human / S1, S2 / delta chain, T3D / 1 / 1p "
        "/ 915 / ENSG00000167286"
    )
    optional = "{symbol}.[ Also named {other_designations}.] On {map_location}."
    obs, _ = describe_by_ncbi(genes, summaries, organism="human", template=optional)
    assert list(obs["text"]) == ["CD3D. Also named delta chain, T3D. On 1p.", "LYZ. On 1p."]


def test_the_real_files_cover_what_blood_and_pancreas_express(shared: Path) -> None:
    """Own summaries: ≥ 70 % of a human blood cell's 2,048 most expressed genes; mouse ≥ 65 % with orthologs."""
    folder = shared / "genes"
    human = read_gene_info(folder / "Homo_sapiens.gene_info.gz", organism="human")
    mouse = read_gene_info(folder / "Mus_musculus.gene_info.gz", organism="mouse")
    summaries = read_summaries(folder / "gene_summary.gz")
    orthologs = read_orthologs(folder / "human_mouse_orthologs.csv").symbols("mouse")
    to_mouse = {human: mouse for mouse, human in orthologs.items()}
    cells = anndata.read_h5ad(shared / "cells" / "pbmc_donorA_unlabelled.h5ad")
    top = cells.var_names[np.argsort(-np.asarray(cells.X.sum(axis=0)).ravel())[:2048]]
    of_top, _ = describe_by_ncbi(human[human["symbol"].isin(top)], summaries, organism="human")
    assert (of_top["text_source"] == "summary").sum() >= 0.70 * len(top)
    pancreas = anndata.read_h5ad(shared / "cells" / "pancreas_human_mouse.h5ad")
    counts = np.asarray(pancreas[pancreas.obs["species"] == "mouse"].X.sum(axis=0)).ravel()
    names = [to_mouse.get(name, "") for name in pancreas.var_names[np.argsort(-counts)[:2048]]]
    of_mouse, _ = describe_by_ncbi(
        mouse[mouse["symbol"].isin(names)], summaries, organism="mouse", orthologs=orthologs, ortholog_genes=human
    )
    assert of_mouse["text_source"].isin(["summary", "ortholog summary"]).mean() >= 0.65
