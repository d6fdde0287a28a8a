"""Opening an input of cells, whatever its format; what it is, is told by its content and not by its name."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import h5py
import zarr
from anndata import AnnData

from scstore.cells.anndata_files import Opened, read_anndata
from scstore.cells.anndata_memory import describe_anndata, open_anndata
from scstore.cells.cell_file import CellFile, check_extent, identify_cells
from scstore.cells.csc_to_csr import Scratch
from scstore.cells.matrices import RowMatrix
from scstore.cells.mtx import find_mtx, read_10x_folder
from scstore.cells.tenx import read_10x_hdf5, tenx_groups
from scstore.errors import CellsError
from scstore.escaping import show, show_some
from scstore.untrusted.guards import Guard, reading
from scstore.untrusted.hdf5 import open_hdf5
from scstore.untrusted.zarr import folder_bytes, open_zarr

__all__ = ["CellFile", "RowMatrix", "open_cells"]

FORMATS = "an AnnData (.h5ad, Zarr folder), a 10x .h5, or a 10x folder with matrix.mtx"

OTHER_FORMATS = (
    (b"\x1f\x8b", "gzip: unpack it first (gunzip)"),
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "Zstandard: unpack it first"),
    (b"\x80", "a Python pickle, which is never read because it can run code: write it as .h5ad"),
    (b"version https://git-lfs", "a Git LFS pointer in place of the file: run 'git lfs pull'"),
    (b"<", "a web page (HTML or XML): the download went wrong"),
    (b"{", "JSON"),
    (b"%%MatrixMarket", "a Matrix Market file: give the folder that also holds its features and barcodes"),
    (b"RDX", "an R workspace: export it as .h5ad"),
)
"""How files of other kinds begin, and what to do about it."""


def open_cells(
    source: str | os.PathLike[str] | AnnData,
    *,
    scratch: Path | None = None,
    id_prefix_from: str | None = None,
) -> CellFile:
    """Open an input of cells; its matrices stay where they are and are read by runs of rows.

    Parameters
    ----------
    source
        An ``.h5ad``, an AnnData Zarr folder (v2 or v3), a 10x ``.h5`` (Cell Ranger 2 and later), a 10x folder
        with ``matrix.mtx``, or an AnnData in memory or backed.
    scratch
        Folder for a temporary copy of a matrix that is stored by column or unsorted (about 8 to 12 bytes a
        value); by default the system's.
    id_prefix_from
        A column of ``obs`` whose value is put before every cell id, as ``<value>:<id>``, so that ids of
        several samples differ.

    Returns
    -------
    The cells; close it, or use it in a ``with`` statement. 10x genes are named by their Ensembl id (index of
    ``var``), with their symbol in the column ``symbol``; an AnnData's are as they are.

    Raises
    ------
    CellsError
        If it is missing, of another format, truncated, damaged or of a newer version; has no cells, genes or
        matrix; or its cell ids repeat.
    """
    with contextlib.ExitStack() as stack:
        temporary = Scratch(Path(scratch) if scratch is not None else None)
        stack.callback(temporary.close)
        if isinstance(source, AnnData):
            name = describe_anndata(source)
            opened = open_anndata(source, scratch=temporary)
        else:
            path = Path(source)
            name = str(path)
            with reading(name, "it"):
                opened = _open_path(path, stack=stack, scratch=temporary)
        check_extent(opened.obs, opened.slots, source=name)
        obs = identify_cells(opened.obs, source=name, id_prefix_from=id_prefix_from)
        return CellFile(name, obs, opened.slots, opened.slot_vars, stack.pop_all())


def _open_path(path: Path, *, stack: contextlib.ExitStack, scratch: Scratch) -> Opened:
    if not path.exists():
        near = [p.name for p in path.parent.glob("*") if p.stem == path.stem] if path.parent.is_dir() else []
        hint = f" Did you mean {show_some(sorted(near))}?" if near else ""
        msg = f"{path}: no such file or folder (looked from {Path.cwd()}).{hint}"
        raise CellsError(msg)
    if path.is_dir():
        return _open_folder(path, scratch=scratch)
    if not h5py.is_hdf5(path):
        raise CellsError(_what_else(path))
    root = stack.enter_context(open_hdf5(path))
    guard = Guard(str(path), path.stat().st_size)
    names = set(root)
    if {"obs", "var"} <= names or "encoding-type" in root.attrs:
        return read_anndata(root, guard=guard, scratch=scratch)
    if tenx_groups(root):
        return read_10x_hdf5(root, guard=guard)
    if {"row_attrs", "col_attrs"} <= names:
        reason = "a loom file: read it with anndata.io.read_loom and write it as .h5ad"
    elif "barcode_idx" in names:
        reason = "10x molecule info: give filtered_feature_bc_matrix.h5 of the same run"
    elif "assays" in names:
        reason = "an h5Seurat file: export it as .h5ad"
    else:
        reason = f"HDF5 with {show_some(sorted(names), limit=6) or 'nothing'} in it"
    msg = f"{path}: it is {reason}. Known are {FORMATS}."
    raise CellsError(msg)


def _open_folder(path: Path, *, scratch: Scratch) -> Opened:
    names = {p.name for p in path.iterdir()}
    if names & {"zarr.json", ".zgroup", ".zarray"}:
        root = open_zarr(path)
        if isinstance(root, zarr.Group) and "obs" in root:
            return read_anndata(root, guard=Guard(str(path), folder_bytes(path)), scratch=scratch)
        msg = (
            f"{path}: it is Zarr, but no AnnData: there is no obs in it, only "
            f"{show_some(sorted(names), limit=6)}. Of a SpatialData folder give the table (tables/NAME)."
        )
        raise CellsError(msg)
    if find_mtx(path):
        return read_10x_folder(path, scratch=scratch)
    inside = sorted(
        p.name for p in path.iterdir() if p.suffix in (".h5ad", ".h5", ".zarr") or (p.is_dir() and find_mtx(p))
    )
    hint = f" Inside it there is {show_some(inside)}: give that." if inside else ""
    listing = show_some(sorted(names), limit=6) or "nothing"
    msg = f"{path}: a folder with {listing} is neither AnnData Zarr nor 10x. Known are {FORMATS}.{hint}"
    raise CellsError(msg)


def _what_else(path: Path) -> str:
    """Say what a file that is no HDF5 looks like."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return f"{path}: the file is empty (0 bytes). Copy or download it again."
    for magic, kind in OTHER_FORMATS:
        if head.lstrip().startswith(magic):
            return f"{path}: it is not HDF5 but looks like {kind}. Known are {FORMATS}."
    begins = show(head[:8].decode("latin-1"))
    if head.isascii() and head.decode("ascii").isprintable():
        begins = f"text, {begins}"
    return f"{path}: it is not HDF5: it begins with {begins}. It is damaged or of another format; known are {FORMATS}."
