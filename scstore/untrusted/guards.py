"""Reading what somebody else wrote: what a path holds, what an array may declare and unpack to; plain errors."""

import bz2
import contextlib
import gzip
import importlib
import io
import lzma
import os
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from scstore.errors import CellsError, DamagedError, GenesError, InputError, ScstoreError, show, show_some
from scstore.fsio import check_read, digest_file
from scstore.hdf5_output import open_to_read

EXHAUSTS = "It is damaged or made to exhaust memory: get it again from where it came from."
RATIO = 1100  # no real file of cells is packed tighter than this; DEFLATE cannot be (1,032 : 1)
FLOOR = 1 << 26  # bytes that any array may declare, however small the file


def filters_of(dataset: h5py.Dataset) -> list[tuple[int, str]]:
    properties = dataset.id.get_create_plist()
    filters = (properties.get_filter(i) for i in range(properties.get_nfilters()))
    return [(number, name.decode(errors="replace")) for number, _, _, name in filters]


def missing_filter(dataset: h5py.Dataset) -> str | None:
    """Return what to do about a filter that a data set needs and that is not installed."""
    for number, name in filters_of(dataset):
        if not h5py.h5z.filter_avail(number):
            with contextlib.suppress(ImportError):
                importlib.import_module("hdf5plugin")  # which makes its filters known to HDF5
        if not h5py.h5z.filter_avail(number):
            what = f"{dataset.name} is compressed with HDF5 filter {number}{f' ({show(name)})' if name else ''}"
            cure = "Install it: pip install hdf5plugin. Or write the file again with compression='gzip'."
            return f"{what}, which is not installed. {cure}"
    return None


AGAIN = "The file is damaged or incomplete: copy or download it again."


def damaged(source: str, problem: str) -> CellsError:
    return CellsError(f"{source}: {problem} {AGAIN}")


@contextlib.contextmanager
def reading(source: object, name: str, *, error: type[ScstoreError] = CellsError, cure: str = AGAIN) -> Iterator[None]:
    """Turn what a library raises while it decodes a part of ``source`` into one error, of damage or the system."""
    try:
        yield
    except (ScstoreError, MemoryError):
        raise
    except Exception as fault:  # codecs raise anything on damaged bytes, SystemError among them
        if isinstance(fault, PermissionError) and issubclass(error, InputError):
            raise error(f"{source}: {name} may not be read (permission denied). Ask its owner.") from fault
        check_read(fault, f"{source}: {name}")
        reason = " ".join(str(fault).split())[:200] or type(fault).__name__
        raise error(f"{source}: {name} cannot be read ({reason}). {cure}") from fault


@dataclass(frozen=True)
class Guard:
    """Opens the members of an HDF5 file or Zarr folder, which was checked as a whole when it was opened."""

    source: str

    def member(self, group: Any, name: str) -> Any:
        """Return a group's member, or ``None``; refuse an array that may not be decoded."""
        with reading(self.source, name):
            if isinstance(group, h5py.Group):  # `in` would take a damaged member for an absent one
                present = group.id.links.exists(name.encode("utf-8", "surrogateescape"))
            else:
                present = name in group
            node = group[name] if present else None
            problem = missing_filter(node) if isinstance(node, h5py.Dataset) else None
        if problem is not None:
            raise CellsError(f"{self.source}: {problem}")
        return node

    def names(self, group: Any) -> list[str]:
        with reading(self.source, str(group.name)), warnings.catch_warnings():
            # Zarr warns of files that are not its own (.DS_Store)
            warnings.simplefilter("ignore")
            return sorted(group.keys())


HEADER_LIMIT = 1 << 20  # bytes of header; a hundred arrays need ten thousand
WEIGHTS_LIMIT = 1 << 34  # bytes of weights that are read unless the caller says otherwise
WEIGHT_DTYPES = {"F64", "F32", "F16", "I64"}  # the dtypes that scstore writes


def read_weights(path: Path, *, digest: str, limit: int = WEIGHTS_LIMIT) -> dict[str, NDArray[Any]]:
    """Return the finite arrays of a weights file by name; ``DamagedError`` for other arrays or another digest."""
    check_layout(path, limit=limit)
    if (found := digest_file(path)) != digest:
        _refuse(path, f"its digest is {found[:19]}… where its description says {digest[:19]}…")
    arrays: dict[str, NDArray[Any]] = load_file(path)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            _refuse(path, f"{name} holds NaN or infinity")
    return arrays


