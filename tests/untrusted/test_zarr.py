"""Zarr folders: codecs, sizes, damage."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from scipy import sparse

import scstore
from scstore.cells.expression import find_expression
from scstore.cells.opening import open_cells
from scstore.errors import CellsError
from scstore.untrusted import zarr as bounded
from scstore.untrusted.guards import FLOOR
from scstore.untrusted.zarr import PACKERS, BoundedStore, open_zarr, unpacked_size


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


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "blosc": lambda data: bytes(numcodecs.Blosc().encode(data)),
    "zstd": lambda data: bytes(numcodecs.Zstd().encode(data)),
    "gzip": gzip.compress,
    "zlib": zlib.compress,
}

# A frame that does not state its content: three blocks of 128 kB, each a byte that is repeated.
UNSTATED = b"\x28\xb5\x2f\xfd\x00\x58" + 2 * ((1 << 17 << 3 | 2).to_bytes(3, "little") + b"a")
UNSTATED += (1 << 17 << 3 | 3).to_bytes(3, "little") + b"a"


def frame(size: int, *, single: bool = True) -> bytes:
    """A Zstandard frame that states so many bytes, and has an empty block."""
    descriptor = 0b1100_0000 | (0b0010_0000 if single else 0)
    head = b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + (b"" if single else b"\x50") + size.to_bytes(8, "little")
    return head + b"\x01\0\0"


def test_every_packer_is_tried() -> None:
    assert COMPRESSORS.keys() == PACKERS


@pytest.mark.parametrize("name", COMPRESSORS)
def test_sizes(name: str) -> None:
    for size in (1, 255, 256, 65_791, 65_792, 1 << 20):
        for data in (bytes(size), np.random.default_rng(0).bytes(size)):
            assert unpacked_size(name, COMPRESSORS[name](data), limit=size) == size
    assert unpacked_size(name, COMPRESSORS[name](bytes(1 << 24)), limit=1000) > 1000


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_streams_of_several_members(name: str) -> None:
    assert unpacked_size(name, 3 * COMPRESSORS[name](bytes(1000)), limit=5000) == 3000


def test_frames_of_zstandard() -> None:
    assert numcodecs.Zstd().decode(UNSTATED) == b"a" * 3 * (1 << 17)
    assert unpacked_size("zstd", UNSTATED, limit=0) == 3 << 17
    assert unpacked_size("zstd", frame(1 << 40) + frame(1 << 40, single=False), limit=0) == 1 << 41
    skipped = struct.pack("<II", 0x184D2A53, 5) + b"12345"
    assert unpacked_size("zstd", skipped + UNSTATED, limit=0) == 3 << 17
    for broken in (UNSTATED[:-5], b"nonsense", frame(1 << 40)[:-3], b"\x28\xb5\x2f\xfd"):
        with pytest.raises((ValueError, IndexError)):
            unpacked_size("zstd", broken, limit=0)


def make(path: Path, values: Any, codec: str, *, version: int, form: str) -> Path:
    """Write values in one chunk, or two in a shard, of an array `obs/a`; the file of it."""
    group = zarr.open_group(path, mode="w", zarr_format=version).create_group("obs")
    compressor: Any = numcodecs.get_codec({"id": codec})
    if version == 3:
        known = {"blosc": zarr.codecs.BloscCodec, "zstd": zarr.codecs.ZstdCodec, "gzip": zarr.codecs.GzipCodec}
        compressor = known[codec]() if codec in known else zarr.codecs.numcodecs.Zlib()
    shards = {"shards": values.shape} if form == "shard" else {}
    chunks = (len(values) // 2,) if form == "shard" else values.shape
    kind = {"shape": values.shape, "chunks": chunks, "dtype": values.dtype if values.dtype != object else str}
    array = group.create_array("a", compressors=compressor, **kind, **shards)
    array[:] = values
    return path / "obs" / "a" / ("0" if version == 2 else "c/0")


def replace(file: Path, packed: bytes, form: str) -> None:
    """Put other bytes in the place of a chunk, of the second one in a shard."""
    if form == "shard":
        index = np.frombuffer(file.read_bytes()[-36:-4], "<u8").reshape(2, 2).copy()
        whole = bytearray(file.read_bytes()[:-36])
        index[1] = len(whole), len(packed)
        raw = index.tobytes()
        checksum = numcodecs.get_codec({"id": "crc32c"}).encode(np.frombuffer(raw, np.uint8)).tobytes()[-4:]
        packed = bytes(whole) + packed + raw + checksum
    file.write_bytes(packed)


FORMS = [(2, "chunk"), (3, "chunk"), (3, "shard")]


@pytest.mark.parametrize(("version", "form"), FORMS)
@pytest.mark.parametrize("codec", COMPRESSORS)
@pytest.mark.filterwarnings("ignore")  # zarr's, of codecs outside its specification
def test_numbers(codec: str, version: int, form: str, tmp_path: Path) -> None:
    """RELIABILITY 63: a chunk may unpack to what its array declares for one."""
    values = np.arange(4000)
    file = make(tmp_path / "a.zarr", values, codec, version=version, form=form)
    opened = open_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(opened["obs/a"][:], values)
    np.testing.assert_array_equal(opened["obs/a"][3990:], values[3990:])
    replace(file, COMPRESSORS[codec](bytes(1 << 20)), form)
    with pytest.raises(CellsError, match="unpacks to"):
        open_zarr(tmp_path / "a.zarr")["obs/a"][:]
    with pytest.raises(CellsError, match="unpacks to"):
        open_zarr(tmp_path / "a.zarr")["obs/a"][3990:]


@pytest.mark.parametrize(("version", "form"), FORMS)
@pytest.mark.parametrize("codec", COMPRESSORS)
@pytest.mark.filterwarnings("ignore")
def test_texts(codec: str, version: int, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RELIABILITY 63: no more texts than a chunk has bytes for, and no more bytes than texts pack into."""
    values = np.array([f"text {i}" for i in range(40)], dtype=object)
    file = make(tmp_path / "a.zarr", values, codec, version=version, form=form)
    assert list(open_zarr(tmp_path / "a.zarr")["obs/a"][:]) == list(values)
    half = bytes(numcodecs.VLenUTF8().encode(values[20:] if form == "shard" else values))
    for number in (1 << 31, 41):
        replace(file, COMPRESSORS[codec](struct.pack("<I", number) + half[4:]), form)
        with pytest.raises(CellsError, match=f"{number:,} texts"):
            open_zarr(tmp_path / "a.zarr")["obs/a"][:]
    replace(file, COMPRESSORS[codec](half[:4] + bytes(1 << 20)), form)
    monkeypatch.setattr(bounded, "FLOOR", 1 << 12)
    with pytest.raises(CellsError, match="unpacks to"):
        open_zarr(tmp_path / "a.zarr")["obs/a"][:]


