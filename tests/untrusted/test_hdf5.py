"""HDF5 files: links, storage, sizes, endless groups."""

from __future__ import annotations

import fcntl
import importlib.util
from pathlib import Path

import h5py
import numpy as np
import pytest

import scstore
from scstore.cells.opening import open_cells
from scstore.errors import CellsError, DamagedError, NotAStoreError
from scstore.untrusted.hdf5 import open_hdf5


def replace(path: Path, name: str, **dataset: object) -> None:
    """Put another HDF5 data set in the place of one, with the same attributes."""
    with h5py.File(path, "r+") as file:
        attributes = dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, **dataset).attrs.update(attributes)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("X/data", (10**12,)),
        ("X/indices", (10**12,)),
        ("X/indptr", (10**12,)),
        ("obs/n", (10**13,)),
        ("var/_index", (10**11,)),
    ],
)
def test_absurd_arrays(name, shape, adata, write_h5ad):
    """RELIABILITY 40: an array that declares terabytes which are not there is refused before anything is allocated."""
    path = write_h5ad(adata)
    kind = h5py.string_dtype() if name == "var/_index" else "i8"
    replace(path, name, shape=shape, dtype=kind, chunks=(1000,))
    with pytest.raises(CellsError, match=f"{name} declares"):
        open_cells(path)


def test_absurd_dense_matrix(adata, write_h5ad):
    """RELIABILITY 40: a dense X of another size than obs and var is refused before it is read."""
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        del file["X"]
        file.create_dataset("X", shape=(37, 10**6), dtype="f8", chunks=(37, 1000))
    with pytest.raises(CellsError, match="X declares 296,000,000 bytes"):
        open_cells(path)
    with h5py.File(path, "r+") as file:
        del file["X"]
        file.create_dataset("X", shape=(37, 1000), dtype="f8")
    with pytest.raises(CellsError, match=r"\(37, 1000\)"):
        open_cells(path)


@pytest.mark.parametrize("part", ["X", "X/data", "obs", "raw", "layers/extra", "uns/never_read"])
def test_external_links(part, adata, write_h5ad, tmp_path):
    """I5: links into other files are not followed."""
    path = write_h5ad(adata)
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["data"] = np.arange(5)
    with h5py.File(path, "r+") as file:
        if part in file:
            del file[part]
        file[part] = h5py.ExternalLink(str(secret), "/data")
    with pytest.raises(CellsError, match=f"{part} is a link"):
        open_cells(path)


def test_external_and_virtual_values(adata, write_h5ad, tmp_path):
    """I5: values that lie in other files are not read."""
    path = write_h5ad(adata)
    (tmp_path / "secret.bin").write_bytes(bytes(4 * adata.X.nnz))
    elsewhere = [(str(tmp_path / "secret.bin"), 0, h5py.h5f.UNLIMITED)]
    replace(path, "X/data", shape=(adata.X.nnz,), dtype="f4", external=elsewhere)
    with pytest.raises(CellsError, match="X/data lie in other files"):
        open_cells(path)
    layout = h5py.VirtualLayout(shape=(adata.X.nnz,), dtype="f4")
    with h5py.File(path, "r+") as file:
        del file["X/data"]
        layout[:5] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "data", shape=(5,))
        file.create_virtual_dataset("X/data", layout)
    with pytest.raises(CellsError, match="X/data lie in other files"):
        open_cells(path)


def test_links_inside_the_file_are_followed(adata, write_h5ad):
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        file.move("X", "elsewhere")
        file["X"] = h5py.SoftLink("/elsewhere")
        file["obs/again"] = file["obs/n"]
    with open_cells(path) as cells:
        np.testing.assert_array_equal(cells.slots["X"].rows(0, 37).toarray(), adata.X.toarray())


def test_groups_in_a_circle(adata, write_h5ad):
    """RELIABILITY 40: a group that contains itself does not hang the reader."""
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        file["obs/obs"] = file["obs"]
    with pytest.raises(CellsError, match="nested without end"):
        open_cells(path)


