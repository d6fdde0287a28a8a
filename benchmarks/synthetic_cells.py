"""Cells of no tissue, with the lengths of real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore.genes.table import GeneTable, describe_by_symbol, save_gene_table
from scstore.genes.vectors import RandomEncoder
from scstore.panels.panel import Panel, save_panel
from scstore.store.views import write_csr

N_GENES = 20_000
MEDIAN_EXPRESSED = 2_000
SPREAD = 0.45
"""Of the logarithm of the number of expressed genes: two thirds of the cells lie between 1,275 and 3,140."""
PANEL = 200
PANEL_EXPRESSED = (50, 120)
"""Panel genes that a cell expresses: marker genes are chosen for being expressed, so far more than one in ten."""


def make_counts(
    n_cells: int,
    *,
    seed: int,
    n_genes: int = N_GENES,
    median: int = MEDIAN_EXPRESSED,
    panel: int = PANEL,
    panel_expressed: tuple[int, int] = PANEL_EXPRESSED,
) -> csr_matrix:
    """``(n_cells, n_genes) float32`` raw counts; the first ``panel`` genes are those of the panel."""
    rng = np.random.default_rng(seed)
    low, high = panel_expressed
    expressed = np.exp(rng.normal(np.log(median), SPREAD, n_cells)).astype(int).clip(high + 1, n_genes - panel)
    of_panel = rng.normal((low + high) / 2, (high - low) / 4, n_cells).astype(int).clip(low, high)
    genes = [
        np.sort(
            np.concatenate(
                [
                    rng.choice(panel, inside, replace=False, shuffle=False),
                    panel + rng.choice(n_genes - panel, total - inside, replace=False, shuffle=False),
                ]
            )
        )
        for total, inside in zip(expressed, of_panel, strict=True)
    ]
    offsets = np.concatenate([[0], np.cumsum(expressed)])
    counts = rng.geometric(0.4, int(offsets[-1])).astype(np.float32)
    return csr_matrix((counts, np.concatenate(genes).astype(np.int32), offsets), shape=(n_cells, n_genes))


def lognorm(counts: csr_matrix) -> csr_matrix:
    """log1p of counts per 10,000, as extraction takes it."""
    totals = np.asarray(counts.sum(axis=1)).ravel()
    scaled = counts.data * np.repeat(10_000 / totals, np.diff(counts.indptr))
    return csr_matrix((np.log1p(scaled).astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)


def symbols(n_genes: int = N_GENES) -> list[str]:
    """Names that no real gene has."""
    return [f"GENE{i}" for i in range(n_genes)]


def write_cells(counts: csr_matrix, path: Path) -> Path:
    """The counts as an ``.h5ad``."""
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(counts.shape[0])])
    anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=symbols(counts.shape[1]))).write_h5ad(path)
    return path


def write_many_cells(path: Path, n_cells: int, *, n_genes: int, per_cell: int, chunk: int = 50_000) -> Path:
    """A large ``.h5ad`` written in pieces, so that making it takes no memory either."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(file, "obs", pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)]))
        write_elem(file, "var", pd.DataFrame(index=symbols(n_genes)))
        group = file.create_group("X")
        group.attrs.update(
            {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": np.array([n_cells, n_genes])}
        )
        size = (n_cells * per_cell,)
        data = group.create_dataset("data", size, np.float32, chunks=(1 << 18,))
        indices = group.create_dataset("indices", size, np.int32, chunks=(1 << 18,))
        group.create_dataset("indptr", data=np.arange(n_cells + 1, dtype=np.int64) * per_cell)
        steps = n_genes // per_cell  # one gene out of every run of this many: distinct and ascending by construction
        for start in range(0, n_cells, chunk):
            rows = min(chunk, n_cells - start)
            part = slice(start * per_cell, (start + rows) * per_cell)
            indices[part] = (np.arange(per_cell) * steps + rng.integers(0, steps, (rows, per_cell))).ravel()
            data[part] = rng.geometric(0.4, rows * per_cell)
    return path


def write_typed_cells(path: Path, n_cells: int, *, n_types: int, n_genes: int, seed: int, block: int = 5_000) -> Path:
    """Counts by blocks, about 1,600 genes a cell; the genes of a cell's ``cell_type`` have more of them."""
    rng = np.random.default_rng(seed)
    types, markers = rng.integers(0, n_types, n_cells), PANEL // n_types
    names = pd.Categorical.from_codes(types, [f"type {i}" for i in range(n_types)])
    median = min(1_500, n_genes // 4)

    def blocks() -> Iterator[csr_matrix]:
        for start in range(0, n_cells, block):
            here = types[start : start + block]
            counts = make_counts(len(here), seed=seed + 1000 * start, n_genes=n_genes, median=median)
            counts.data[counts.indices // markers == np.repeat(here, np.diff(counts.indptr))] *= 30
            yield counts

    obs = pd.DataFrame({"cell_type": names}, index=[f"cell{i}" for i in range(n_cells)])
    anndata.AnnData(obs=obs, var=pd.DataFrame(index=symbols(n_genes))).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        write_csr(file.create_group("X"), blocks(), n_genes)
    return path


def write_gene_table(path: Path, *, width: int, n_genes: int = N_GENES) -> Path:
    """Seeded random vectors for every gene: what they say does not change the arithmetic."""
    obs, template = describe_by_symbol(symbols(n_genes), organism="human")
    encoder = RandomEncoder(width)
    vectors: NDArray[np.float32] = encoder.encode(list(obs["text"]))
    return save_gene_table(GeneTable(obs, vectors, encoder.identity, template), path)


def write_panel(path: Path, *, size: int = PANEL) -> Path:
    """The first genes as a panel."""
    names = symbols(size)
    obs = pd.DataFrame({"symbol": names, "ensembl_id": ""}, index=pd.Index(names, name="gene"))
    return save_panel(Panel(obs, label="synthetic", trained_on=("none",)), path)
