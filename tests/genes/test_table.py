from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scstore.errors import DamagedError, GenesError, NewerFormatError, OutputError
from scstore.genes.table import (
    GeneTable,
    check_template,
    describe_by_symbol,
    fill_template,
    load_gene_table,
    read_descriptions,
    save_gene_table,
    unique_names,
)


def table(seed: int = 0) -> GeneTable:
    obs, template = describe_by_symbol(["CD3D", "LYZ", "RP11-206L10.2"], organism="human")
    return GeneTable(obs, np.random.default_rng(seed).random((3, 4), dtype=np.float32), {"kind": "test"}, template)


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    written = table()
    save_gene_table(written, tmp_path / "g.h5ad")
    read = load_gene_table(tmp_path / "g.h5ad")
    assert read.digest == written.digest
    assert read.obs.equals(written.obs)
    np.testing.assert_array_equal(read.vectors, written.vectors)
    assert (read.encoder, read.template) == ({"kind": "test"}, "{symbol}")


def test_its_description() -> None:
    assert table().info == {
        "n_genes": 3,
        "n_encoded": 3,
        "width": 4,
        "encoder": {"kind": "test"},
        "template": "{symbol}",
        "organisms": {"human": 3},
        "coverage": "symbol 3 (100%)",
        "digest": table().digest,
    }


def test_it_is_a_plain_anndata(tmp_path: Path) -> None:
    save_gene_table(table(), tmp_path / "g.h5ad")
    adata = anndata.read_h5ad(tmp_path / "g.h5ad")
    assert adata.shape == (3, 4)
    assert list(adata.obs["symbol"]) == ["CD3D", "LYZ", "RP11-206L10.2"]


def test_the_digest_sees_vectors_and_names() -> None:
    first, other = table(0), table(1)
    assert first.digest != other.digest
    renamed = GeneTable(first.obs.assign(symbol=["a", "b", "c"]), first.vectors, first.encoder, first.template)
    assert renamed.digest != first.digest


def test_a_changed_vector_is_found(tmp_path: Path) -> None:
    import h5py

    save_gene_table(table(), tmp_path / "g.h5ad")
    with h5py.File(tmp_path / "g.h5ad", "r+") as file:
        file["X"][0, 0] = 7
    with pytest.raises(DamagedError):
        load_gene_table(tmp_path / "g.h5ad")


def test_what_is_no_gene_table_is_refused(tmp_path: Path) -> None:
    anndata.AnnData(np.zeros((2, 2))).write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "text").write_text("hello")
    for name in ("cells.h5ad", "text", "absent"):
        with pytest.raises(GenesError, match=name):
            load_gene_table(tmp_path / name)


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    save_gene_table(table(), tmp_path / "g.h5ad")
    adata = anndata.read_h5ad(tmp_path / "g.h5ad")
    adata.uns["scstore"]["genes"] = adata.uns["scstore"]["genes"].replace('"format": "1.0"', '"format": "2.0"')
    adata.write_h5ad(tmp_path / "g.h5ad")
    with pytest.raises(NewerFormatError, match=r"2\.0"):
        load_gene_table(tmp_path / "g.h5ad")


def test_an_existing_table_is_kept(tmp_path: Path) -> None:
    save_gene_table(table(), tmp_path / "g.h5ad")
    with pytest.raises(OutputError):
        save_gene_table(table(), tmp_path / "g.h5ad")


@given(st.lists(st.sampled_from(["A", "A-1", "B", "A-1-1", "-1"])))
def test_unique_names_are_unique_and_keep_first_ones(symbols: list[str]) -> None:
    names = list(unique_names(symbols))
    assert len(set(names)) == len(names) == len(symbols)
    for symbol in set(symbols):
        assert names[symbols.index(symbol)] == symbol


TSV = "symbol\tensembl_id\tname\tsummary\nCD3D\tENSG00000167286\tCD3 delta\tPart of the TCR.\nLYZ\t\tlysozyme\t\n"


def test_a_template_puts_columns_together(tmp_path: Path) -> None:
    (tmp_path / "g.tsv").write_text(TSV)
    obs, template = read_descriptions(tmp_path / "g.tsv", template="{symbol}: {name}. {summary}", organism="human")
    assert list(obs["text"]) == ["CD3D: CD3 delta. Part of the TCR.", "LYZ: lysozyme."]
    assert template == "{symbol}: {name}. {summary}"
    assert list(obs["ensembl_id"]) == ["ENSG00000167286", ""]
    assert set(obs["organism"]) == {"human"}


def test_a_gene_without_text_is_described_by_its_symbol(tmp_path: Path) -> None:
    (tmp_path / "g.tsv").write_text(TSV)
    obs, _ = read_descriptions(tmp_path / "g.tsv", template="{summary}")
    assert list(obs["text"]) == ["Part of the TCR.", "LYZ"]
    assert list(obs["text_source"]) == ["template", "symbol"]


def test_json_of_texts(tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text(json.dumps({"CD3D": "T cells", "LYZ": None}))
    obs, template = read_descriptions(tmp_path / "g.json")
    assert (list(obs["text"]), template) == (["T cells", "LYZ"], "{text}")


def test_symbols_alone() -> None:
    obs, template = describe_by_symbol(["A", "B", "A"], organism="mouse")
    assert list(obs.index) == ["A", "B", "A-1"]
    assert list(obs["text"]) == ["A", "B", "A"]
    assert (set(obs["text_source"]), template) == ({"symbol"}, "{symbol}")


@pytest.mark.parametrize(
    ("name", "content", "template"),
    [
        ("g.tsv", "gene\ttext\nA\tx\n", None),
        ("g.tsv", "symbol\ttext\nA\tx\n\ty\n", None),
        ("g.tsv", "symbol\ttext\nA\tx\n", "{summary}"),
        ("g.tsv", "", None),
        ("g.tsv", "symbol\ttext\n", None),
        ("g.json", "{", None),
        ("g.json", "[1]", None),
        ("g.json", None, None),
    ],
)
def test_bad_tables_are_refused_by_name(tmp_path: Path, name: str, content: str | None, template: str | None) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(GenesError, match=name):
        read_descriptions(tmp_path / name, template=template)


ROW = {"symbol": "CD3D", "name": "CD3 delta", "synonyms": ""}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{symbol}: {name}.", "CD3D: CD3 delta."),
        ("{symbol}[ ({synonyms})]", "CD3D"),
        ("{symbol}[ ({name})][ or {synonyms}]", "CD3D (CD3 delta)"),
        ("{symbol}[, {name} or {synonyms}]", "CD3D"),
        ("[protein] {symbol}", "[protein] CD3D"),
        ("{symbol:>6}", "CD3D"),
    ],
)
def test_fields_and_optional_parts(template: str, text: str) -> None:
    check_template(template, list(ROW), source="here")
    assert fill_template(template, ROW) == text


@pytest.mark.parametrize("template", ["{symbol", "{words}", "{symbol.__class__}", "{symbol:d}", "{}"])
def test_a_template_is_checked_before_any_gene(template: str) -> None:
    with pytest.raises(GenesError):
        check_template(template, list(ROW), source="here")


def test_a_misspelt_field_gets_a_suggestion() -> None:
    with pytest.raises(GenesError, match=r"'nam'.* name\?"):
        check_template("{nam}", list(ROW), source="here")
