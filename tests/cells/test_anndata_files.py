"""AnnData on disk: encodings, missing parts."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import zarr
from scipy import sparse

from scstore.cells.opening import open_cells
from scstore.errors import CellsError, NewerFormatError


@pytest.mark.parametrize(
    ("name", "version"),
    [("", "0.9.0"), ("X", "1.0"), ("raw", "0.10.0"), ("obs", "2.0.0rc1"), ("var", "0.9.0"), ("layers/more", "1.0")],
)
def test_newer_encodings(name, version, adata, write_h5ad):
    """RELIABILITY 14: an encoding newer than is understood is named with both versions."""
    adata.raw = adata
    adata.layers["more"] = adata.X.copy()
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        (file[name] if name else file).attrs["encoding-version"] = version
    with pytest.raises(NewerFormatError, match=rf"'{version}'.* 0\.[12]\.0"):
        open_cells(path)


def test_newer_column(adata, write_h5ad):
    """RELIABILITY 14: so is a column's that anndata does not know."""
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        file["obs/donor"].attrs["encoding-version"] = "9.0"
    with pytest.raises(CellsError, match=r"obs.*9\.0"):
        open_cells(path)


def test_unknown_matrix(adata, write_h5ad):
    """RELIABILITY 14: X in an encoding from the future."""
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        file["X"].attrs["encoding-type"] = "tensor-train"
    with pytest.raises(CellsError, match="tensor-train"):
        open_cells(path)


def test_unknown_layer_is_left_out(adata, write_h5ad):
    adata.layers["odd"] = adata.X.copy()
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        file["layers/odd"].attrs["encoding-type"] = "tensor-train"
    with open_cells(path) as cells:
        assert list(cells.slots) == ["X"]


@pytest.mark.parametrize("part", ["data", "indices", "indptr", "shape"])
def test_missing_parts(part, adata, write_h5ad):
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        if part == "shape":
            del file["X"].attrs["shape"]
        else:
            del file[f"X/{part}"]
    with pytest.raises(CellsError, match=f"X (lacks its|has) {part}"):
        open_cells(path)


@pytest.mark.parametrize("frame", ["obs", "var"])
def test_missing_frames(frame, adata, write_h5ad):
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        del file[frame]
    with pytest.raises(CellsError, match=frame):
        open_cells(path)


def test_damaged_frames(adata, write_h5ad):
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        del file["obs/donor/codes"]
    with pytest.raises(CellsError, match="obs"):
        open_cells(path)
    with h5py.File(path, "r+") as file:
        del file["obs"]
        file["obs"] = np.arange(5)
    with pytest.raises(CellsError, match="obs"):
        open_cells(path)


def test_shape_against_frames(adata, write_h5ad):
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        file["X"].attrs["shape"] = [36, 11]
    with pytest.raises(CellsError, match=r"\(36, 11\)"):
        open_cells(path)


@pytest.mark.parametrize(("version", "part"), [(2, "data"), (3, "data"), (3, "indices")])
def test_missing_zarr_chunk(version, part, adata, write_zarr):
    """RELIABILITY 30: a chunk that was not copied would read as zeros, with no error; it is noticed."""
    path = write_zarr(adata, version=version)
    group = zarr.open_group(path, mode="r+")
    values = group[f"X/{part}"][:]
    array = group["X"].create_array(part, shape=values.shape, chunks=(50,), dtype=values.dtype, overwrite=True)
    array[:] = values
    (path / ".zmetadata").unlink(missing_ok=True)
    with open_cells(path) as cells:
        assert cells.slots["X"].rows(0, 37).nnz == len(values)
    (path / "X" / part / ("1" if version == 2 else "c/1")).unlink()
    with open_cells(path) as cells, pytest.raises(CellsError, match=f"X/{part}"):
        cells.slots["X"].rows(0, 37)


def test_odd_dtypes(counts, adata, write_h5ad):
    """Half precision, booleans and foreign byte order."""
    path = write_h5ad(adata)
    for dtype in ("f2", "?", ">f4", ">i2", "u8"):
        with h5py.File(path, "r+") as file:
            del file["X"]
            file["X"] = counts.astype(dtype)
        with open_cells(path) as cells:
            rows = cells.slots["X"].rows(0, 37)
            np.testing.assert_array_equal(rows.toarray(), counts.astype(dtype).astype(float))
        with h5py.File(path, "r+") as file:
            by_row = sparse.csr_matrix(counts)
            del file["X"]
            group = file.create_group("X")
            group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": counts.shape})
            group["data"], group["indptr"] = by_row.data.astype(dtype), by_row.indptr.astype(">u8")
            group["indices"] = by_row.indices.astype(">u2")
        with open_cells(path) as cells:
            rows = cells.slots["X"].rows(0, 37)
            np.testing.assert_array_equal(rows.toarray(), counts.astype(dtype).astype(float))


def test_duplicates_are_summed(adata, write_h5ad):
    """RELIABILITY 12: entries stored twice are added up, in a wider type than they have; unsorted ones are sorted."""
    doubled = sparse.csr_matrix((np.array([200, 100, 7], "u1"), [4, 4, 1], [0, 3, *[3] * 36]), shape=(37, 11))
    adata.X = doubled
    for source in (adata, write_h5ad(adata)):
        with open_cells(source) as cells:
            rows = cells.slots["X"].rows(0, 37)
            assert rows[0].toarray().tolist() == [[0, 7, 0, 0, 300, 0, 0, 0, 0, 0, 0]]
            assert rows.has_canonical_format
