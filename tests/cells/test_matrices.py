"""Matrices by runs of rows: what does not fit is refused, and a matrix by column has the rows of one by row."""

from __future__ import annotations

import decimal
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from support import Notes, extract, make_cells

import scstore
from scstore.cells import matrices
from scstore.cells.expression import find_expression
from scstore.cells.matrices import csc_rows, fitting_names, plain_frame
from scstore.cells.opening import open_cells
from scstore.errors import CellsError


@settings(max_examples=40)
@given(
    n_cells=st.integers(1, 9),
    n_genes=st.integers(1, 9),
    density=st.floats(0, 1),
    window=st.integers(1, 40),
    block=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
def test_by_column_equals_by_row(n_cells, n_genes, density, window, block, seed):
    """RELIABILITY 12: whatever the size of windows and blocks, and in any order."""
    wanted = sparse.random(n_cells, n_genes, density, format="csc", random_state=seed)
    parts = (wanted.indptr.astype(np.int64), wanted.indices, wanted.data)
    with mock.patch.multiple(matrices, WINDOW=window, BLOCK=block):
        matrix = csc_rows(*parts, shape=wanted.shape, source="f", name="X")
    for start in [*range(0, n_cells, 2), 0]:
        rows = matrix.rows(start, start + 2)
        assert rows.has_canonical_format
        assert rows.dtype == wanted.dtype
        np.testing.assert_array_equal(rows.toarray(), wanted.toarray()[start : start + 2])


def test_a_window_is_read_in_one_pass():
    wanted = sparse.random(100, 50, 0.5, format="csc", random_state=0)
    reads: list[int] = []

    class Counting:
        dtype = wanted.data.dtype

        def __getitem__(self, index: slice) -> np.ndarray:
            reads.append(index.stop - index.start)
            return wanted.data[index]

    parts = (wanted.indptr.astype(np.int64), wanted.indices, Counting())
    for window, passes in ((wanted.nnz, 1), (wanted.nnz // 4 + 1, 4)):
        reads.clear()
        with mock.patch.multiple(matrices, WINDOW=window, BLOCK=500):
            matrix = csc_rows(*parts, shape=wanted.shape, source="f", name="X")
        for start in range(0, 100, 5):
            matrix.rows(start, start + 5)
        assert sum(reads) == passes * wanted.nnz
        assert max(reads) < 600


@pytest.mark.parametrize("cell", [-1, 37])
def test_a_value_outside_the_cells(cell, adata, write_h5ad):
    adata.X = sparse.csc_matrix(adata.X)
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        file["X/indices"][3] = cell
    with open_cells(path) as cells, pytest.raises(CellsError, match="X has a value outside its 37 cells"):
        cells.slots["X"].rows(0, 5)


def test_parts_that_do_not_fit(adata, write_h5ad):
    """RELIABILITY 40: lengths of indptr, indices and data are compared with each other and the shape."""
    path = write_h5ad(adata)
    n = adata.X.nnz
    for name, data in (
        ("X/indices", np.zeros(n - 1, "i4")),
        ("X/indptr", np.zeros(30, "i4")),
        ("X/indptr", np.zeros(38, "i4")),
        ("X/indptr", np.r_[0, n, np.zeros(35), n].astype("i4")),
        ("X/indptr", np.r_[np.zeros(37), n].astype("i4")),
        ("X/indptr", np.r_[-1, np.zeros(36), n].astype("i4")),
        ("X/indptr", np.zeros(38, "f4")),
        ("X/data", np.zeros((n, 1), "f4")),
        ("X/data", np.zeros(n, "S3")),
    ):
        broken = path.with_name("broken.h5ad")
        shutil.copy(path, broken)
        with h5py.File(broken, "r+") as file:
            del file[name]
            file[name] = data
        with pytest.raises(CellsError, match="X/data is of type" if "data" in name else "X/indptr"):
            open_cells(broken)


@pytest.mark.parametrize("column", [-1, 11, 2**31 - 1])
def test_indices_outside(column, adata, write_h5ad, write_zarr):
    """RELIABILITY 40: a column index outside the matrix is refused when its row is read."""
    adata.X.indices[adata.X.indptr[20]] = column
    path = write_h5ad(adata)
    with open_cells(path) as cells:
        cells.slots["X"].rows(0, 20)
        with pytest.raises(CellsError, match=f"X: row 20 has a value in column {column:,}"):
            cells.slots["X"].rows(10, 30)
    with pytest.raises(CellsError, match="row 20"), open_cells(write_zarr(adata)) as cells:
        find_expression(cells)


COLUMNS: dict[str, tuple[Any, list[Any]]] = {
    "text": (pd.array(["a", "b", "c"], dtype="string"), ["a", "b", "c"]),
    "text with gaps": (pd.array(["a", None, "c"], dtype="string"), ["a", None, "c"]),
    "whole": (pd.array([1, 2, 3], dtype="Int64"), [1, 2, 3]),
    "whole with gaps": (pd.array([1, None, 3], dtype="Int32"), [1, None, 3]),
    "flags": (pd.array([True, False, True], dtype="boolean"), [True, False, True]),
    "flags with gaps": (pd.array([True, None, True], dtype="boolean"), [True, None, True]),
    "real with gaps": (pd.array([1.5, None, 3], dtype="Float64"), [1.5, None, 3.0]),
    "sparse": (pd.arrays.SparseArray([0, 0, 2]), [0, 0, 2]),
    "big-endian": (np.array([1, 2, 3], dtype=">i4"), [1, 2, 3]),
    "dates": (pd.to_datetime(["2020-01-01", None, "2020-01-03"]), ["2020-01-01", None, "2020-01-03"]),
    "zones": (pd.to_datetime(["2020-01-01"] * 3).tz_localize("CET"), ["2020-01-01 00:00:00+01:00"] * 3),
    "periods": (pd.period_range("2020-01", periods=3, freq="M"), ["2020-01", "2020-02", "2020-03"]),
    "decimals": ([decimal.Decimal("1.5")] * 3, ["1.5"] * 3),
    "mixed": ([1, "b", None], ["1", "b", None]),
    "bytes": ([b"na\xc3\xafve", b"na\xefve", None], ["naïve", "naïve", None]),
    "what HDF5 has no form for": (["a\0b", "c", "line\n"], ["ab", "c", "line\n"]),
    "categories of it": (pd.Categorical(["a\0b", "c", "a\0b"]), ["ab", "c", "ab"]),
    "nothing": ([None, None, None], [None, None, None]),
    "categories of text": (pd.Categorical(pd.array(["a", None, "c"], dtype="string")), ["a", None, "c"]),
    "categories of numbers": (pd.Categorical([2, 1, 2], ordered=True), [2, 1, 2]),
    "categories of flags": (pd.Categorical([True, False, True]), [True, False, True]),
    "categories of dates": (pd.Categorical(pd.to_datetime(["2020-01-01"] * 3)), ["2020-01-01"] * 3),
    "categories alike as text": (pd.Categorical([1, "1", 2]), ["1", "1", "2"]),
    "intervals": (pd.cut([0, 1, 2], 2), ["(-0.002, 1.0]", "(-0.002, 1.0]", "(1.0, 2.0]"]),
}


def arrow_columns() -> dict[str, tuple[Any, list[Any]]]:
    pa = pytest.importorskip("pyarrow")
    return {
        "text": (pd.array(["a", None, "c"], dtype=pd.ArrowDtype(pa.string())), ["a", None, "c"]),
        "whole": (pd.array([1, 2, 3], dtype="int64[pyarrow]"), [1, 2, 3]),
        "gaps": (pd.array([1, None, 3], dtype="int64[pyarrow]"), [1, None, 3]),
        "real": (pd.array([1.5, None, 3], dtype="double[pyarrow]"), [1.5, None, 3.0]),
        "flags": (pd.array([True, None, False], dtype="bool[pyarrow]"), [True, None, False]),
        "times": (pd.array(["2020-01-01"] * 3, dtype=pd.ArrowDtype(pa.timestamp("s"))), ["2020-01-01"] * 3),
        "named": (
            pd.arrays.ArrowExtensionArray(pa.array(["a", "b", "a"]).dictionary_encode()),
            ["a", "b", "a"],
        ),
    }


def write(adata: anndata.AnnData, path: Path, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata, about its defaults for Zarr
        (adata.write_h5ad if kind == "h5ad" else adata.write_zarr)(path)


def same(column: pd.Series, expected: list[Any]) -> None:
    found = [None if pd.isna(value) else value for value in column.tolist()]
    dates = [isinstance(value, str) and value[:2] == "20" for value in expected]
    found = [
        value[: len(wanted)] if date and value else value
        for value, wanted, date in zip(found, expected, dates, strict=True)
    ]
    assert found == expected


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("columns", [lambda: COLUMNS, arrow_columns], ids=["pandas", "pyarrow"])
def test_every_column_is_kept_and_written(
    columns: Callable[[], dict[str, tuple[Any, list[Any]]]], kind: str, tmp_path: Path
) -> None:
    """RELIABILITY 50: with anndata's default settings, for old and new ones to read."""
    wanted = columns()
    frame = pd.DataFrame({name: values for name, (values, _) in wanted.items()}, index=["x", "y", "z"])
    plain = plain_frame(frame)
    adata = anndata.AnnData(obs=plain, var=plain_frame(frame.set_axis(["g1", "g2", "g3"])))
    write(adata, tmp_path / "a", kind)
    read = anndata.read_h5ad(tmp_path / "a") if kind == "h5ad" else anndata.read_zarr(tmp_path / "a")
    for table in (plain, read.obs, read.var):
        for name, (_, expected) in wanted.items():
            same(table[name], expected)
    assert list(plain.index) == ["x", "y", "z"]


@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr"])
def test_tables_of_new_pandas_come_in_everywhere(kind: str, tmp_path: Path) -> None:
    """RELIABILITY 50: nullable text, of cells and genes, in memory and on disk, in both stages, and out again."""
    cells = make_cells(30, 12)
    cells.obs["barcode"] = pd.array([f"AAAC{i}" for i in range(30)], dtype="string")
    cells.obs["kind"] = pd.array([None, *cells.obs["cell_type"].astype(str)[1:]], dtype="string")
    cells.var["remark"] = pd.array([None, *cells.var_names[1:]], dtype="string")
    codes = np.asarray(cells.obs["cell_type"].cat.codes)
    cells.obsm["X_pca"] = np.random.default_rng(0).normal(size=(30, 3)) + 9 * codes[:, None]
    source: Any = cells
    if kind != "memory":
        source = tmp_path / f"cells.{kind}"
        with anndata.settings.override(allow_write_nullable_strings=True):
            write(cells, source, kind)
    with open_cells(source) as opened:
        assert opened.obs["barcode"].tolist()[:2] == ["AAAC0", "AAAC1"]
        assert opened.obs["kind"].isna().tolist() == [True, *[False] * 29]
        assert opened.var("X")["remark"].isna().tolist() == [True, *[False] * 11]
    if kind == "memory":
        return
    store = scstore.open(source)
    head = scstore.fit(store, label="kind", views=["X_pca"])
    path = tmp_path / f"out.{kind}"
    scstore.annotate(store, head, output=path, umap=False)
    out = anndata.read_h5ad(path) if kind == "h5ad" else anndata.read_zarr(path)
    assert out.obs["barcode"].astype(str).tolist()[:2] == ["AAAC0", "AAAC1"]
    assert "scstore_label" in out.obs


def test_an_index_named_like_a_column(adata, write_h5ad, tmp_path: Path) -> None:
    """RELIABILITY 50: ids and column are kept, and the index loses its name."""
    adata.obs["barcode"] = list(adata.obs_names)
    adata.obs.index.name = "barcode"
    for source in (adata, write_h5ad(adata)):
        with open_cells(source, id_prefix_from="donor") as opened:
            assert opened.obs.index[0] == "a:cell0"
            assert opened.obs.index.name is None
            assert opened.obs["barcode"].iloc[0] == "cell0"
            anndata.AnnData(obs=opened.obs).write_h5ad(tmp_path / "again.h5ad")


@pytest.mark.parametrize("value", ["naïve".encode(), "naïve".encode("latin-1")])
@pytest.mark.parametrize("charset", ["ascii", "utf-8"])
@pytest.mark.parametrize("form", ["text", "fixed", "categories", "nullable", "index"])
def test_text_in_another_encoding_than_declared(
    form: str, charset: str, value: bytes, adata, write_h5ad, tmp_path: Path
) -> None:
    """RELIABILITY 51: R writes UTF-8 and latin-1 under any name."""
    path = write_h5ad(adata)
    values = np.array([value] * 37, dtype=object)
    with h5py.File(path, "r+") as file:
        obs = file["obs"]
        kind: Any = "S7" if form == "fixed" else h5py.string_dtype(charset)
        values = values.astype("S7") if form == "fixed" else values
        if form == "index":
            del obs["_index"]
            values = np.array([value + str(i).encode() for i in range(37)], dtype=object)
        if form in ("categories", "nullable"):
            group = obs.create_group("state")
            names = {"categories": ("categorical", "0.2.0"), "nullable": ("nullable-string-array", "0.1.0")}
            group.attrs.update(dict(zip(("encoding-type", "encoding-version"), names[form], strict=True)))
            if form == "categories":
                group.attrs["ordered"] = False
                made = group.create_dataset("categories", data=np.array([value], dtype=object), dtype=kind)
                codes = group.create_dataset("codes", data=np.zeros(37, dtype=np.int8))
                codes.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            else:
                made = group.create_dataset("values", data=values, dtype=kind)
                mask = group.create_dataset("mask", data=np.arange(37) == 3)
                mask.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        else:
            made = obs.create_dataset("_index" if form == "index" else "state", data=values, dtype=kind)
        made.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        if form != "index":
            obs.attrs["column-order"] = np.array([*obs.attrs["column-order"], "state"], dtype=object)
    for obs in (open_cells(path).obs, scstore.open(path).obs):
        if form == "index":
            assert obs.index[2] == "naïve2"
        else:
            assert obs["state"].iloc[0] == "naïve"
            assert obs["state"].isna().sum() == (form == "nullable")
        assert obs["donor"].iloc[0] == "a"


def test_names_that_a_store_can_hold() -> None:
    """RELIABILITY 15, 50: names are never paths, and stay apart."""
    fine = ["cell_type", "label:fine", "c:", "a.b", "naïve T cell (%)", "é" * 100, "no\u00a0break"]
    assert fitting_names(fine) == fine
    names = fitting_names(["a/b", "a_b", "..\\b", "a\0", "..", "_index", "zarr.json", "", "é" * 101, "1", 1, "\ud800"])
    assert names[:4] == ["a_b", "a_b_2", ".._b", "a_"]
    assert len(set(names)) == len(names)
    assert fitting_names(names) == names
    assert all(0 < len(name.encode()) <= 200 for name in names)


def test_a_column_with_a_slash_is_renamed_and_said(llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 50: on the way into the store; nothing else of the cells is refused for it."""
    cells = make_cells(8, 12)
    cells.obs["Sample/Library"] = np.arange(8)
    notes = Notes()
    store = extract(cells, tmp_path / "s.zarr", llama, pool=(), companions=("genept_random",), progress=notes)
    assert store.obs["Sample_Library"].tolist() == list(range(8))
    assert any("'Sample/Library'" in said and "AnnData in memory" in said for said in notes.said)


def write_legacy(path: Path) -> pd.DataFrame:
    """A file as anndata 0.6 wrote it: records for obs, var and obsm."""
    cells = make_cells(60)
    kinds = cells.obs["cell_type"].cat
    with h5py.File(path, "w") as file:
        names = np.array(cells.obs_names, dtype="S")
        records = np.zeros(60, dtype=[("index", names.dtype), ("cell_type", "i1"), ("place", "S7")])
        records["index"], records["cell_type"], records["place"] = names, kinds.codes, "naïve".encode("latin-1")
        file["obs"] = records
        genes = np.zeros(40, dtype=[("index", "S12")])
        genes["index"] = np.array(cells.var_names, dtype="S")
        file["var"] = genes
        file["uns/cell_type_categories"] = np.array(kinds.categories, dtype="S")
        file["X"] = cells.X.toarray()
        pca = np.random.default_rng(0).normal(size=(60, 5)) + 5 * np.asarray(kinds.codes)[:, None]
        file["obsm"] = np.array([(row, b"text") for row in pca], dtype=[("X_pca", "f8", (5,)), ("words", "S4")])
    return cells.obs


def test_old_files_in_stage_2(tmp_path: Path) -> None:
    """RELIABILITY 50: fit, query and predict read what stage 1 reads."""
    obs = write_legacy(tmp_path / "old.h5ad")
    store = scstore.open(tmp_path / "old.h5ad")
    assert store.views == ("X_pca", "X")
    assert store.view("X_pca")[3:5].shape == (2, 5)
    assert store.obs["cell_type"].tolist() == obs["cell_type"].tolist()
    assert store.obs["place"].iloc[0] == "naïve"
    assert json.dumps(store.info)
    head = scstore.fit(store, label="cell_type", views=["X_pca"])
    assert scstore.query(store, store, k=3).table["cell_id"].nunique() == 60
    frame = scstore.predict(store, head, unassigned="none")
    assert (frame["label"] == obs["cell_type"].astype(str)).mean() > 0.9


def test_obsm_that_is_no_matrix_of_numbers(tmp_path: Path) -> None:
    """RELIABILITY 50: text, sparse matrices and tables are no views, and asking for one says why."""
    cells = make_cells(20)
    cells.obsm["X_pca"] = np.zeros((20, 3))
    cells.obsm["X_sparse"] = sparse.csr_matrix(np.eye(20))
    cells.obsm["table"] = pd.DataFrame({"a": range(20)}, index=cells.obs_names)
    cells.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["obsm/words"] = np.full((20, 2), b"x", dtype="S1")
        file["obsm/twice"] = np.zeros((40, 2))
    store = scstore.open(tmp_path / "a.h5ad")
    assert store.views == ("X_pca", "twice", "X")
    for name in ("X_sparse", "table", "words"):
        with pytest.raises(scstore.errors.InputError, match="dense matrix of numbers"):
            store.view(name)
    with pytest.raises(scstore.errors.InputError, match="40 rows"):
        store.view("twice")
