"""What a path holds, in words: for messages about what is not what was asked for."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import h5py

from scstore.errors import ScstoreError, show, show_some
from scstore.hdf5_output import open_to_read

FORMATS = "an AnnData (.h5ad, Zarr folder), MuData, a 10x .h5, or a folder with matrix.mtx"

R_OBJECT = "an R object (saveRDS, save): export it from R as .h5ad (zellkonverter, anndataR)"

# How files of other kinds begin, and what to do about it.
OTHER_FORMATS = (
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "Zstandard: unpack it first"),
    (b"\x80", "a Python pickle, which is never read because it can run code: write it as .h5ad"),
    (b"version https://git-lfs", "a Git LFS pointer in place of the file: run 'git lfs pull'"),
    (b"/annex/objects", "a git-annex pointer in place of the file: run 'git annex get' or 'datalad get'"),
    (b"<", "a web page (HTML or XML): the download went wrong"),
    (b"{", "JSON"),
    (b"%%MatrixMarket", "a Matrix Market file: give the folder that also holds its features and barcodes"),
    (b"PAR1", "Parquet: read it with pandas and write the cells as .h5ad"),
    (b"\x93NUMPY", "a NumPy array: put it into an AnnData and write that as .h5ad"),
    (b"\x0b\x0e\x0a\x0c", "an R object (qs): export it from R as .h5ad (zellkonverter, anndataR)"),
    *((magic, R_OBJECT) for magic in (b"RDX", b"RDA", b"X\n\0\0", b"A\n2\n", b"A\n3\n", b"B\n\x02\0", b"B\n\x03\0")),
)

# What packs one file, by how it begins.
PACKED: tuple[tuple[bytes, str, Callable[[Path], Any]], ...] = (
    (b"\x1f\x8b", "gzip: unpack it first (gunzip)", gzip.open),
    (b"BZh", "bzip2: unpack it first (bunzip2)", bz2.open),
    (b"\xfd7zXZ\0", "xz: unpack it first (unxz)", lzma.open),
)

# Bytes in which a kind shows; that of a tar archive at 257.
HEAD = 512

# Of scstore's own folders, by a file in them.
FOLDERS = {"head.json": "a head", "projector.json": "a projector", "_scstore": "a store"}

# Of scstore's own files, by the key of their header.
FILES = {"panel": "a panel of genes", "genes": "a gene table", "record": "a store as one file"}

# What has cells in it, or may have.
STORES = ("", "an AnnData", FOLDERS["_scstore"], FILES["record"])


def check_path(path: Path, *, error: type[ScstoreError]) -> None:
    """Refuse a path that is missing, a link that leads nowhere, or neither a file nor a folder."""
    if path.is_file() or path.is_dir():
        return
    if path.exists():
        raise error(f"{path} is a pipe, device or socket. Write what comes out of it to a file, and give that.")
    for link in (path, *path.parents):
        if link.is_symlink() and not link.exists():
            target, cure = link.readlink(), "Copy what it leads to, or mend the link."
            if "annex/objects" in target.as_posix():
                cure = f"Fetch it: git annex get {path.name}, or datalad get {path.name}."
            raise error(f"{link} is a link to {show(target)}, which is not there. {cure}")
    near = [p.name for p in path.parent.glob("*") if p.stem == path.stem] if path.parent.is_dir() else []
    hint = f" Did you mean {show_some(sorted(near))}?" if near else ""
    raise error(f"{path}: no such file or folder (looked from {Path.cwd()}).{hint}")


def what_else(path: Path) -> str:
    """Return what a file that is not HDF5 looks like, as the end of a sentence."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "empty (0 bytes): copy or download it again"
    if kind := _kind(head) or _packed_kind(path, head):
        return f"not HDF5 but {kind}"
    first, begins = head.partition(b"\n")[0], show(head[:8].decode("latin-1"))
    if first.isascii() and first.decode("ascii").replace("\t", " ").strip().isprintable():
        table = ": a table is read with scanpy.read_csv or read_text; write it as .h5ad"
        return f"not HDF5: it begins with text, {begins}{table if set(first) & set(b'	,') else ''}"
    return f"not HDF5: it begins with {begins}, so it is damaged or of another format"


def _kind(head: bytes) -> str:
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it first (tar -xf)"
    return next((kind for magic, kind in OTHER_FORMATS if head.lstrip().startswith(magic)), "")


def _packed_kind(path: Path, head: bytes) -> str:
    for magic, kind, opened in PACKED:
        if head.startswith(magic):
            try:
                with opened(path) as file:
                    inside = _kind(file.read(HEAD))
            except (OSError, EOFError, ValueError):
                inside = ""
            return inside if inside == R_OBJECT else kind
    return ""


def other_hdf5(names: Collection[str]) -> str:
    """Return what an HDF5 file with these names is that is neither AnnData nor 10x, and what to do about it."""
    if {"row_attrs", "col_attrs"} <= set(names):
        return "a loom file: read it with anndata.io.read_loom and write it as .h5ad"
    if "barcode_idx" in names:
        return "10x molecule info: give filtered_feature_bc_matrix.h5 of the same run"
    if "assays" in names:
        return "an h5Seurat file: export it as .h5ad"
    if "matrix" in names:
        return "a 10x matrix, which has no features of cells yet: make a store of it with `scstore extract`"
    return f"HDF5 with {show_some(sorted(names), limit=6) or 'nothing'} in it"


def what_is(thing: Any) -> str:
    """Return what a path or an object is, such as ``a head``; empty where scstore has no word for it."""
    if not isinstance(thing, str | os.PathLike):
        return f"an object of the type {type(thing).__name__}"
    path = Path(thing)
    if path.is_dir():
        found = (words for name, words in FOLDERS.items() if (path / name).is_file() or (path / name).is_dir())
        return next(found, "")
    return _header(path) if path.is_file() else ""


def _header(path: Path) -> str:
    try:
        with open_to_read(path) as file:
            words = "an AnnData" if _holds(file, "obs") else ""
            if not (_holds(file, "uns") and _holds(file["uns"], "scstore")):
                return words
            return next((said for key, said in FILES.items() if _holds(file["uns/scstore"], key)), words)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError):
        return ""


def _holds(group: Any, name: str) -> bool:
    """Whether a group has a member of its own; no link is followed."""
    links, key = group.id.links, name.encode()
    return bool(links.exists(key) and links.get_info(key).type == h5py.h5l.TYPE_HARD)
