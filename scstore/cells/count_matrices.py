"""Count matrices of 10x (HDF5 of Cell Ranger 2 and later, CellBender), and folders with a Matrix Market file."""

import csv
import functools
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from scipy import sparse

from scstore.cells.gene_names import NAME_KEYS, clean_texts, column_key
from scstore.cells.matrices import Opened, RowMatrix, decoded, open_compressed
from scstore.errors import CellsError, show, show_some
from scstore.untrusted.guards import Guard, damaged, open_unpacked, read_unpacked, reading

# Ends of the names of matrices, without ``.gz``; the first that is there is read. Those of Parse, kb and alevin-fry are
# cells × features, where the lengths do not tell; 10x, STARsolo, BD Rhapsody and DropletUtils write the reverse.
BY_CELL = ("count_matrix.mtx", "DGE.mtx", "cells_x_genes.mtx", "cells_x_genes.total.mtx", "quants_mat.mtx")
MATRICES = (*BY_CELL, "matrix.mtx", ".mtx")
FEATURES = (
    "features.tsv", "genes.tsv", "features.csv", "genes.csv", "features.txt", "genes.txt", "quants_mat_cols.txt",
)  # fmt: skip
CELLS = (
    "barcodes.tsv", "barcodes.csv", "barcodes.txt", "cells.tsv", "cells.csv", "cells.txt", "cell_metadata.csv",
    "quants_mat_rows.txt",
)  # fmt: skip
KB_SYMBOLS = "genes.names.txt"  # beside kb's ids lie the symbols
# Matrices that are no counts of genes by themselves, and what to give.
NO_COUNTS = {
    "spliced.mtx": "It is STARsolo's Velocyto output: give Gene/filtered or GeneFull/filtered of the same run.",
    "ambiguous.mtx": "kb keeps mature and nascent RNA apart here: add them up with kb count --sum=total.",
    "x_tcc.mtx": "It counts classes of transcripts: give the folder of kb count without --tcc.",
}
TITLE = re.compile(
    r"(gene|ensembl|feature|barcode|cell|bc|symbol|id|name|index|rownames|x|v\d+)s?([ _.-]?(gene|wells?|ensembl|symbol|"
    r"id|name|short_name|barcode)s?)*",
    re.IGNORECASE,
)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz")


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def find_mtx(folder: Path) -> list[Path]:
    """Return the matrices of a folder, plain or gzipped, also with a prefix before the name (as in GEO)."""
    found = [path for path in _visible(folder) if _stem(path).endswith(".mtx") and path.is_file()]
    for end in MATRICES:
        if chosen := [path for path in found if _stem(path).endswith(end)]:
            return chosen
    return []


def read_mtx_folder(folder: Path) -> Opened:
    found = find_mtx(folder)
    path = found[0]
    if why := next((why for end, why in NO_COUNTS.items() if any(_stem(p).endswith(end) for p in found)), None):
        raise CellsError(f"{path}: this matrix cannot be read. {why}")
    if len(found) != 1:
        listed = f"{len(found)} matrices in it ({show_some(one.name for one in found)})"
        raise CellsError(f"{folder}: there are {listed}. Keep one matrix with its features and barcodes in a folder.")
    end = next(end for end in MATRICES if _stem(path).endswith(end))
    features, cells = (_read_table(_needed(path, end, names)) for names in (FEATURES, CELLS))
    with reading(str(path), "the header"), open_unpacked(path, error=CellsError) as file:
        shape = _read_header(path, file)[:2]
    by_cell = end in BY_CELL and not _stem(features.path).endswith(".tsv")
    var, obs, transposed = _fitted(features, cells, shape, by_cell=by_cell, path=path)
    if symbols := _partner(path, end, (KB_SYMBOLS,)):
        names = _read_table(symbols)
        if len(names.lines) == len(var):
            var["symbol"] = [line[0] for line in names.lines]
    whole = functools.cache(functools.partial(_read_mtx, path, transposed=transposed))  # when a row is asked for
    matrix = RowMatrix((len(obs), len(var)), lambda start, stop: whole()[start:stop].copy(), str(folder), path.name)
    return Opened(obs, {"X": matrix}, var)


def _partner(matrix: Path, end: str, names: Sequence[str]) -> Path | None:
    """Return the file of one of these names with the matrix's prefix, or the only one that ends so."""
    prefix, files = _stem(matrix).removesuffix(end), _visible(matrix.parent)
    for name in names:
        ends = [path for path in files if _stem(path).endswith(name) and path != matrix and path.is_file()]
        same = [path for path in ends if _stem(path) == f"{prefix}{name}"]
        if same or len(ends) == 1:
            return (same or ends)[-1]  # the packed one, of two
    return None


def _needed(matrix: Path, end: str, names: Sequence[str]) -> Path:
    if found := _partner(matrix, end, names):
        return found
    wanted = f"{_stem(matrix).removesuffix(end)}{names[0]}[.gz] (or {', '.join(names[1:])})"
    raise CellsError(f"{matrix.parent}: {wanted} is missing. Put the matrix, features and barcodes of one run into it.")


@dataclass(frozen=True)
class Table:
    """The lines of a file of features or cells, each as its fields."""

    path: Path
    lines: list[list[str]]

    @property
    def has_title(self) -> bool:
        return bool(self.lines) and any(TITLE.fullmatch(field) for field in self.lines[0])

    def frame(self, n: int, *, plain: Sequence[str]) -> pd.DataFrame:
        """Return ``n`` lines as a frame; its columns are called as the title says, else ``plain``."""
        rows = self.lines[len(self.lines) - n :]
        width = min((len(row) for row in rows), default=1)
        titles = self.lines[0] if len(rows) < len(self.lines) else []
        if len(titles) == width - 1:  # R leaves out the title of the names of rows
            titles = ["", *titles]
        if plain and not any(column_key(title) in NAME_KEYS for title in titles):
            titles = []  # V1, V2
        columns = [[row[i] for row in rows] for i in range(width)]
        first = 1 if width > 1 and columns[0] == [str(i + 1) for i in range(n)] else 0  # R's numbers of rows
        names = titles[first + 1 : width] if titles else list(plain[: width - first - 1])
        made = dict(zip(names, columns[first + 1 :], strict=False))
        return pd.DataFrame(made, index=pd.Index(columns[first], dtype=object), dtype=object)


