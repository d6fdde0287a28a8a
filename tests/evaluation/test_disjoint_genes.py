from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from support import extract, make_cells

import scstore
from scstore.errors import FeatureSpaceError, OptionError
from scstore.evaluation.cells import gather_cells
from scstore.evaluation.design import Split, ViewSource
from scstore.evaluation.disjoint_genes import GeneSplitFeatures, deal_genes
from scstore.genes.table import GeneTable, expression_genes, load_gene_table, save_gene_table

VIEWS = ("genept", "genept_unwhitened", "genept_random")


@pytest.fixture(scope="module")
def store(evaluation_store: Path) -> scstore.Store:
    return scstore.open(evaluation_store)


def sides(store: scstore.Store, *, fraction: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """By view the features of all cells, as those to train on and as those to test on."""
    how: dict[str, Any] = {"missing": (), "group": None, "train_on": (), "test_on": (), "min_cells": 1}
    cells = gather_cells([store], label="cell_type", allow_partial=False, **how)
    every = np.arange(len(cells))
    features = GeneSplitFeatures(cells, fraction, seed)
    return {view: features.sides(ViewSource(view, ""), Split(0, "0", every, every)) for view in VIEWS}


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
    table = load_gene_table(store.path.with_suffix(".genes.h5ad"))
    vectors = table.vectors[table.obs.index.get_indexer(store.var.index)]
    found = sides(store, fraction=fraction)["genept_unwhitened"]
    for columns, rows in zip((~on_test_side, on_test_side), found, strict=True):
        expression = store.view("X")[store.usable_rows(allow_partial=False)].toarray() * columns
        means = expression @ vectors
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        expected = means / np.where(lengths > 0, lengths, 1)
        np.testing.assert_allclose(rows, expected - expected.mean(axis=0), atol=1e-5)


def test_what_the_other_side_expresses_changes_nothing(llama: Path, tmp_path: Path) -> None:
    """Counts of one side's genes are shuffled; the features of the other side, less the library size, stay."""
    cells = make_cells(30)
    extract(cells, tmp_path / "a.zarr", llama)
    store = scstore.open(tmp_path / "a.zarr")
    found = sides(store)
    changed = cells.copy()
    place = np.flatnonzero(changed.var_names.isin(symbols(store, seed=0)[1]))
    dense = changed.X.toarray()
    dense[:, place] = dense[::-1][:, place]
    scale = cells.X.toarray().sum(1, keepdims=True) / dense.sum(1, keepdims=True)
    lognorm = np.log1p(dense / dense.sum(1, keepdims=True) / scale * 1e4)
    changed = anndata.AnnData(lognorm.astype(np.float32), obs=cells.obs, var=cells.var)
    extract(changed, tmp_path / "b.zarr", llama, expression="lognorm")
    other = sides(scstore.open(tmp_path / "b.zarr"))
    for view in VIEWS:
        np.testing.assert_allclose(found[view][0], other[view][0], atol=1e-4)
    assert np.abs(found["genept"][1] - other["genept"][1]).max() > 0.1


def test_a_seed_deals_the_same_genes_in_every_store_of_a_table(store: scstore.Store, tmp_path: Path) -> None:
    new = make_cells(20, seed=3)[:, ::-2].copy()
    scstore.extract(new, tmp_path / "new.zarr", like=store.path)
    here, there = symbols(store, seed=4), symbols(scstore.open(tmp_path / "new.zarr"), seed=4)
    assert there[0] <= here[0]
    assert there[1] <= here[1]
    assert symbols(store, seed=5) != here == symbols(store, seed=4)


def test_what_cannot_be_dealt_is_refused(store: scstore.Store, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="hold_out_genes=0.001"):
        sides(store, fraction=0.001)
    make_cells(20).write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(FeatureSpaceError, match="cells.h5ad"):
        sides(scstore.open(tmp_path / "cells.h5ad"))
    bare = extract(make_cells(20), tmp_path / "bare.zarr", llama, keep_expression=False)
    with pytest.raises(FeatureSpaceError, match="bare.zarr"):
        sides(bare)


def test_the_gene_table_must_be_there_and_the_same(store: scstore.Store, tmp_path: Path) -> None:
    copied = scstore.open(shutil.copytree(store.path, tmp_path / "ref.zarr"))
    with pytest.raises(FeatureSpaceError, match="ref.genes.h5ad"):
        sides(copied)
    table = load_gene_table(store.path.with_suffix(".genes.h5ad"))
    other = GeneTable(table.obs, table.vectors + 1, table.encoder, table.template)
    save_gene_table(other, tmp_path / "ref.genes.h5ad")
    with pytest.raises(FeatureSpaceError, match="ref.genes.h5ad"):
        sides(copied)
