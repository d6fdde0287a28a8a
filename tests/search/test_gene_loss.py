"""Cells that lack genes of the reference: what the search is worth then."""

from __future__ import annotations

import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from support import make_cells, make_store

import scstore
from scstore.errors import GeneMatchWarning
from scstore.genes.table import GeneTable, describe_by_symbol, save_gene_table
from scstore.genes.vectors import whiten
from scstore.progress import Silent

SYMBOLS = [f"GENE{i}" for i in range(40)]
OF_TYPES = 15  # the first genes are those of three types, five each
VECTORS = np.random.default_rng(3).normal(size=(40, 8)).astype(np.float32)
K = 5


def few_genes(n: int, genes: slice, *, seed: int) -> anndata.AnnData:
    return make_cells(n, seed=seed)[:, genes].copy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ref.zarr` of all genes, and `lacking.zarr` without most of the genes that tell the types apart."""
    folder = tmp_path_factory.mktemp("lacking")
    obs, template = describe_by_symbol(SYMBOLS, organism="human")
    save_gene_table(GeneTable(obs, VECTORS, {"name": "text"}, template), folder / "genes.h5ad")
    how = {"pool": (), "companions": ("genept", "genept_random", "genept_w"), "genes": str(folder / "genes.h5ad")}
    cells = make_cells(90)
    cells.obs["partly"] = cells.obs["cell_type"].astype(str).where(np.arange(90) % 3 > 0, "")
    scstore.extract(cells, folder / "ref.zarr", **how)
    scstore.extract(few_genes(20, slice(OF_TYPES - 1, 40), seed=1), folder / "lacking.zarr", **how)
    return folder


def by_hand(folder: Path, genes: slice) -> np.ndarray:
    """Nearest cells of every reference cell, without itself, if only these genes of it had been measured."""
    expression = scstore.open(folder / "ref.zarr").view("X")[:].toarray()
    vectors = whiten(VECTORS)

    def rows(genes: slice) -> np.ndarray:
        sums = expression[:, genes] @ vectors[genes]
        return sums / np.linalg.norm(sums, axis=1, keepdims=True)

    reference = rows(slice(0, 40))
    centre = reference.mean(axis=0)
    units = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (rows(genes) - centre, reference - centre)]
    similar = units[0] @ units[1].T
    np.fill_diagonal(similar, -2)
    return np.argsort(-similar, axis=1)[:, :K]


def told(folder: Path, **options: object) -> str:
    with pytest.warns(GeneMatchWarning) as caught:
        scstore.query(folder / "lacking.zarr", folder / "ref.zarr", k=K, **{"view": "genept"} | options)
    (said,) = [str(one.message) for one in caught if issubclass(one.category, GeneMatchWarning)]
    return said


def test_the_share_of_neighbours_found_again(folder: Path) -> None:
    whole, without = by_hand(folder, slice(0, 40)), by_hand(folder, slice(OF_TYPES - 1, 40))
    expected = np.mean([len(set(a) & set(b)) / K for a, b in zip(whole, without, strict=True)])
    said = told(folder)
    assert "lacks 14 of the 40 genes" in said
    assert f"90 reference cells without these genes find {expected:.0%} of their 5 nearest" in said
    assert expected < 0.5


def test_how_often_the_most_frequent_label_is_right(folder: Path) -> None:
    labels = scstore.open(folder / "ref.zarr").obs["cell_type"].astype(str)

    def right(neighbours: np.ndarray) -> float:
        best = [labels.iloc[row].value_counts().sort_index(kind="stable").idxmax() for row in neighbours]
        return float(np.mean(np.array(best) == labels))

    expected = right(by_hand(folder, slice(0, 40))), right(by_hand(folder, slice(OF_TYPES - 1, 40)))
    said = told(folder, summarise="cell_type")
    assert [round(100 * share) for share in expected] == [int(n) for n in re.findall(r"(\d+)%", said)]
    assert expected[0] > expected[1] + 0.2
    assert "60 reference cells" in told(folder, summarise="partly")  # those that have a label
    assert "45 reference cells" in told(folder, where="donor == 'd1'")


@pytest.mark.parametrize("view", ["genept_random", "genept_w"])
def test_other_weighted_means_are_made_again(folder: Path, view: str) -> None:
    assert re.search(r"find \d+% of their 5 nearest", told(folder, view=view))


def test_nothing_is_said_where_no_gene_is_missing(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    scstore.query(folder / "ref.zarr", folder / "ref.zarr", k=2, view="genept")
    scstore.query(folder / "ref.zarr", folder / "lacking.zarr", k=2, view="genept")  # more genes than the reference
    assert not [one for one in recwarn if issubclass(one.category, GeneMatchWarning)]


def test_a_panel_decides_which_genes_count(folder: Path, tmp_path: Path) -> None:
    """Genes outside the panel may be missing; where the panel's file is gone, no figure is given."""
    panel = scstore.panel(make_cells(90), tmp_path / "panel.h5ad", label="cell_type", n_genes=10)
    chosen = {int(symbol.removeprefix("GENE")) for symbol in panel.obs["symbol"]}
    assert chosen < set(range(OF_TYPES))
    how = {"pool": (), "companions": ("genept",), "genes": str(folder / "genes.h5ad")}
    how |= {"panel": str(tmp_path / "panel.h5ad")}
    scstore.extract(make_cells(60), tmp_path / "ref.zarr", **how)
    inside = scstore.extract(few_genes(9, slice(0, OF_TYPES), seed=1), tmp_path / "inside.zarr", **how)
    scstore.extract(few_genes(9, slice(8, 40), seed=1), tmp_path / "lacking.zarr", **how)
    scstore.query(inside, tmp_path / "ref.zarr", k=2)
    n = len(chosen & set(range(8)))
    assert re.search(rf"lacks {n} of the 10 genes .* find \d+% of their", told(tmp_path))
    (tmp_path / "panel.h5ad").unlink()
    assert re.search(r"lacks 8 of the 40 genes .* panel is gone", told(tmp_path))


def test_a_readout_cannot_be_made_again(llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="cells are extracted like others, which takes the model")
    reference = make_store(make_cells(70), tmp_path / "ref.zarr", llama, shard_rows=16)
    lacking = scstore.extract(few_genes(20, slice(8, 40), seed=1), tmp_path / "few.zarr", like=reference.path)
    with pytest.warns(GeneMatchWarning, match=r"lacks 8 of the 40 genes that readout.* only extract"):
        scstore.query(lacking, reference, k=3)


def test_cells_that_keep_no_genes_are_looked_up_in_silence(folder: Path, tmp_path: Path) -> None:
    how = {"pool": (), "companions": ("genept",), "genes": str(folder / "genes.h5ad"), "keep_expression": False}
    scstore.extract(few_genes(20, slice(20, 40), seed=1), tmp_path / "bare.zarr", **how, progress=Silent())
    frame = scstore.query(tmp_path / "bare.zarr", folder / "ref.zarr", k=2, view="genept").table
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == 40
