from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scstore.errors import DamagedError, GenesError, NewerFormatError, OutputError
from scstore.genes.table import GeneTable, describe_genes, load_gene_table, save_gene_table, unique_names
from scstore.genes.texts import describe_by_symbol


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


def test_its_description(tmp_path: Path) -> None:
    save_gene_table(table(), tmp_path / "g.h5ad")
    assert describe_genes(tmp_path / "g.h5ad") == {
        "n_genes": 3,
        "n_encoded": 3,
        "width": 4,
        "encoder": {"kind": "test"},
        "template": "{symbol}",
        "organisms": {"human": 3},
        "texts": {"symbol": 3},
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
