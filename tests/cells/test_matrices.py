"""Matrices by runs of rows: what does not fit is refused, and a matrix by column has the rows of one by row."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scstore.cells.expression import find_expression
from scstore.cells.matrices import CompressedColumns
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
    matrix = CompressedColumns(wanted.shape, *parts, "f", "X", window=window, block=block)
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
        matrix = CompressedColumns(wanted.shape, *parts, "f", "X", window=window, block=500)
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