def check_layout(path: Path, *, limit: int = WEIGHTS_LIMIT) -> None:
    """Check the header of a safetensors file, which must cover the file, against its size; no array is read."""
    size = path.stat().st_size
    if size > limit:
        _refuse(path, f"{size:,} bytes is more than the {limit:,} that are read")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(HEADER_LIMIT, size - 8):
        _refuse(path, f"a header of {length:,} bytes in a file of {size:,}")
    try:
        with safe_open(path, framework="np") as opened:
            dtypes = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, ValueError, OverflowError) as error:
        _refuse(path, f"not readable as safetensors ({error})")
    for name, dtype in dtypes.items():
        if dtype not in WEIGHT_DTYPES:
            _refuse(path, f"{name} has the dtype {dtype}, which scstore does not write")


def _refuse(path: Path, why: str) -> NoReturn:
    raise DamagedError(f"{path}: {why}. The file is damaged or not scstore's: restore a copy, or make it again.")


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
PACKED: tuple[tuple[bytes, str, Callable[[Path], Any]], ...] = (
    (b"\x1f\x8b", "gzip: unpack it first (gunzip)", gzip.open),
    (b"BZh", "bzip2: unpack it first (bunzip2)", bz2.open),
    (b"\xfd7zXZ\0", "xz: unpack it first (unxz)", lzma.open),
)
FIRST_BYTES = 512  # bytes in which a kind shows; that of a tar archive at 257
# Of scstore's own folders, by a file in them.
FOLDERS = {"head.json": "a head", "projector.json": "a projector", "_scstore": "a store"}
# Of scstore's own files, by the key of their header.
FILES = {"panel": "a panel of genes", "genes": "a gene table", "record": "a store as one file"}
STORES = ("", "an AnnData", FOLDERS["_scstore"], FILES["record"])  # what has cells in it, or may have


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
        head = file.read(FIRST_BYTES)
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
                    inside = _kind(file.read(FIRST_BYTES))
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


# Times its packed size that a file may unpack to (tables and matrices pack 3 to 15 times), and bytes that any may.
TEXT_RATIO, TEXT_FLOOR = 100, 1 << 24
# Lines that any table may have; Python takes some 200 bytes for each. A list of barcodes packs to 3 bytes a line.
TEXT_LINES = 1 << 21
TEXT_COLUMNS = 10_000  # columns that a table of genes or cells may have


def read_unpacked(file: Path, *, error: type[ScstoreError] = GenesError) -> bytes:
    """Read a table whole; ``error`` if it unpacks too far, or has too many lines or columns (parsers fill lines)."""
    with open_unpacked(file, error=error) as opened:
        content = opened.read()
    n_lines, first = content.count(b"\n"), content.partition(b"\n")[0]
    n_columns = max(first.count(b"\t"), first.count(b","))
    if n_lines > max(TEXT_LINES, file.stat().st_size) or n_columns > TEXT_COLUMNS:
        raise error(f"{file}: it has {n_lines:,} lines of {n_columns:,} columns. {EXHAUSTS}")
    return content


def open_unpacked(file: Path, *, error: type[ScstoreError] = GenesError) -> io.BufferedReader:
    """Open a file for reading its text, unpacked where its first bytes are gzip's; ``error`` past the largest size."""
    check_path(file, error=error)
    with file.open("rb") as head:
        is_packed = head.read(2) == b"\x1f\x8b"
    if not is_packed:
        return file.open("rb")
    return io.BufferedReader(_Bounded(file, error), 1 << 20)


class _Bounded(io.RawIOBase):
    def __init__(self, file: Path, error: type[ScstoreError]) -> None:
        self._file, self._error = file, error
        self._limit = max(TEXT_FLOOR, TEXT_RATIO * file.stat().st_size)
        self._unpacked = gzip.open(file)  # noqa: SIM115  # closed with this
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        n = self._unpacked.readinto(buffer)
        self._read += n
        if self._read > self._limit:
            raise self._error(f"{self._file}: unpacks to more than {self._limit:,} bytes. {EXHAUSTS}")
        return n

    def close(self) -> None:
        self._unpacked.close()
        super().close()
