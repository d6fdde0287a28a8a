"""What a file declares is held against what it is; nothing in it runs or reaches outside it."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from scstore.cells.expression import find_expression
from scstore.cells.opening import open_cells
from scstore.errors import CellsError
from scstore.untrusted.bounded_store import zstd_content_size
from scstore.untrusted.guards import Guard, open_hdf5, open_zarr, reading
from scstore.untrusted.limits import CHUNK_LIMIT


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
def test_absurd_hdf5_arrays(name, shape, adata, write_h5ad):
    """RELIABILITY 40: an array that declares terabytes which are not there is refused before anything is allocated."""
    path = write_h5ad(adata)
    kind = h5py.string_dtype() if name == "var/_index" else "i8"
    replace(path, name, shape=shape, dtype=kind, chunks=(1000,))
    begin = time.perf_counter()
    with pytest.raises(CellsError, match=rf"{name} declares [\d,]+ bytes .* made to exhaust memory"):
        open_cells(path)
    assert time.perf_counter() - begin < 1


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
    with pytest.raises(CellsError, match=r"X has shape \(37, 1000\), but obs and var describe 37 cells × 11 genes"):
        open_cells(path)


def test_parts_that_do_not_fit(adata, write_h5ad):
    """RELIABILITY 40: lengths of indptr, indices and data are compared with each other and the shape."""
    path = write_h5ad(adata)
    n = adata.X.nnz
    for name, data, words in (
        ("X/indices", np.zeros(n - 1, "i4"), r"do not fit each other: indptr has 38 entries \(expected 38\)"),
        ("X/indptr", np.zeros(30, "i4"), r"indptr has 30 entries \(expected 38\)"),
        ("X/indptr", np.zeros(38, "i4"), "X/indptr does not describe"),
        ("X/indptr", np.r_[0, n, np.zeros(35), n].astype("i4"), "X/indptr does not describe"),
        ("X/indptr", np.r_[np.zeros(37), n].astype("i4"), "X/indptr does not describe"),
        ("X/indptr", np.r_[-1, np.zeros(36), n].astype("i4"), "X/indptr does not describe"),
        ("X/indptr", np.zeros(38, "f4"), "X/indptr is of type float32 with 1 dimensions"),
        ("X/data", np.zeros((n, 1), "f4"), "X/data is of type float32 with 2 dimensions"),
        ("X/data", np.zeros(n, "S3"), r"X/data is of type \|S3"),
    ):
        broken = path.with_name("broken.h5ad")
        shutil.copy(path, broken)
        replace(broken, name, data=data)
        with pytest.raises(CellsError, match=words):
            open_cells(broken)


@pytest.mark.parametrize("column", [-1, 11, 2**31 - 1])
def test_indices_outside(column, adata, write_h5ad, write_zarr):
    """RELIABILITY 40: a column index outside the matrix is refused when its row is read."""
    adata.X.indices[adata.X.indptr[20]] = column
    path = write_h5ad(adata)
    with open_cells(path) as cells:
        cells.slots["X"].rows(0, 20)
        words = rf"X: row 20 has a value in column {column:,} of a matrix with 11 columns"
        with pytest.raises(CellsError, match=words):
            cells.slots["X"].rows(10, 30)
    with pytest.raises(CellsError, match="row 20 has a value in column"), open_cells(write_zarr(adata)) as cells:
        find_expression(cells)


@pytest.mark.parametrize("part", ["X", "X/data", "obs", "raw", "layers/extra"])
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
    with pytest.raises(CellsError, match="a link into another file"):
        open_cells(path)


def test_external_and_virtual_values(adata, write_h5ad, tmp_path):
    """I5: values that lie in other files are not read."""
    path = write_h5ad(adata)
    (tmp_path / "secret.bin").write_bytes(bytes(4 * adata.X.nnz))
    replace(
        path,
        "X/data",
        shape=(adata.X.nnz,),
        dtype="f4",
        external=[(str(tmp_path / "secret.bin"), 0, h5py.h5f.UNLIMITED)],
    )
    with pytest.raises(CellsError, match="the values of X/data lie in other files"):
        open_cells(path)
    layout = h5py.VirtualLayout(shape=(adata.X.nnz,), dtype="f4")
    with h5py.File(path, "r+") as file:
        del file["X/data"]
        layout[:5] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "data", shape=(5,))
        file.create_virtual_dataset("X/data", layout)
    with pytest.raises(CellsError, match="the values of X/data lie in other files"):
        open_cells(path)


def test_groups_in_a_circle(adata, write_h5ad):
    """RELIABILITY 40: a group that contains itself does not hang the reader."""
    path = write_h5ad(adata)
    with h5py.File(path, "r+") as file:
        file["obs/obs"] = file["obs"]
    with pytest.raises(CellsError, match="nested without end"):
        open_cells(path)


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
    ("codecs", "words"),
    [
        ({"compressor": {"id": "pickle", "protocol": 0}, "filters": None, "dtype": "<f4"}, "as a Python pickle"),
        ({"filters": [{"id": "vlen-utf8"}, {"id": "pickle"}], "dtype": "|O", "fill_value": ""}, "as a Python pickle"),
    ],
)
@pytest.mark.parametrize("name", ["X/data", "obs/n", "obs/_index"])
def test_pickle_codec(name, codecs, words, adata, write_zarr, tmp_path):
    """RELIABILITY 37: a Zarr array whose codec is pickle never gets to run anything."""
    path = write_zarr(adata, version=2)
    canary = tmp_path / "canary"
    payload = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
    edit(path / name, **codecs)
    for chunk in (path / name).iterdir():
        if not chunk.name.startswith("."):
            chunk.write_bytes(payload)
    with pytest.raises(CellsError, match=words):
        open_cells(path)
    assert not canary.exists()


@pytest.mark.parametrize("version", [2, 3])
def test_absurd_zarr_chunks(version, adata, write_zarr):
    """RELIABILITY 40: array metadata that declares absurd sizes or chunks."""
    path = write_zarr(adata, version=version)
    edit(path / "X" / "data", shape=[10**13])
    with pytest.raises(CellsError, match="X/data declares"):
        open_cells(path)
    path = write_zarr(adata, "chunks.zarr", version=version)
    chunks = (
        {"chunks": [10**11]}
        if version == 2
        else {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**11]}}}
    )
    edit(path / "X" / "data", **chunks)
    words = rf"one chunk of X/data decodes to 400,000,000,000 bytes; at most {CHUNK_LIMIT:,}"
    with pytest.raises(CellsError, match=words):
        open_cells(path)


def frame(size: int, *, single: bool = True) -> bytes:
    """Head of a Zstandard frame that announces so many bytes."""
    descriptor = 0b1100_0000 | (0b0010_0000 if single else 0)
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + (b"" if single else b"\x50") + size.to_bytes(8, "little")


def test_decompression_bomb(adata, write_zarr):
    """RELIABILITY 40: a chunk that announces terabytes is not handed to the decoder."""
    path = write_zarr(adata)
    next((path / "X" / "data" / "c").iterdir()).write_bytes(frame(1 << 42) + bytes(20))
    begin = time.perf_counter()
    with open_cells(path) as cells, pytest.raises(CellsError, match="announces 4,398,046,511,104 bytes when decoded"):
        cells.slots["X"].rows(0, 5)
    assert time.perf_counter() - begin < 2


def test_zstd_content_size():
    numcodecs = pytest.importorskip("numcodecs", reason="a second implementation to compare with")
    for size in (0, 1, 200, 255, 256, 300, 65_791, 65_792, 1 << 20):
        assert zstd_content_size(numcodecs.Zstd().encode(bytes(size))[:18]) == size
    assert zstd_content_size(frame(1 << 40, single=False)) == 1 << 40
    assert zstd_content_size(b"\x28\xb5\x2f") == 0
    assert zstd_content_size(b"not a frame at all") == 0


def test_zarr_that_is_damaged(adata, write_zarr):
    """RELIABILITY 14: metadata and chunks that do not parse."""
    path = write_zarr(adata)
    next((path / "X" / "data" / "c").iterdir()).write_bytes(b"nonsense")
    with open_cells(path) as cells, pytest.raises(CellsError, match="X, rows 0 to 5, cannot be read"):
        cells.slots["X"].rows(0, 5)
    (path / "zarr.json").write_text("{")
    with pytest.raises(CellsError, match="the Zarr folder cannot be read"):
        open_cells(path)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), r"f: X may not be read \(permission denied\)"),
        (SystemError("Negative size\npassed"), r"f: X cannot be read \(Negative size passed\)\. The file is damaged"),
        (EOFError(), r"f: X cannot be read \(EOFError\)"),
        (CellsError("as it is"), "^as it is$"),
    ],
)
def test_errors_in_plain_words(error, words):
    """I4: whatever a codec raises becomes one message that names file and slot."""
    with pytest.raises(CellsError, match=words), reading("f", "X"):
        raise error


def test_missing_members(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["here"] = 1
        file["dangling"] = h5py.SoftLink("/nowhere")
    with open_hdf5(tmp_path / "a.h5") as file:
        guard = Guard("a.h5", 1000)
        assert guard.member(file, "there") is None
        with pytest.raises(CellsError, match=r"a\.h5: dangling cannot be read"):
            guard.member(file, "dangling")
    group = zarr.open_group(tmp_path / "b.zarr", mode="w")
    group.create_array("here", shape=(1,), dtype="i4")
    opened = open_zarr(tmp_path / "b.zarr")
    assert Guard("b", 1000).member(opened, "there") is None
    assert Guard("b", 1000).member(opened, "here").shape == (1,)


def test_open_elsewhere(adata, write_h5ad):
    """A file that another handle writes to is refused with a reason."""
    path = write_h5ad(adata)
    with path.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CellsError, match=r"cells\.h5ad: another program has it open for writing"):
            open_cells(path)
