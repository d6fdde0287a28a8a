"""What goes into `annotate` is in what comes out: the AnnData of the tests, in memory, in HDF5 and in Zarr."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from cell_files import contents, rich
from scipy import sparse
from support import ROOT, make_cells, make_evaluation_cells

import scstore
from scstore.labelling.annotate import annotate_to_file

ADDED = ("scstore", "X_scstore")


def with_x(change: Callable[[sparse.csr_matrix], object]) -> Callable[[], anndata.AnnData]:
    def make() -> anndata.AnnData:
        cells = make_cells(30, seed=1)
        cells.X = change(cells.X)
        return cells

    return make


def in_a_layer() -> anndata.AnnData:
    cells = make_cells(30, seed=1)
    cells.layers["counts"] = cells.X
    cells.X = None
    return cells


def in_raw() -> anndata.AnnData:
    cells = make_cells(30, seed=1)
    cells.raw = cells
    cells = cells[:, :12].copy()
    cells.X = np.asarray(cells.X.toarray() - cells.X.mean(), dtype=np.float64)
    return cells


def with_everything_odd() -> anndata.AnnData:
    cells = make_cells(30, seed=1, empty=4)
    cells.obs_names = [f"zelle é{i}" for i in range(30)]
    cells.obs = cells.obs.assign(none=None, whole=pd.array([1, None] * 15, dtype="Int64"), text=["", "a,b\n"] * 15)
    cells.obs["none"] = cells.obs["none"].astype("category")
    cells.obsm["table"] = pd.DataFrame({"a": np.arange(30), "b": ["x"] * 30}, index=cells.obs_names)
    cells.obsm["sparse"] = sparse.csr_matrix(np.eye(30, 3))
    cells.varp["pairs"] = sparse.csr_matrix(np.eye(40))
    cells.uns = {
        "deep": {"er": {"list": np.array(["a", "b"], dtype=object), "none": np.array([])}},
        "n": 3,
        "yes": True,
    }
    return cells


CELLS: dict[str, Callable[[], anndata.AnnData]] = {
    "counts": lambda: make_cells(30, seed=1),
    "an empty cell": lambda: make_cells(30, seed=1, empty=4),
    "one cell": lambda: make_cells(1, seed=1),
    "for an evaluation": make_evaluation_cells,
    "everywhere something": rich,
    "dense halves": with_x(lambda counts: counts.toarray().astype(np.float16)),
    "dense, by column": with_x(lambda counts: np.asfortranarray(counts.toarray())),
    "sparse by column, whole numbers": with_x(lambda counts: sparse.csc_matrix(counts.astype(np.int64))),
    "logarithms": with_x(lambda counts: sparse.csr_matrix(counts.multiply(1e4 / counts.sum(1))).log1p()),
    "in a layer": in_a_layer,
    "in raw": in_raw,
    "odd": with_everything_odd,
    "golden": lambda: anndata.read_h5ad(ROOT / "stores" / "golden" / "1.0" / "cells.h5ad"),
}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head") / "head"
    scstore.fit(make_cells(90), folder, label="cell_type")
    return folder


def check(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert {path: value for path, value in after.items() if path in before} == before
    assert all(Path(path).parts[2].startswith(ADDED) for path in after.keys() - before.keys())
    assert "/obs/scstore_label" in after


def in_memory(cells: anndata.AnnData, head: Path, folder: Path) -> None:
    """Compare what is written of the cells before and after."""
    cells.copy().write_h5ad(folder / "before.h5ad")
    assert scstore.annotate(cells, head, umap=False) is cells
    cells.copy().write_h5ad(folder / "after.h5ad")
    check(contents(folder / "before.h5ad"), contents(folder / "after.h5ad"))


def in_a_file(source: Path, head: Path, output: Path) -> None:
    before = contents(source)
    annotate_to_file(source, head, output=output, umap=False)
    assert contents(source) == before
    check(before, contents(output))


# Zarr writes a file for every array, so that most of the time goes there: of those cells that differ in kind of array
FORMS = [
    *((name, form) for name in CELLS for form in ("memory", "h5ad")),
    *((name, "zarr 3") for name in ("everywhere something", "odd", "in raw")),
    ("odd", "zarr 2"),
]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_cells_of_the_tests(name: str, form: str, head: Path, tmp_path: Path) -> None:
    cells, (suffix, _, version) = CELLS[name](), form.partition(" ")
    if form == "memory":
        in_memory(cells, head, tmp_path)
        return
    source = tmp_path / f"cells.{suffix}"
    with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=int(version or 3)):
        warnings.simplefilter("ignore")  # anndata: version 2 is no longer the default
        getattr(cells, f"write_{suffix}")(source)
    in_a_file(source, head, tmp_path / f"annotated.{suffix}")


@pytest.fixture(scope="module")
def blood(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blood") / "head"
    cells = anndata.read_h5ad(shared / "cells" / "pbmc_3donors.h5ad")[::8].copy()
    scstore.fit(cells[:, :300].copy(), folder, label="cell_type_broad")
    return folder


@pytest.mark.parametrize("name", ["lymph_node_human", "pancreas_human_mouse", "pbmc_3donors"])
def test_real_files(name: str, shared: Path, blood: Path, tmp_path: Path) -> None:
    source = shared / "cells" / f"{name}.h5ad"
    in_a_file(source, blood, tmp_path / "annotated.h5ad")
    in_memory(anndata.read_h5ad(source), blood, tmp_path)