REFUSED = {
    "pickle": {"id": "pickle", "protocol": 0},
    "packbits": {"id": "packbits"},
    "categorize": {"id": "categorize", "labels": ["a"], "dtype": "<U1000000", "astype": "u1"},
    "to text": {"id": "astype", "encode_dtype": "u1", "decode_dtype": "S1000000"},
    "bz2": {"id": "bz2"},
    "delta": {"id": "delta", "dtype": "<f4"},
    "json2": {"id": "json2"},
    "not known": {"id": "made-up"},
    "no name": {"id": None},
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("place", ["uns/never/read", "obs/a"])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("copy", ["own", "consolidated"])
@pytest.mark.filterwarnings("ignore")
def test_codecs_that_are_not_read(name: str, place: str, version: int, copy: str, tmp_path: Path) -> None:
    """RELIABILITY 62: anywhere in the folder, whether or not anything is stored."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
    group.create_array(place, shape=(10,), dtype="u1")
    if copy == "consolidated":
        zarr.consolidate_metadata(tmp_path / "a.zarr")
    file = tmp_path / "a.zarr" / (f"{place}/.zarray" if version == 2 else f"{place}/zarr.json")
    if copy == "consolidated":
        file = tmp_path / "a.zarr" / (".zmetadata" if version == 2 else "zarr.json")
    about = json.loads(file.read_text())
    node = about
    if copy == "consolidated":
        node = about if version == 2 else about["consolidated_metadata"]
        node = node["metadata"][f"{place}/.zarray" if version == 2 else place]
    codec = REFUSED[name]
    if version == 2:
        node["filters"] = [codec]
    else:
        more = {key: value for key, value in codec.items() if key != "id"}
        node["codecs"].append({"name": f"numcodecs.{codec['id']}", "configuration": more})
    file.write_text(json.dumps(about))
    with pytest.raises(CellsError, match=place):
        BoundedStore(tmp_path / "a.zarr")


@pytest.mark.filterwarnings("ignore")
def test_codecs_are_those_of_the_version(tmp_path: Path) -> None:
    """RELIABILITY 62: Zarr v2 passes over what only v3 has, so no harmless codecs may stand there for others."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("a", shape=(10,), dtype="u1")
    file = tmp_path / "a.zarr" / "a" / ".zarray"
    decoy = {
        "codecs": [{"name": "bytes"}],
        "chunk_grid": {"configuration": {"chunk_shape": [10]}},
        "data_type": "uint8",
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), **decoy, "filters": [{"id": "pickle"}]}))
    with pytest.raises(CellsError, match="a is stored as a Python pickle"):
        BoundedStore(tmp_path / "a.zarr")


