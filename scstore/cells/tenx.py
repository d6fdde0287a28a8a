"""10x Genomics matrices: HDF5 (Cell Ranger 2 and later) and folders with ``matrix.mtx``, features and barcodes.

10x stores features × cells by column, which is cells × features by row.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import pandas as pd
import scipy.io
from numpy.typing import NDArray
from scipy import sparse

from scstore.cells.matrices import Opened, RowMatrix, SlicedRows, open_compressed
from scstore.errors import CellsError, show_some
from scstore.untrusted.guards import Guard, damaged, reading
from scstore.untrusted.text import largest_text, open_unpacked

GENE_EXPRESSION = "Gene Expression"

# Bytes of the shortest line of a Matrix Market file: ``1 1 1`` and its end.
SHORTEST_ENTRY = 6


def tenx_groups(root: h5py.File) -> list[str]:
    """Return the groups of an HDF5 file that hold a 10x matrix: ``["matrix"]``, or one per genome."""
    groups = [name for name in root if root.get(name, getclass=True) is h5py.Group]
    return [name for name in groups if "barcodes" in root[name] and "indptr" in root[name]]


def read_10x_hdf5(root: h5py.File, *, guard: Guard) -> Opened:
    """Read the features and barcodes of a 10x HDF5 file and open its matrix."""
    groups = tenx_groups(root)
    if len(groups) != 1:
        _refuse_genomes(groups, guard.source)
    name = groups[0]
    group = guard.member(root, name)
    features = guard.member(group, "features")
    where, ids, symbols = (group, "genes", "gene_names") if features is None else (features, "id", "name")
    var = _features(where, guard=guard, ids=ids, symbols=symbols)
    barcodes = _strings(group, "barcodes", guard=guard)
    with reading(guard.source, f"{name}/shape"):
        n_features, n_cells = (int(n) for n in _array(group, "shape", guard=guard)[:])
    if (n_features, n_cells) != (len(var), len(barcodes)):
        said = f"{name}/shape says {n_features:,} features × {n_cells:,} cells"
        raise damaged(guard.source, f"{said}, but there are {len(var):,} features and {len(barcodes):,} barcodes.")
    parts = {part: _array(group, part, guard=guard) for part in ("indptr", "indices", "data")}
    matrix = open_compressed(**parts, shape=(n_cells, n_features), source=guard.source, name=name)
    return _opened(var, barcodes, matrix, source=guard.source)


def _features(group: Any, *, guard: Guard, ids: str, symbols: str) -> pd.DataFrame:
    columns = {ids: _strings(group, ids, guard=guard), "symbol": _strings(group, symbols, guard=guard)}
    for part in ("feature_type", "genome"):
        if guard.member(group, part) is not None:
            columns[part] = _strings(group, part, guard=guard)
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        found = ", ".join(f"{len(values):,} of {part}" for part, values in columns.items())
        raise damaged(guard.source, f"The features do not fit each other: {found}.")
    return pd.DataFrame(columns).set_index(ids).rename_axis(None)


def _array(group: Any, part: str, *, guard: Guard) -> Any:
    array = guard.member(group, part)
    if not isinstance(array, h5py.Dataset):
        raise damaged(guard.source, f"{group.name.strip('/')}/{part} is missing.")
    return array


def _strings(group: Any, part: str, *, guard: Guard) -> list[str]:
    array = _array(group, part, guard=guard)
    with reading(guard.source, f"{group.name.strip('/')}/{part}"):
        values = array[:]
        return [value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value) for value in values]


def find_mtx(folder: Path) -> list[Path]:
    """Return the ``matrix.mtx`` files of a folder, plain or gzipped, also with a prefix before the name (as in GEO)."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(("matrix.mtx", "matrix.mtx.gz")))


def read_10x_folder(folder: Path) -> Opened:
    """Read the features and barcodes of a 10x folder and open its matrix; all three files have the same prefix."""
    found = find_mtx(folder)
    if len(found) != 1:
        listed = f"{len(found)} matrices in it ({show_some(path.name for path in found)})"
        raise CellsError(f"{folder}: there are {listed}. Keep one matrix with its features and barcodes in a folder.")
    prefix = found[0].name.split("matrix.mtx")[0]
    features = _columns(_partner(folder, prefix, "features.tsv", "genes.tsv"))
    barcodes = [line[0] for line in _columns(_partner(folder, prefix, "barcodes.tsv"))]
    index = pd.Index([line[0] for line in features], dtype=object)
    var = pd.DataFrame({"symbol": [line[1] if len(line) > 1 else line[0] for line in features]}, index=index)
    if features and all(len(line) > 2 for line in features):
        var["feature_type"] = [line[2] for line in features]
    _check_header(found[0], n_features=len(features), n_barcodes=len(barcodes))
    whole = functools.cache(functools.partial(_read_mtx, found[0]))  # read when the first row is asked for
    shape = (len(barcodes), len(features))
    matrix = SlicedRows(shape, lambda start, stop: whole()[start:stop].copy(), str(folder), found[0].name)
    return _opened(var, barcodes, matrix, source=str(folder))


