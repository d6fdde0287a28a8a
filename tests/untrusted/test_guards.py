"""Members of files and folders, and errors of storage libraries."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import json
import lzma
import os
import struct
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from safetensors.numpy import save_file
from support import make_cells

import scstore
from scstore.cells.opening import open_cells
from scstore.errors import CellsError, DamagedError, GenesError, InputError, NotAStoreError, ScstoreError
from scstore.fsio import digest_file
from scstore.genes.orthologs import read_orthologs
from scstore.genes.table import load_gene_table, read_descriptions
from scstore.panels.panel import load_panel
from scstore.untrusted import guards
from scstore.untrusted.guards import (
    FLOOR,
    Guard,
    check_layout,
    read_unpacked,
    read_weights,
    reading,
    what_is,
)
from scstore.untrusted.hdf5 import declared_bytes, open_hdf5, too_large
from scstore.untrusted.zarr import open_zarr

N = FLOOR // 4 * 2
"""float32 values of twice the floor."""


@pytest.mark.parametrize(
    "packing",
    [
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True},
        {"compression": "lzf"},
        {"scaleoffset": 3},
        {},
    ],
    ids=str,
)
def test_zeros_that_were_written_are_read(packing: dict[str, object], tmp_path: Path) -> None:
    """A matrix of zeros packs a thousand times, and with some filters without a bound."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("noise", data=np.random.default_rng(0).integers(0, 256, 1 << 18, dtype=np.uint8))
        written = file.create_dataset("a", shape=(N,), dtype="f4", chunks=(1 << 18,), **packing)
        written[:] = np.zeros(N, np.float32)
        file.flush()
        stored = (tmp_path / "a.h5").stat().st_size
        assert declared_bytes(written) == 2 * FLOOR
        assert too_large(written, stored) is None


