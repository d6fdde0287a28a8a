"""Zarr folders: codecs, sizes, damage."""

from __future__ import annotations

import json
from pathlib import Path

import numcodecs
import pytest

from scstore.cells.opening import open_cells
from scstore.errors import CellsError
from scstore.untrusted.zarr import zstd_content_size


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
    with pytest.raises(CellsError, match="X/data declares"):
        open_cells(path)
    path = write_zarr(adata, "chunks.zarr", version=version)
    chunks = (
        {"chunks": [10**11]}
        if version == 2
        else {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**11]}}}
    )
    edit(path / "X" / "data", **chunks)
    with pytest.raises(CellsError, match="(one chunk|the shard index) of X/data"):
        open_cells(path)


def frame(size: int, *, single: bool = True) -> bytes:
    """Head of a Zstandard frame that announces so many bytes."""
    descriptor = 0b1100_0000 | (0b0010_0000 if single else 0)
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + (b"" if single else b"\x50") + size.to_bytes(8, "little")


def test_decompression_bomb(adata, write_zarr):
    """RELIABILITY 40: a chunk that announces terabytes is not handed to the decoder."""
    path = write_zarr(adata)
    next((path / "X" / "data" / "c").iterdir()).write_bytes(frame(1 << 42) + bytes(20))
    with open_cells(path) as cells, pytest.raises(CellsError, match="4,398,046,511,104 bytes"):
        cells.slots["X"].rows(0, 5)


def test_zstd_content_size():
    for size in (0, 1, 200, 255, 256, 300, 65_791, 65_792, 1 << 20):
        assert zstd_content_size(numcodecs.Zstd().encode(bytes(size))[:18]) == size
    assert zstd_content_size(frame(1 << 40, single=False)) == 1 << 40
    assert zstd_content_size(b"\x28\xb5\x2f") == 0
    assert zstd_content_size(b"not a frame at all") == 0


def test_zarr_that_is_damaged(adata, write_zarr):
    """RELIABILITY 14: metadata and chunks that do not parse."""
    path = write_zarr(adata)
    next((path / "X" / "data" / "c").iterdir()).write_bytes(b"nonsense")
    with open_cells(path) as cells, pytest.raises(CellsError, match="X, rows 0 to 5"):
        cells.slots["X"].rows(0, 5)
    (path / "zarr.json").write_text("{")
    with pytest.raises(CellsError, match=r"cells\.zarr"):
        open_cells(path)
