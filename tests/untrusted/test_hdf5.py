"""HDF5 files: links, storage, sizes, endless groups."""

from __future__ import annotations

import fcntl
from pathlib import Path

import h5py
import numpy as np
import pytest

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
    with pytest.raises(CellsError):
        open_cells(path)