def _partner(folder: Path, prefix: str, *names: str) -> Path:
    for name in names:
        for path in (folder / f"{prefix}{name}.gz", folder / f"{prefix}{name}"):
            if path.is_file():
                return path
    wanted = " or ".join(f"{prefix}{name}[.gz]" for name in names)
    raise CellsError(f"{folder}: {wanted} is missing. Put the matrix, features and barcodes of one run into it.")


def _columns(path: Path) -> list[list[str]]:
    with reading(str(path), "the file"), open_unpacked(path, error=CellsError) as file:
        lines = file.read().decode("utf-8", errors="replace").split("\n")
    return [line.rstrip("\r").split("\t") for line in lines if line.strip()]


def _check_header(path: Path, *, n_features: int, n_barcodes: int) -> None:
    """Refuse a matrix that does not fit its features and barcodes, or announces more values than the file can hold."""
    with reading(str(path), "the header"), open_unpacked(path, error=CellsError) as file:
        first = line = file.readline(1000)
        while line.startswith(b"%"):
            line = file.readline(100_000)
        # only these lines: scipy seeks in a stream that it does not read to its end, and crashes where it cannot
        n_rows, n_columns, n_values, layout, values, symmetry = scipy.io.mminfo(io.BytesIO(first + line))
    if (layout, symmetry) != ("coordinate", "general") or values not in ("integer", "real", "double"):
        raise CellsError(f"{path}: it is {layout} {values} {symmetry}, not coordinate integer or real general.")
    if (n_rows, n_columns) != (n_features, n_barcodes):
        raise CellsError(
            f"{path}: the matrix is {n_rows:,} × {n_columns:,}, but {n_features:,} features × {n_barcodes:,} barcodes "
            "are beside it. Give the three files of one run."
        )
    if n_values * SHORTEST_ENTRY > largest_text(path):
        raise damaged(str(path), f"The header announces {n_values:,} values, more than the file can hold.")


class _AsReal:
    """A Matrix Market file that scipy reads as ``real``, without what scipy crashes on.

    As integers, values would lose fractions. scipy crashes on a NUL byte, and on an unfinished last line.
    """

    def __init__(self, file: BinaryIO) -> None:
        file.readline()
        self._file = file
        self._before = b"%%MatrixMarket matrix coordinate real general\n"
        self._last = b"\n"

    def read(self, size: int = -1) -> bytes:
        text, self._before = self._before or self._file.read(size), b""
        if b"\0" in text:
            raise ValueError("it holds a NUL byte")
        if not text and self._last != b"\n":
            text = b"\n"
        self._last = text[-1:] or b"\n"
        return text


def _read_mtx(path: Path) -> sparse.csr_matrix:
    with reading(str(path), "the matrix"), open_unpacked(path, error=CellsError) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # scipy 1.18: about the kind of matrix, which is made here
        return sparse.csr_matrix(scipy.io.mmread(_AsReal(file)).T)


def _opened(var: pd.DataFrame, barcodes: Sequence[str], matrix: RowMatrix, *, source: str) -> Opened:
    """Keep the features of type Gene Expression: antibodies, guides and peaks are not genes."""
    keep: NDArray[np.int64] = np.arange(len(var), dtype=np.int64)
    if "feature_type" in var.columns:
        keep = np.flatnonzero(var["feature_type"] == GENE_EXPRESSION).astype(np.int64)
        if len(var) and not len(keep):
            there = show_some(sorted(set(var["feature_type"])))
            raise CellsError(
                f"{source}: no feature is of type {GENE_EXPRESSION!r}; there is {there}. Give gene counts."
            )
    genes = var.iloc[keep]
    genomes = set(genes["genome"]) - {""} if "genome" in genes.columns else set()
    if len(genomes) < 2:
        # Cell Ranger puts the genome before each id when a reference joins several
        prefixes = (re.match(r"(.+?)_+ENS[A-Z]*\d", str(name)) for name in genes.index)
        genomes = {found[1] for found in prefixes if found}
    if len(genomes) > 1:
        _refuse_genomes(sorted(genomes), source)
    rows = matrix
    if len(keep) < len(var):
        shape = (len(barcodes), len(keep))
        rows = SlicedRows(shape, lambda start, stop: matrix.rows(start, stop)[:, keep], source, "the matrix")
    return Opened(pd.DataFrame(index=pd.Index(barcodes, dtype=object)), {"X": rows}, {"X": genes})


def _refuse_genomes(genomes: Sequence[str], source: str) -> None:
    raise CellsError(
        f"{source}: it holds {len(genomes)} genomes ({show_some(genomes, limit=6)}). Write the cells and genes of one "
        "to a file of their own (scanpy.read_10x_h5(path, genome=…))."
    )