def test_open_elsewhere(adata, write_h5ad):
    """A file that another handle writes to is refused with a reason."""
    path = write_h5ad(adata)
    with path.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CellsError, match="another program"):
            open_cells(path)


def test_other_readers_get_the_error_they_ask_for(adata, write_h5ad, tmp_path):
    path = write_h5ad(adata)
    open_hdf5(path).close()
    replace(path, "obs/n", shape=(10**13,), dtype="i8", chunks=(1000,))
    with pytest.raises(DamagedError, match="obs/n"):
        open_hdf5(path, error=DamagedError)
    (tmp_path / "text").write_text("words")
    for name in ("text", "absent", "."):
        with pytest.raises(NotAStoreError):
            open_hdf5(tmp_path / name, error=DamagedError, unreadable=NotAStoreError)


def test_real_files_pass(shared: Path) -> None:
    for file in sorted((shared / "cells").glob("*.h5ad")):
        open_hdf5(file).close()


def test_names_that_are_not_text(adata, write_h5ad):
    """h5py gives such a name as bytes."""
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        file.id.links.create_hard(b"obs/\xff\xfe", file.id, b"obs/n")
    open_hdf5(path).close()
    open_cells(path).close()


def behind_a_filter(path: Path, name: str, number: int, head: bytes) -> None:
    """Put a data set behind a filter of hdf5plugin's; its chunk begins with ``head`` and is never decoded."""
    with h5py.File(path, "r+") as file:
        attributes, kind, shape = dict(file[name].attrs), file[name].id.get_type(), file[name].shape
        del file[name]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(shape)
        properties.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (3,))
        made = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), properties)
        made.write_direct_chunk((0,) * len(shape), head + bytes(60), 0)
        file[name].attrs.update(attributes)


def read_all(path: Path) -> None:
    scstore.open(path).to_anndata()


def read_rows(path: Path) -> None:
    with open_cells(path) as cells:
        for matrix in cells.slots.values():
            matrix.rows(0, 5)


# How a chunk of so many bytes begins.
HEADS = {
    32001: lambda size: b"\2\1\1\4" + size.to_bytes(4, "little") + bytes(8),
    32004: lambda size: size.to_bytes(8, "big"),
    32008: lambda size: size.to_bytes(8, "big"),
    32015: lambda size: b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little"),
}


@pytest.mark.skipif(importlib.util.find_spec("hdf5plugin") is not None, reason="hdf5plugin is installed")
@pytest.mark.parametrize("number", [*HEADS, 32026, 40000])
def test_filters_that_are_not_installed(number, adata, write_h5ad):
    """RELIABILITY 51: the filter and the package are named in both stages; what is not used does not decide."""
    adata.layers["other"] = adata.X.copy()
    path = write_h5ad(adata)
    behind_a_filter(path, "layers/other/data", number, b"")
    with open_cells(path) as cells:
        assert cells.slots["X"].rows(0, 37).nnz == adata.X.nnz
    assert scstore.open(path).n_obs == 37
    for read in (read_all, read_rows):
        with pytest.raises(CellsError, match=rf"{number}.*hdf5plugin") as caught:
            read(path)
        assert "damaged" not in str(caught.value)
    path = write_h5ad(adata, "other.h5ad")
    behind_a_filter(path, "obs/n", number, b"")
    for opens in (lambda path: scstore.open(path).obs, open_cells):
        with pytest.raises(CellsError, match=rf"obs/n .*{number}.*hdf5plugin"):
            opens(path)


@pytest.mark.parametrize("number", HEADS)
def test_chunks_of_filters_that_say_too_much(number, adata, write_h5ad):
    """RELIABILITY 63: what they unpack to is stated, and allocated."""
    path = write_h5ad(adata)
    behind_a_filter(path, "obs/n", number, HEADS[number](37 * 8))
    open_hdf5(path).close()
    behind_a_filter(path, "obs/n", number, HEADS[number](1 << 31))
    with pytest.raises(CellsError, match="2,147,483,648 bytes, not"):
        open_hdf5(path)
