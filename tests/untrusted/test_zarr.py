"""Zarr folders: codecs, sizes, damage."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy import sparse

import scstore
from scstore.cells.expression import find_expression
from scstore.cells.opening import open_cells
from scstore.errors import CellsError
from scstore.untrusted.guards import FLOOR
from scstore.untrusted.zarr import open_zarr


def edit(path: Path, **changes: object) -> None:
    """Change the metadata of a Zarr array, and drop the consolidated copy of it."""
    file = next(path / name for name in (".zarray", "zarr.json") if (path / name).exists())
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    root = next(p for p in path.parents if p.suffix == ".zarr")
    (root / ".zmetadata").unlink(missing_ok=True)
    if (root / "zarr.json").exists():
        metadata = json.loads((root / "zarr.json").read_text())
        metadata.pop("consolidated_metadata", None)
        (root / "zarr.json").write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    "codecs",
    [
        {"compressor": {"id": "pickle", "protocol": 0}, "filters": None, "dtype": "<f4"},
        {"filters": [{"id": "vlen-utf8"}, {"id": "pickle"}], "dtype": "|O", "fill_value": ""},
    ],
)
@pytest.mark.parametrize("name", ["X/data", "obs/n", "obs/_index"])
def test_pickle_codec(name, codecs, adata, write_zarr, tmp_path):
    """RELIABILITY 37: a Zarr array whose codec is pickle never gets to run anything."""
    path = write_zarr(adata, version=2)
    name = f"{name}/values" if (path / name / "values").exists() else name  # newer anndata: nullable strings
    canary = tmp_path / "canary"
    payload = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
    edit(path / name, **codecs)
    for chunk in (path / name).iterdir():
        if not chunk.name.startswith("."):
            chunk.write_bytes(payload)
    with pytest.raises(CellsError, match=f"{name} is stored as a Python pickle"):
        open_cells(path)
    assert not canary.exists()


@pytest.mark.parametrize("version", [2, 3])
def test_absurd_zarr_chunks(version, adata, write_zarr):
    """RELIABILITY 40: array metadata that declares absurd sizes or chunks."""
    path = write_zarr(adata, version=version)
    edit(path / "X" / "data", shape=[10**13])
    with pytest.raises(CellsError, match="X/indptr does not describe 10,000,000,000,000 values"):
        open_cells(path)
    path = write_zarr(adata, "chunks.zarr", version=version)
    chunks = (
        {"chunks": [10**11]}
        if version == 2
        else {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**11]}}}
    )
    edit(path / "X" / "data", **chunks)
    with open_cells(path) as cells, pytest.raises(CellsError, match="X"):
        cells.slots["X"].rows(0, 5)


def test_zarr_that_is_damaged(adata, write_zarr):
    """RELIABILITY 14: metadata and chunks that do not parse."""
    path = write_zarr(adata)
    next((path / "X" / "data" / "c").iterdir()).write_bytes(b"nonsense")
    with open_cells(path) as cells, pytest.raises(CellsError, match="X, rows 0 to 5"):
        cells.slots["X"].rows(0, 5)
    (path / "zarr.json").write_text("{")
    with pytest.raises(CellsError, match=r"cells\.zarr"):
        open_cells(path)


LINKS = {
    "a file of metadata": "obs/zarr.json",
    "a group": "obs",
    "a chunk": "X/data/c/0",
    "a folder of chunks": "X/data/c",
    "a file that is not Zarr's": "notes.txt",
}


@pytest.mark.parametrize("what", LINKS)
@pytest.mark.parametrize("leads", ["out", "in", "nowhere"])
def test_links(what, leads, adata, write_zarr, tmp_path):
    """RELIABILITY 62: a link in the folder is not followed; the folder itself may be one."""
    path = write_zarr(adata, version=3)
    (path / "notes.txt").write_text("words")
    place = path / LINKS[what]
    target = (path if leads == "in" else tmp_path) / "elsewhere"
    place.rename(target)
    if leads == "nowhere":
        target = tmp_path / ".git" / "annex" / "objects" / "lost"
    place.symlink_to(target)
    with pytest.raises(CellsError, match="link to"), open_cells(path) as cells:
        cells.slots["X"].rows(0, 5)


def test_a_link_to_the_folder(adata, write_zarr, tmp_path):
    path = write_zarr(adata, version=3)
    (tmp_path / "link").symlink_to(path)
    with open_cells(tmp_path / "link") as cells:
        assert cells.slots["X"].rows(0, 37).nnz == adata.X.nnz


@pytest.mark.parametrize("name", ["obs/zarr.json", "X/data/c/0", "obs/fifo"])
def test_pipes(name, adata, write_zarr):
    """RELIABILITY 62: what would never answer is not opened."""
    path = write_zarr(adata, version=3)
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    with pytest.raises(CellsError, match="pipe"), open_cells(path) as cells:
        cells.slots["X"].rows(0, 5)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("part", ["obs", "var", "obsm", "uns", "raw/var"])
def test_arrays_that_store_nothing(part, version, adata, write_zarr):
    """RELIABILITY 63: what is read whole may not declare far more than its part of the folder stores."""
    adata.raw = adata
    path = write_zarr(adata, version=version)
    group = zarr.open_group(path, mode="r+", use_consolidated=False).require_group(part)
    group.create_array("small", shape=(37,), chunks=(37,), dtype="f8")
    opened = open_zarr(path)
    assert not opened[f"{part}/small"][:].any()
    for i in range(3):
        group.create_array(f"large{i}", shape=(FLOOR // 16,), chunks=(1000,), dtype="f8")
    opened = open_zarr(path)
    with pytest.raises(CellsError, match=f"{part} declares"):
        opened[f"{part}/small"]


@pytest.mark.parametrize("layout", ["dense", "csr"])
@pytest.mark.parametrize("version", [2, 3])
def test_zeros_that_zarr_leaves_out(layout, version, adata, write_zarr):
    """RELIABILITY 50: columns and layers of zeros have no chunks, and are read."""
    adata.obs["zero"] = np.zeros(37)
    adata.layers["zero"] = adata.X.copy()
    adata.layers["zero"].data[:] = 0
    if layout == "dense":
        adata.layers["zero"] = adata.layers["zero"].toarray()
    path = write_zarr(adata, version=version)
    with open_cells(path) as cells:
        assert not cells.obs["zero"].any()
        assert not cells.slots["layers/zero"].rows(0, 37).toarray().any()
        assert cells.slots["X"].rows(0, 37).nnz == adata.X.nnz


def in_chunks(path: Path, name: str, size: int, **more: int) -> Path:
    """Write an array again in smaller chunks; the folder of its files."""
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    values, attributes = group[name][:], dict(group[name].attrs)
    shards = {key: (value,) for key, value in more.items()}
    array = group.create_array(name, shape=values.shape, chunks=(size,), dtype=values.dtype, overwrite=True, **shards)
    array[:] = values
    array.attrs.update(attributes)
    return path / name / ("c" if array.metadata.zarr_format == 3 else "")


@pytest.mark.parametrize(("version", "more"), [(2, {}), (3, {}), (3, {"shards": 20})])
@pytest.mark.parametrize(("part", "size"), [("data", 10), ("indices", 10), ("indptr", 10)])
def test_lost_chunks(version, more, part, size, adata, write_zarr):
    """RELIABILITY 30: a chunk or shard that was not copied would read as zeros; who reads the matrix is told."""
    adata.layers["other"] = adata.X.copy()
    path = write_zarr(adata, version=version)
    folder = in_chunks(path, f"X/{part}", size, **more)
    with open_cells(path) as cells:
        np.testing.assert_array_equal(cells.slots["X"].rows(0, 37).toarray(), adata.X.toarray())
    (folder / "1").unlink()
    with pytest.raises(CellsError, match=f"X/{part}"), open_cells(path) as cells:
        assert cells.slots["layers/other"].rows(0, 37).nnz == adata.X.nnz
        cells.slots["X"].rows(0, 5)


def test_indices_that_are_all_zero(adata, write_zarr):
    """One entry a cell, of the first gene: Zarr has no file for such indices."""
    adata.X = sparse.csr_matrix((np.arange(1, 38, dtype="f4"), np.zeros(37, int), np.arange(38)), shape=(37, 11))
    path = write_zarr(adata, version=3)
    folder = in_chunks(path, "X/indices", 10)
    assert not folder.exists()
    with open_cells(path) as cells:
        np.testing.assert_array_equal(cells.slots["X"].rows(0, 37).toarray(), adata.X.toarray())


@pytest.mark.parametrize("lost", ["X", "layers/counts"])
def test_expression_is_found_beside_a_slot_that_is_lost(lost, adata, write_zarr):
    """Layers that are not used do not decide; the slot that is asked for does."""
    adata.layers["counts"] = adata.X.copy()
    path = write_zarr(adata, version=3)
    (in_chunks(path, f"{lost}/indices", 10) / "1").unlink()
    with open_cells(path) as cells:
        other = "X" if lost != "X" else "layers/counts"
        assert find_expression(cells).slot == other
        with pytest.raises(CellsError, match=f"{lost}/indices"):
            find_expression(cells, slot=lost)


@pytest.mark.parametrize("version", [2, 3])
def test_a_view_of_which_a_chunk_is_lost(version, adata, write_zarr):
    """RELIABILITY 30: features of another's file are no silent zeros."""
    adata.obsm["X_pca"] = np.arange(1, 75, dtype="f4").reshape(37, 2)
    path = write_zarr(adata, version=version)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    attributes = dict(group["obsm/X_pca"].attrs)
    array = group["obsm"].create_array("X_pca", shape=(37, 2), chunks=(10, 1), dtype="f4", overwrite=True)
    array[:] = adata.obsm["X_pca"]
    array.attrs.update(attributes)
    np.testing.assert_array_equal(scstore.open(path).view("X_pca")[:], adata.obsm["X_pca"])
    (path / "obsm" / "X_pca" / ("1.0" if version == 2 else "c/1/0")).unlink()
    with pytest.raises(CellsError, match="obsm/X_pca"):
        scstore.open(path).view("X_pca")