@pytest.mark.parametrize("change", [{"index_location": "start"}, {"index_codecs": [{"name": "bytes"}]}])
def test_another_index_of_shards(change: dict[str, Any], tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    group.create_array("a", shape=(40,), chunks=(10,), shards=(20,), dtype="i4")
    file = tmp_path / "a.zarr" / "a" / "zarr.json"
    about = json.loads(file.read_text())
    about["codecs"][0]["configuration"] |= change
    file.write_text(json.dumps(about))
    with pytest.raises(CellsError, match="index of shards"):
        BoundedStore(tmp_path / "a.zarr")


def test_packed_twice(tmp_path: Path) -> None:
    """The ratios of two compressors multiply."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("a", shape=(10,), dtype="u1", filters=[numcodecs.GZip()], compressors=numcodecs.Zlib())
    with pytest.raises(CellsError, match="a is packed twice"):
        BoundedStore(tmp_path / "a.zarr")


def test_a_chunk_longer_than_its_array(tmp_path: Path) -> None:
    """RELIABILITY 63: a file with holes takes no room on the disk."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    array = group.create_array("a", shape=(10,), dtype="u1", compressors=None)
    array[:] = 1
    with (tmp_path / "a.zarr" / "a" / "c" / "0").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(CellsError, match="1,099,511,627,776 bytes"):
        open_zarr(tmp_path / "a.zarr")["a"][:]


@pytest.mark.parametrize("size", [10, 4000])
@pytest.mark.filterwarnings("ignore")  # zarr's, of the two
def test_two_descriptions_of_one_array(size: int, tmp_path: Path) -> None:
    """A chunk is held against the metadata of v2 and of v3 where a folder has both, as one that was migrated has."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    array = group.create_array("a", shape=(4000,), chunks=(4000,), dtype="u1", compressors=zarr.codecs.ZstdCodec())
    array[:] = np.arange(4000) % 7
    old = {"zarr_format": 2, "shape": [size], "chunks": [size], "dtype": "|u1", "fill_value": 0, "order": "C"}
    old |= {"compressor": {"id": "zstd", "level": 0}, "filters": None}
    (tmp_path / "a.zarr" / "a" / ".zarray").write_text(json.dumps(old))
    with contextlib.nullcontext() if size == 4000 else pytest.raises(CellsError, match="unpacks to 4,000"):
        assert open_zarr(tmp_path / "a.zarr")["a"][:].max() == 6
