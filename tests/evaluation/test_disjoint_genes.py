from __future__ import annotations

import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
from support import extract, make_cells

import scstore
from scstore.errors import FeatureSpaceError, OptionError
from scstore.evaluation.disjoint_genes import GeneSplitFeatures, deal_genes, gene_split_means
from scstore.evaluation.splits import Split
from scstore.evaluation.table_rows import ViewSource
from scstore.genes.table import GeneTable, expression_genes, load_gene_table, save_gene_table


@pytest.fixture(scope="module")
def store(evaluation_store: Path) -> scstore.Store:
    return scstore.open(evaluation_store)


def dealt(store: scstore.Store, *, fraction: float, seed: int) -> np.ndarray:
    """Which columns of X the test side gets."""
    table = expression_genes(store, purpose="")[0]
    return deal_genes(table, fraction=fraction, seed=seed)[table.obs.index.get_indexer(store.var.index)]


def symbols(store: scstore.Store, *, seed: int) -> tuple[set[str], set[str]]:
    on_test_side = dealt(store, fraction=0.5, seed=seed)
    return tuple(set(store.var["symbol"][side]) for side in (~on_test_side, on_test_side))


@pytest.mark.parametrize("fraction", [0.2, 0.9])
def test_features_are_weighted_means_over_the_genes_of_the_side_alone(store: scstore.Store, fraction: float) -> None:
    on_test_side = dealt(store, fraction=fraction, seed=0)
    assert on_test_side.sum() == 40 * fraction
    sides = gene_split_means(store, fraction=fraction, seed=0)
    table = load_gene_table(store.path.with_suffix(".genes.h5ad"))
    for columns, views in zip((~on_test_side, on_test_side), sides, strict=True):
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
    store = scstore.open(tmp_path / "a.zarr")
    train, test = gene_split_means(store, fraction=0.5, seed=0)
    changed = cells.copy()
    place = np.flatnonzero(changed.var_names.isin(symbols(store, seed=0)[1]))
    dense = changed.X.toarray()
    dense[:, place] = dense[::-1][:, place]
    scale = cells.X.toarray().sum(1, keepdims=True) / dense.sum(1, keepdims=True)
    lognorm = np.log1p(dense / dense.sum(1, keepdims=True) / scale * 1e4)
    changed = anndata.AnnData(lognorm.astype(np.float32), obs=cells.obs, var=cells.var)
    extract(changed, tmp_path / "b.zarr", llama, expression="lognorm")
    other = gene_split_means(scstore.open(tmp_path / "b.zarr"), fraction=0.5, seed=0)
    for view, rows in train.items():
        np.testing.assert_allclose(rows, other[0][view], atol=1e-4)
    assert np.abs(test["genept"] - other[1]["genept"]).max() > 0.1


def test_a_seed_deals_the_same_genes_in_every_store_of_a_table(store: scstore.Store, tmp_path: Path) -> None:
    new = make_cells(20, seed=3)[:, ::-2].copy()
    scstore.extract(new, tmp_path / "new.zarr", like=store.path)
    here, there = symbols(store, seed=4), symbols(scstore.open(tmp_path / "new.zarr"), seed=4)
    assert there[0] <= here[0]
    assert there[1] <= here[1]
    assert symbols(store, seed=5) != here == symbols(store, seed=4)


def test_each_side_is_centred_on_its_own_mean(evaluation_store: Path) -> None:
    found = scstore.evaluate(evaluation_store, label="cell_type", views=["genept"], folds=2)
    features = GeneSplitFeatures(found.cells, 0.5, 0)
    split = Split(0, "0", np.arange(60), np.arange(60, 125))
    for rows in features.sides(ViewSource("genept", ""), split):
        np.testing.assert_allclose(rows[:].mean(axis=0), 0, atol=1e-6)


def test_what_cannot_be_dealt_is_refused(store: scstore.Store, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="hold_out_genes=0.001"):
        gene_split_means(store, fraction=0.001, seed=0)
    make_cells(20).write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(FeatureSpaceError, match="cells.h5ad"):
        gene_split_means(scstore.open(tmp_path / "cells.h5ad"), fraction=0.5, seed=0)
    bare = extract(make_cells(20), tmp_path / "bare.zarr", llama, keep_expression=False)
    with pytest.raises(FeatureSpaceError, match="bare.zarr"):
        gene_split_means(bare, fraction=0.5, seed=0)


def test_the_gene_table_must_be_there_and_the_same(store: scstore.Store, tmp_path: Path) -> None:
    copied = scstore.open(shutil.copytree(store.path, tmp_path / "ref.zarr"))
    with pytest.raises(FeatureSpaceError, match="ref.genes.h5ad"):
        gene_split_means(copied, fraction=0.5, seed=0)
    table = load_gene_table(store.path.with_suffix(".genes.h5ad"))
    other = GeneTable(table.obs, table.vectors + 1, table.encoder, table.template)
    save_gene_table(other, tmp_path / "ref.genes.h5ad")
    with pytest.raises(FeatureSpaceError, match="ref.genes.h5ad"):
        gene_split_means(copied, fraction=0.5, seed=0)
