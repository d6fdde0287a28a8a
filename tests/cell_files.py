"""Small real inputs of cells."""

from __future__ import annotations

import gzip
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse
from support import make_cells

N_CELLS, N_GENES = 37, 11

Write = Callable[..., Path]


@pytest.fixture
def counts() -> np.ndarray:
    """(37, 11) int64 counts; cell 3 is empty, gene 5 is never seen."""
    rng = np.random.default_rng(7)
    values = rng.poisson(3.0, (N_CELLS, N_GENES)) * rng.integers(0, 2, (N_CELLS, N_GENES))
    values[3] = 0
    values[:, 5] = 0
    values[0, 0] = 123
    return values


@pytest.fixture
def adata(counts: np.ndarray) -> anndata.AnnData:
    obs = pd.DataFrame(
        {"donor": pd.Categorical(["a", "b"] * 18 + ["a"]), "n": np.arange(N_CELLS)},
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    ids = [f"ENSG{i:011d}" for i in range(N_GENES)]
    var = pd.DataFrame({"gene_ids": ids}, index=[f"GENE{i}" for i in range(N_GENES)])
    return anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def rich(n: int = 40) -> anndata.AnnData:
    """Cells with something in every place of an AnnData."""
    cells = make_cells(n, seed=1)
    cells.obs["sample"] = pd.Categorical(np.resize(["s2", "s1"], n), categories=["s2", "s1"], ordered=True)
    cells.obs["n"] = np.arange(n, dtype=np.int16)
    cells.obs["maybe"] = pd.array([True, None] * (n // 2), dtype="boolean")
    cells.layers["half"] = sparse.csc_matrix(cells.X * 0.5)
    cells.obsm["X_pca"] = np.random.default_rng(0).standard_normal((n, 5)).astype(np.float16)
    cells.obsp["distances"] = sparse.eye(n, format="csr")
    cells.varm["loadings"] = np.ones((cells.n_vars, 2))
    cells.uns["neighbors"] = {"params": {"n": 3}}
    cells.raw = cells.copy()
    return cells


def contents(path: Path) -> dict[str, Any]:
    """Every array of an AnnData file with its values, type, chunks, filters and attributes."""
    if path.is_dir():
        return _contents(zarr.open_group(path, mode="r", use_consolidated=False))
    with h5py.File(path, "r") as file:
        return _contents(file)


def _contents(group: Any, at: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in group:
        one, path = group[name], f"{at}/{name}"
        attributes = {key: str(value) for key, value in dict(one.attrs).items()}
        if hasattr(one, "keys") and not hasattr(one, "shape"):
            found[path] = {key: value for key, value in attributes.items() if key != "column-order"}
            found |= _contents(one, path)
        else:
            values = np.asarray(one[()])
            data = str(values.tolist()).encode() if values.dtype.hasobject else values.tobytes()
            settings = [getattr(one, key, None) for key in ("shape", "chunks", "compression", "filters", "compressors")]
            found[path] = (hashlib.sha256(data).hexdigest(), str(one.dtype), str(settings), attributes)
    return found


@pytest.fixture
def write_h5ad(tmp_path: Path) -> Write:
    def write(adata: anndata.AnnData, name: str = "cells.h5ad") -> Path:
        path = tmp_path / name
        adata.write_h5ad(path)
        return path

    return write


@pytest.fixture
def write_zarr(tmp_path: Path) -> Write:
    def write(adata: anndata.AnnData, name: str = "cells.zarr", *, version: int = 3) -> Path:
        path = tmp_path / name
        with anndata.settings.override(zarr_write_format=version), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata: version 2 is no longer the default
            adata.write_zarr(path)
        return path

    return write


def features(counts: np.ndarray) -> dict[str, list[str]]:
    """Eight genes and three antibodies."""
    n = counts.shape[1]
    return {
        "id": [f"ENSG{i:011d}" for i in range(n - 3)] + [f"AB{i}" for i in range(3)],
        "name": [f"GENE{i}" for i in range(n - 3)] + [f"CD{i}_TotalSeq" for i in range(3)],
        "feature_type": ["Gene Expression"] * (n - 3) + ["Antibody Capture"] * 3,
        "genome": ["GRCh38"] * (n - 3) + [""] * 3,
    }


@pytest.fixture
def write_10x_h5(tmp_path: Path, counts: np.ndarray) -> Write:
    """Write a Cell Ranger 3 file, or with ``genome`` a Cell Ranger 2 one."""

    def write(*, name: str = "matrix.h5", genomes: tuple[str, ...] = (), **changes: Any) -> Path:
        path = tmp_path / name
        by_cell = sparse.csr_matrix(counts.astype(np.int32))
        table = {**features(counts), **changes}
        with h5py.File(path, "w") as file:
            for group_name in genomes or ("matrix",):
                group = file.create_group(group_name)
                group["barcodes"] = np.array([f"AAAC{i}-1" for i in range(N_CELLS)], dtype="S")
                group["shape"] = np.array(by_cell.shape[::-1], dtype=np.int32)
                for part in ("data", "indices", "indptr"):
                    values = getattr(by_cell, part)
                    group.create_dataset(part, data=values.astype(np.int64) if part != "data" else values, chunks=True)
                if genomes:
                    group["genes"] = np.array(table["id"], dtype="S")
                    group["gene_names"] = np.array(table["name"], dtype="S")
                else:
                    for part, values in table.items():
                        group[f"features/{part}"] = np.array(values, dtype="S")
        return path

    return write


@pytest.fixture
def write_mtx(tmp_path: Path, counts: np.ndarray) -> Write:
    """Write a 10x folder of plain text, its entries in no order."""

    def write(
        *, name: str = "mtx", packed: bool = False, legacy: bool = False, prefix: str = "", kind: str = "integer"
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        table = features(counts)
        genes = zip(table["id"], table["name"], table["feature_type"], strict=True)
        entries = sparse.coo_matrix(counts)
        order = np.random.default_rng(1).permutation(entries.nnz)
        lines = [
            f"%%MatrixMarket matrix coordinate {kind} general",
            '%metadata_json: {"software_version": "test"}',
            f"{counts.shape[1]} {counts.shape[0]} {entries.nnz}",
            *(f"{entries.col[i] + 1} {entries.row[i] + 1} {entries.data[i]}" for i in order),
        ]
        texts = {
            "matrix.mtx": "\n".join(lines) + "\n",
            "genes.tsv" if legacy else "features.tsv": "".join(
                "\t".join(gene[: 2 if legacy else 3]) + "\n" for gene in genes
            ),
            "barcodes.tsv": "".join(f"AAAC{i}-1\n" for i in range(N_CELLS)),
        }
        for file, text in texts.items():
            data = text.encode()
            path = folder / f"{prefix}{file}{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)
        return folder

    return write