def test_what_was_never_written_is_refused_beyond_the_floor(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        small = file.create_dataset("small", shape=(FLOOR // 4,), dtype="f4", chunks=(1000,))
        large = file.create_dataset("large", shape=(FLOOR // 4 + 1,), dtype="f4", chunks=(1 << 16,))
        contiguous = file.create_dataset("contiguous", shape=(FLOOR // 4 + 1,), dtype="f4")
        many = file.create_dataset("many", shape=(N,), dtype="f4", chunks=(1000,))
        stored = 1 << 30
        assert too_large(small, stored) is None
        assert "large" in str(too_large(large, stored))
        assert "contiguous" in str(too_large(contiguous, stored))
        assert "many" in str(too_large(many, stored))
        assert "67,108,868 bytes (shape (16777217,))" in str(too_large(large, 1000))


def test_an_array_of_no_shape(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["none"] = h5py.Empty("f4")
        file["one"] = 3.0
        assert [too_large(file[name], 1000) for name in ("none", "one")] == [None, None]


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied"), SystemError("Negative size\npassed"), EOFError(), CellsError("f: X")],
)
def test_errors_in_plain_words(error):
    """I4: whatever a codec raises becomes one message that names file and slot."""
    with pytest.raises(CellsError, match=r"^f: X[^\n]*$"), reading("f", "X"):
        raise error


def test_missing_members(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["here"] = 1
        file["dangling"] = h5py.SoftLink("/nowhere")
    with open_hdf5(tmp_path / "a.h5") as file:
        guard = Guard("a.h5")
        assert guard.member(file, "there") is None
        with pytest.raises(CellsError, match=r"a\.h5: dangling"):
            guard.member(file, "dangling")
    group = zarr.open_group(tmp_path / "b.zarr", mode="w")
    group.create_array("here", shape=(1,), dtype="i4")
    opened = open_zarr(tmp_path / "b.zarr")
    assert Guard("b").member(opened, "there") is None
    assert Guard("b").member(opened, "here").shape == (1,)


def test_a_filter_that_is_not_installed_is_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("a", data=np.zeros(10), chunks=(5,), compression="gzip")
        properties = array.id.get_create_plist()
        properties.remove_filter(h5py.h5z.FILTER_DEFLATE)
        properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))  # Zstandard, of hdf5plugin
        space = h5py.h5s.create_simple((10,))
        h5py.h5d.create(file.id, b"b", h5py.h5t.NATIVE_DOUBLE, space, properties)
    with open_hdf5(tmp_path / "a.h5") as file:
        assert Guard("a.h5").member(file, "a").shape == (10,)
        with pytest.raises(CellsError, match="32015"):
            Guard("a.h5").member(file, "b")


Header = dict[str, Any]


def entry(start: int, stop: int, *, dtype: str = "F32", shape: list[int] | None = None) -> Header:
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


def write(path: Path, header: Any, body: bytes) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + body)


ATTACKS: dict[str, Callable[[Path], None]] = {
    "empty": lambda p: p.write_bytes(b"") and None,
    "shorter than a length": lambda p: p.write_bytes(b"\x08\0\0") and None,
    "header longer than the file": lambda p: p.write_bytes(struct.pack("<Q", 1 << 60) + b"{}") and None,
    "header larger than any": lambda p: write(p, b" " * (1 << 21), b""),
    "header not JSON": lambda p: write(p, b"nonsense", b""),
    "overlap": lambda p: write(p, {"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12),
    "hole": lambda p: write(p, {"a": entry(0, 4), "b": entry(8, 12)}, b"\0" * 12),
    "bytes after the last": lambda p: write(p, {"a": entry(0, 4)}, b"\0" * 8),
    "bytes missing": lambda p: write(p, {"a": entry(0, 8)}, b"\0" * 4),
    "shape against size": lambda p: write(p, {"a": entry(0, 8, shape=[3])}, b"\0" * 8),
    "shape that overflows": lambda p: write(p, {"a": entry(0, 0, shape=[1 << 62, 4])}, b""),
    "backwards": lambda p: write(p, {"a": {**entry(0, 8), "data_offsets": [8, 0]}}, b"\0" * 8),
    "unknown dtype": lambda p: write(p, {"a": entry(0, 8, dtype="BF16", shape=[4])}, b"\0" * 8),
    "pickle": lambda p: p.write_bytes(b"\x80\x04\x95" + b"\0" * 40) and None,
    "NaN": lambda p: save_file({"a": np.array([1.0, np.nan])}, p),
    "infinity": lambda p: save_file({"a": np.array([1.0, -np.inf], dtype=np.float16)}, p),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_malformed_weights_are_refused_at_once(name: str, tmp_path: Path) -> None:
    """RELIABILITY 38: safetensors with a huge header, overlaps, holes, wrong shapes, NaN weights."""
    path = tmp_path / "weights.safetensors"
    ATTACKS[name](path)
    digest = digest_file(path)  # an attacker can write the right digest as well
    tracemalloc.start()
    with pytest.raises(DamagedError, match=r"weights\.safetensors: "):
        read_weights(path, digest=digest)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 25


def test_a_file_that_claims_terabytes_is_refused_by_its_size(tmp_path: Path) -> None:
    """RELIABILITY 38: memory bounded."""
    path = tmp_path / "weights.safetensors"
    write(path, {"a": entry(0, 1 << 42)}, b"")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + (1 << 42))  # a sparse file: it takes no room on the disk
    with pytest.raises(DamagedError, match="weights"):
        read_weights(path, digest="sha256:")


def test_what_is_whole_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.array([1, 2], dtype=np.int64),
        "c": np.ones(3, dtype=np.float16),
        "d": np.zeros((0, 4), dtype=np.float32),
    }
    save_file(arrays, path)
    found = read_weights(path, digest=digest_file(path))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    with pytest.raises(DamagedError, match="digest"):
        read_weights(path, digest="sha256:" + "0" * 64)
    with pytest.raises(DamagedError, match="weights"):
        check_layout(path, limit=100)


STAGES: list[tuple[Callable[[Path], object], type[ScstoreError]]] = [
    (open_cells, CellsError),
    (scstore.open, NotAStoreError),
]

RDS = b"X\n\x00\x00\x00\x03\x00\x04\x03\x01\x00\x03\x05\x00" + bytes(99)


def tar() -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("matrix.mtx"))
    return whole.getvalue()


OTHERS = {
    "empty": (b"", r"empty \(0 bytes\)"),
    "gzip": (b"\x1f\x8b\x08\x00rest", "gzip: unpack it first"),
    "gzipped HDF5": (gzip.compress(b"\x89HDF\r\n\x1a\n" + bytes(100)), "gzip: unpack it first"),
    "zip": (b"PK\x03\x04rest", "zip archive"),
    "pickle": (b"\x80\x04\x95pickle", "Python pickle, which is never read because it can run code"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "git-annex": (b"/annex/objects/MD5E-s1896--439b.h5ad\n", "git annex get"),
    "HTML": (b"\n<!DOCTYPE html><html>", "a web page"),
    "Matrix Market": (b"%%MatrixMarket matrix", "give the folder"),
    "table": (b"gene,cell1,cell2\nCD3D,1,0", "begins with text, 'gene,cel'.*read_csv"),
    "neither": (bytes(range(1, 60)), "not HDF5: it begins with"),
    "Parquet": (b"PAR1\x15\x04\x15", "Parquet"),
    "saveRDS": (gzip.compress(RDS), "an R object.* from R as .h5ad"),
    "saveRDS, not packed": (RDS, "an R object"),
    "saveRDS, bzip2": (bz2.compress(RDS), "an R object"),
    "saveRDS, xz": (lzma.compress(RDS), "an R object"),
    "save": (gzip.compress(b"RDX3\nX\n\0\0\0\x03"), "an R object"),
    "tar": (tar(), "a tar archive"),
    "tar.gz": (gzip.compress(tar()), "gzip: unpack it first"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds(kind: str, tmp_path: Path) -> None:
    """RELIABILITY 14: what is no HDF5 is named in plain words, whatever the file is called."""
    content, words = OTHERS[kind]
    path = tmp_path / "cells.h5ad"
    path.write_bytes(content)
    for opens, error in STAGES:
        with pytest.raises(error, match=words) as caught:
            opens(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["row_attrs", "col_attrs", "matrix"], "loom"),
        (["barcode_idx"], "molecule info"),
        (["assays"], "h5Seurat"),
        (["things"], "things"),
    ],
)
def test_other_hdf5(names: list[str], words: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in names:
            file.create_group(name)
    for opens, error in STAGES:
        with pytest.raises(error, match=words):
            opens(tmp_path / "a.h5")


def test_folders_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("words")
    for opens, error in STAGES:
        with pytest.raises(error, match=r"notes\.txt"):
            opens(tmp_path)


@pytest.mark.parametrize("target", [".git/annex/objects/qF/8V/MD5E-s1896--439b.h5ad", "moved.h5ad", "cells.h5ad"])
@pytest.mark.parametrize("place", ["cells.h5ad", "folder/cells.h5ad"])
def test_links_that_lead_nowhere(target: str, place: str, tmp_path: Path) -> None:
    """RELIABILITY 51: git-annex and DataLad before «get», a pipeline's output that was moved, a link to itself."""
    (tmp_path / place.split("/")[0]).symlink_to(target)
    for opens, error in STAGES:
        with pytest.raises(error, match="is a link to") as caught:
            opens(tmp_path / place)
        assert ("git annex get" in str(caught.value)) == ("annex" in target)


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "cells.h5").touch()
    for opens, error in STAGES:
        with pytest.raises(error, match=r"no such file.*'cells\.h5'"):
            opens(tmp_path / "cells.h5ad")


@pytest.mark.parametrize("name", ["fifo", "link to /dev/zero"])
def test_pipes_and_devices(name: str, tmp_path: Path) -> None:
    """RELIABILITY 62: nothing is opened that would never answer, or never end."""
    path = tmp_path / "cells.h5ad"
    if name == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for opens, error in STAGES:
        with pytest.raises(error, match="pipe, device or socket"):
            opens(path)


SAID = "Unable to synchronously open file (unable to lock file, errno = 37, error message = 'No locks available')"


@pytest.mark.parametrize("without_works", [True, False])
def test_file_systems_without_locks(without_works: bool, write_h5ad, adata, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """RELIABILITY 51: read without a lock, or told why not; nothing is called damaged."""
    adata.obsm["X_pca"] = np.ones((37, 2), "f4")
    path, real = write_h5ad(adata), h5py.File

    def opened(*args: object, **kwargs: object) -> h5py.File:
        if kwargs.get("locking") is False and without_works:
            return real(*args, **kwargs)
        raise OSError(errno.ENOLCK, SAID)

    monkeypatch.setattr(h5py, "File", opened)
    for opens, error in STAGES:
        if without_works:
            opens(path).close() if opens is open_cells else opens(path).obs  # type: ignore[attr-defined]
            continue
        with pytest.raises(error, match="HDF5_USE_FILE_LOCKING=FALSE") as caught:
            opens(path)
        assert "damaged" not in str(caught.value)


def test_a_failed_read_is_no_damage(write_h5ad, adata, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """RELIABILITY 58."""
    path = write_h5ad(adata)

    def fails(*_: object, **__: object) -> h5py.File:
        raise OSError(errno.EIO, "Unable to synchronously open file (errno = 5, error message = 'Input/output error')")

    monkeypatch.setattr(h5py, "File", fails)
    for opens, error in STAGES:
        with pytest.raises(error, match="Input/output error") as caught:
            opens(path)
        assert "damaged" not in str(caught.value)


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("things")
    cells = make_cells(40)
    cells.obsm["X_emb"] = np.random.default_rng(0).normal(size=(40, 3))
    cells.write_h5ad(folder / "cells.h5ad")
    cells.obs.to_csv(folder / "labels.csv")
    scstore.fit(folder / "cells.h5ad", folder / "head", label="cell_type", views=["X_emb"])
    scstore.panel(folder / "cells.h5ad", folder / "panel.h5ad", label="cell_type", n_genes=5)
    scstore.build_genes(folder / "genes.h5ad", cells=folder / "cells.h5ad", encoder="random:8", organism="human")
    return {file.stem: file for file in folder.iterdir()}


def test_words_for_things(things: dict[str, Path]) -> None:
    words = {
        "cells": "an AnnData",
        "labels": "",
        "head": "a head",
        "panel": "a panel of genes",
        "genes": "a gene table",
    }
    assert {name: what_is(path) for name, path in things.items()} == words
    assert what_is(scstore.open(things["cells"])).endswith("Store")


@pytest.mark.parametrize("given", ["head", "panel", "genes"])
def test_in_place_of_a_store(given: str, things: dict[str, Path]) -> None:
    for act in (
        lambda path: scstore.open(path),
        lambda path: scstore.predict(path, things["head"]),
        lambda path: scstore.query(things["cells"], path, k=1),
        lambda path: scstore.evaluate(path, label="cell_type"),
    ):
        with pytest.raises(NotAStoreError, match=what_is(things[given])):
            act(things[given])


@pytest.mark.parametrize("given", ["head", "panel", "genes"])
def test_in_place_of_cells(given: str, things: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CellsError, match=what_is(things[given])):
        scstore.panel(things[given], tmp_path / "p.h5ad", label="cell_type")


def test_objects_in_place_of_others(things: dict[str, Path], tmp_path: Path) -> None:
    """RELIABILITY 20 of the trial: swapped arguments print no address and no internals."""
    store, head = scstore.open(things["cells"]), scstore.load_head(things["head"])
    with pytest.raises(NotAStoreError, match="FusedHead"):
        scstore.predict(head, store)
    with pytest.raises(NotAStoreError, match="Store"):
        scstore.load_head(store)
    with pytest.raises(CellsError, match="FusedHead"):
        scstore.panel(head, tmp_path / "p.h5ad", label="cell_type")
    with pytest.raises(NotAStoreError, match="DataFrame"):
        scstore.fit(pd.DataFrame(), label="cell_type")
    assert scstore.open(store) is store


def test_files_in_place_of_others(things: dict[str, Path]) -> None:
    for name in ("genes", "cells"):
        with pytest.raises(NotAStoreError, match=what_is(things[name])):
            scstore.load_head(things[name])
    with pytest.raises(GenesError, match="a panel of genes"):
        load_gene_table(things["panel"])
    with pytest.raises(GenesError, match="a gene table"):
        load_panel(things["genes"])


def test_cells_without_features_are_told_what_is_missing(tmp_path: Path) -> None:
    cells = make_cells(20)
    cells.X = cells.X.toarray() - cells.X.toarray().mean(axis=0)  # scaled, and no matrix in obsm
    cells.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match=r"scstore\.extract"):
        scstore.fit(tmp_path / "a.h5ad", label="cell_type")


def test_no_link_is_followed(things: dict[str, Path], tmp_path: Path) -> None:
    """I5: not even to find out what a file is."""
    os.mkfifo(tmp_path / "pipe")  # to be opened would take for ever
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file["uns"] = h5py.ExternalLink(tmp_path / "pipe", "uns")
        file["obs"] = h5py.SoftLink("/uns/obs")
    assert what_is(tmp_path / "a.h5ad") == ""
    assert what_is(tmp_path / "pipe") == ""


HEADER = "%%MatrixMarket matrix coordinate integer general\n9999999 9999999 0\n"


def mtx_folder(features: bytes, folder: Path) -> Path:
    (folder / "matrix.mtx").write_text(HEADER)
    (folder / "barcodes.tsv").write_text("a\n")
    (folder / "features.tsv.gz").write_bytes(features)
    return folder


def table(content: bytes, folder: Path) -> Path:
    (folder / "table.csv").write_bytes(content)
    return folder / "table.csv"


READERS: dict[str, tuple[Callable[[bytes, Path], Path], Callable[[Path], object], type[ScstoreError]]] = {
    "features": (mtx_folder, open_cells, CellsError),
    "texts": (table, read_descriptions, GenesError),
    "orthologs": (table, read_orthologs, GenesError),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "content", [b"human,mouse\n" + b"a\n" * 3000, b"a\t" * 3000 + b"\nb\n" * 10], ids=["many lines", "many columns"]
)
def test_tables_of_next_to_nothing(
    reader: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 63: a few packed bytes become millions of lines, or a parser fills every line up."""
    monkeypatch.setattr(guards, "TEXT_LINES", 1000)
    monkeypatch.setattr(guards, "TEXT_COLUMNS", 1000)
    write, read, error = READERS[reader]
    with pytest.raises(error, match="lines of"):
        read(write(gzip.compress(content), tmp_path))


def test_as_many_lines_as_there_are_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of barcodes pack to three bytes a line."""
    monkeypatch.setattr(guards, "TEXT_LINES", 0)
    lines = "".join(f"{i * 7919 % 1_000_003:016b}\n" for i in range(3000)).encode()
    (tmp_path / "a.gz").write_bytes(gzip.compress(lines))
    assert read_unpacked(tmp_path / "a.gz") == lines


@pytest.mark.parametrize("reader", ["texts", "orthologs"])
def test_pipes(reader: str, tmp_path: Path) -> None:
    """RELIABILITY 62."""
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(GenesError, match="pipe"):
        READERS[reader][1](tmp_path / "table.csv")


@pytest.mark.parametrize("name", ["matrix.mtx", "barcodes.tsv", "features.tsv.gz"])
def test_pipes_in_a_folder(name: str, tmp_path: Path) -> None:
    mtx_folder(gzip.compress(b"a\n"), tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(CellsError):
        open_cells(tmp_path)


def test_objects_of_many_fields(tmp_path: Path) -> None:
    """Every row would get every field."""
    rows = ",".join(f'{{"f{i}":""}}' for i in range(2000))
    (tmp_path / "a.json").write_text(f"[{rows}]")
    with pytest.raises(GenesError, match="fields"):
        read_descriptions(tmp_path / "a.json")