def _read_table(path: Path) -> Table:
    with reading(str(path), "the file"):
        text = read_unpacked(path, error=CellsError).decode("utf-8-sig", errors="replace")
    lines = [line for line in re.split("\r\n?|\n", text) if line.strip()]
    separator = next((mark for mark in "\t," if lines and mark in lines[0]), "\t")
    quoted = '"' in text  # each line by itself: a quote that is never closed takes no other lines with it
    split = (next(csv.reader([line], delimiter=separator)) if quoted else line.split(separator) for line in lines)
    return Table(path, [clean_texts(fields) for fields in split])


def _fitted(
    features: Table, cells: Table, shape: tuple[int, int], *, by_cell: bool, path: Path
) -> tuple[pd.DataFrame, pd.DataFrame, bool]:
    """Return features, cells, and whether the matrix is features × cells: by their lengths, with or without titles."""
    n_features = [len(features.lines), *([len(features.lines) - 1] if features.has_title else [])]
    n_cells = [len(cells.lines), *([len(cells.lines) - 1] if cells.has_title else [])]
    order = (False, True) if by_cell else (True, False)
    for n, m, transposed in ((n, m, t) for n in n_features for m in n_cells for t in order):
        if shape == ((n, m) if transposed else (m, n)):
            return features.frame(n, plain=("symbol", "feature_types")), cells.frame(m, plain=()), transposed
    here = f"the matrix is {shape[0]:,} × {shape[1]:,}, not {n_features[0]:,} features × {n_cells[0]:,} barcodes"
    begins = show(" ".join(features.lines[0]) if features.lines else "")
    raise CellsError(f"{path}: {here} ({features.path.name} begins with {begins}). Give the three files of one run.")


def _read_header(path: Path, file: io.BufferedReader) -> tuple[int, int, int]:
    line = file.readline(1000)
    kind = line.decode(errors="replace").casefold().split()
    while line.startswith(b"%"):
        line = file.readline(100_000)
    if kind[:2] != ["%%matrixmarket", "matrix"]:
        raise ValueError("it does not begin with %%MatrixMarket matrix")
    if kind[2:3] != ["coordinate"] or kind[3] not in ("integer", "real", "double") or kind[4:] != ["general"]:
        raise CellsError(f"{path}: it is {' '.join(kind[2:])}, not coordinate integer or real general.")
    n_rows, n_columns, n_values = map(int, line.split())
    return n_rows, n_columns, n_values


def _read_mtx(path: Path, *, transposed: bool) -> sparse.csr_matrix:
    """Read the entries: three fields a line, as real numbers, since a header may call fractions integers."""
    with reading(str(path), "the matrix"), open_unpacked(path, error=CellsError) as file:
        n_rows, n_columns, n_values = _read_header(path, file)
        if not n_values:
            return sparse.csr_matrix((n_columns, n_rows) if transposed else (n_rows, n_columns))
        mark = "\t" if b"\t" in file.peek(100)[:100] else " "
        types = {"row": pa.int32(), "column": pa.int32(), "value": pa.float64()}
        entries = pa.csv.read_csv(
            file,
            pa.csv.ReadOptions(column_names=list(types)),
            pa.csv.ParseOptions(delimiter=mark, quote_char=False),
            pa.csv.ConvertOptions(column_types=types, null_values=[]),
        )
        if len(entries) != n_values:
            raise ValueError(f"its header announces {n_values:,} values, and it has {len(entries):,}")
        rows, columns, values = (entries[name].to_numpy() for name in types)
        matrix = sparse.coo_matrix((values, (rows - 1, columns - 1)), shape=(n_rows, n_columns))
    return sparse.csr_matrix(matrix.T if transposed else matrix)


# What is read of the features beside their ids and symbols; the last three are of probes.
FEATURE_PARTS = ("feature_type", "genome", "gene_id", "gene_name", "filtered_probes")


def tenx_groups(root: h5py.File) -> list[str]:
    """Return the groups of an HDF5 file that hold a 10x matrix: ``["matrix"]``, or one per genome."""
    groups = [name for name in root if root.get(name, getclass=True) is h5py.Group]
    return [name for name in groups if "barcodes" in root[name] and "indptr" in root[name]]


def read_10x_hdf5(root: h5py.File, *, guard: Guard) -> Opened:
    groups = tenx_groups(root)
    if len(groups) != 1:
        held = f"it holds {len(groups)} genomes ({show_some(groups, limit=6)})"
        cure = "Write one to a file of its own (scanpy.read_10x_h5(path, genome=…))."
        raise CellsError(f"{guard.source}: {held}. {cure}")
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
    obs = pd.DataFrame(index=pd.Index(barcodes, dtype=object))
    return Opened(obs, {"X": matrix}, var)


def _features(group: Any, *, guard: Guard, ids: str, symbols: str) -> pd.DataFrame:
    if guard.member(group, ids) is None:  # CellBender 0.1 writes no ids
        ids = symbols
    columns = {ids: _strings(group, ids, guard=guard), "symbol": _strings(group, symbols, guard=guard)}
    for part in FEATURE_PARTS:
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
        return list(map(str, decoded(array[:])))
