from __future__ import annotations

import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
from support import extract, make_cells

import scstore
from scstore.errors import FeatureSpaceError, OptionError
from scstore.evaluation.disjoint_genes import centred, gene_split_features
from scstore.genes.table import GeneTable, load_gene_table, save_gene_table


@pytest.fixture(scope="module")
def store(evaluation_store: Path) -> scstore.Store:
    return scstore.open(evaluation_store)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_no_gene_is_on_both_sides_and_none_is_lost(store: scstore.Store, fraction: float) -> None:
    split = gene_split_features(store, fraction=fraction, seed=1)
    assert not set(split.train_genes) & set(split.test_genes)
    assert sorted(split.train_genes + split.test_genes) == sorted(store.var["symbol"])
    assert len(split.test_genes) == pytest.approx(40 * fraction, abs=1)


def test_features_are_weighted_means_over_the_genes_of_the_side_alone(store: scstore.Store) -> None:
    split = gene_split_features(store, fraction=0.5, seed=0)
    table = load_gene_table(store.path.with_suffix(".genes.h5ad"))
    for genes, views in ((split.train_genes, split.train), (split.test_genes, split.test)):
        columns = store.var["symbol"].isin(genes).to_numpy()
        expression = store.view("X")[:].toarray() * columns
        vectors = table.vectors[table.obs.index.get_indexer(store.var.index)]
        means = expression @ vectors
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        expected = means / np.where(lengths > 0, lengths, 1)
        np.testing.assert_allclose(views["genept_unwhitened"], expected, atol=1e-5)
        for rows in views.values():
            norms = np.linalg.norm(rows, axis=1)
            np.testing.assert_allclose(norms[expression.any(axis=1)], 1, atol=1e-5)
            assert (norms[~expression.any(axis=1)] == 0).all()


def test_what_the_other_side_expresses_changes_nothing(llama: Path, tmp_path: Path) -> None:
    """Counts of one side's genes are shuffled; the features of the other side, less the library size, stay."""
    cells = make_cells(30)
    extract(cells, tmp_path / "a.zarr", llama)
    split = gene_split_features(scstore.open(tmp_path / "a.zarr"), fraction=0.5, seed=0)
    changed = cells.copy()
    place = np.flatnonzero(changed.var_names.isin(split.test_genes))
    dense = changed.X.toarray()
    dense[:, place] = dense[::-1][:, place]
    scale = cells.X.toarray().sum(1, keepdims=True) / dense.sum(1, keepdims=True)
    lognorm = np.log1p(dense / dense.sum(1, keepdims=True) / scale * 1e4)
    changed = anndata.AnnData(lognorm.astype(np.float32), obs=cells.obs, var=cells.var)
    extract(changed, tmp_path / "b.zarr", llama, expression="lognorm")
    other = gene_split_features(scstore.open(tmp_path / "b.zarr"), fraction=0.5, seed=0)
    for view in split.train:
        np.testing.assert_allclose(split.train[view], other.train[view], atol=1e-4)
    assert np.abs(split.test["genept"] - other.test["genept"]).max() > 0.1


def test_a_seed_deals_the_same_genes_in_every_store_of_a_table(store: scstore.Store, tmp_path: Path) -> None:
    new = make_cells(20, seed=3)[:, ::-2].copy()
    scstore.extract(new, tmp_path / "new.zarr", like=store.path)
    here = gene_split_features(store, fraction=0.5, seed=4)
    there = gene_split_features(scstore.open(tmp_path / "new.zarr"), fraction=0.5, seed=4)
    assert set(there.test_genes) <= set(here.test_genes)
    assert set(there.train_genes) <= set(here.train_genes)
    assert gene_split_features(store, fraction=0.5, seed=4).test_genes == here.test_genes
    assert gene_split_features(store, fraction=0.5, seed=5).test_genes != here.test_genes


def test_centred_rows_have_no_mean() -> None:
    rows = np.random.default_rng(0).normal(3, 1, (20, 4)).astype(np.float32)
    np.testing.assert_allclose(centred(rows).mean(axis=0), 0, atol=1e-6)


def test_what_cannot_be_dealt_is_refused(store: scstore.Store, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--hold-out-genes 0.001"):
        gene_split_features(store, fraction=0.001, seed=0)
    make_cells(20).write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(FeatureSpaceError, match="did not extract"):
        gene_split_features(scstore.open(tmp_path / "cells.h5ad"), fraction=0.5, seed=0)
    bare = extract(make_cells(20), tmp_path / "bare.zarr", llama, keep_expression=False)
    with pytest.raises(FeatureSpaceError, match="--no-expression"):
        gene_split_features(bare, fraction=0.5, seed=0)


def test_the_gene_table_must_be_there_and_the_same(store: scstore.Store, tmp_path: Path) -> None:
    copied = scstore.open(shutil.copytree(store.path, tmp_path / "ref.zarr"))
    with pytest.raises(FeatureSpaceError, match="not there"):
        gene_split_features(copied, fraction=0.5, seed=0)
    table = load_gene_table(store.path.with_suffix(".genes.h5ad"))
    other = GeneTable(table.obs, table.vectors + 1, table.encoder, table.template)
    save_gene_table(other, tmp_path / "ref.genes.h5ad")
    with pytest.raises(FeatureSpaceError, match="another gene table"):
        gene_split_features(copied, fraction=0.5, seed=0)
