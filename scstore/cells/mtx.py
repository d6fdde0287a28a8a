"""Folders with a Matrix Market file: 10x, STARsolo, Parse, kb-python, alevin-fry, and tables of their kind."""

from __future__ import annotations

import csv
import functools
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import scipy.io
from scipy import sparse

from scstore.cells.gene_names import NAME_KEYS, clean_texts, column_key
from scstore.cells.matrices import Opened, SlicedRows
from scstore.errors import CellsError, show, show_some
from scstore.untrusted.guards import damaged, reading
from scstore.untrusted.text import largest_text, open_unpacked, read_unpacked


@dataclass(frozen=True)
class Layout:
    """The files of a program, by the ends of their names without ``.gz``: a matrix, its features, and its cells."""

    matrix: str
    features: tuple[str, ...]
    cells: tuple[str, ...]
    by_cell: bool = False  # cells × features; where the lengths do not tell


TABLES = (
    ("features.tsv", "genes.tsv", "features.csv", "genes.csv", "features.txt", "genes.txt", "mtx_rows"),
    ("barcodes.tsv", "barcodes.csv", "barcodes.txt", "cells.tsv", "cells.csv", "cells.txt", "mtx_cols"),
)
PARSE = (("all_genes.csv", "genes.csv"), ("cell_metadata.csv",))
KB = (("cells_x_genes.genes.txt",), ("cells_x_genes.barcodes.txt",))

# The first whose matrix is there.
LAYOUTS = (
    Layout("count_matrix.mtx", *PARSE, by_cell=True),
    Layout("DGE.mtx", *PARSE, by_cell=True),
    Layout("cells_x_genes.mtx", *KB, by_cell=True),
    Layout("cells_x_genes.total.mtx", *KB, by_cell=True),
    Layout("quants_mat.mtx", ("quants_mat_cols.txt",), ("quants_mat_rows.txt",), by_cell=True),  # alevin-fry
    Layout("matrix.mtx", *TABLES),  # 10x, STARsolo, BD Rhapsody, DropletUtils
    Layout(".mtx", *TABLES),
)
# Beside kb's ids lie the symbols.
KB_SYMBOLS = "genes.names.txt"

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

# Anything but plain printed characters: blanks, quotes, marks.
UNCLEAN = re.compile("[^!#-&(-_a-~\\t\\r\\n]")

# Bytes of the shortest line of a Matrix Market file: ``1 1 1`` and its end.
SHORTEST_ENTRY = 6
FIELDS = 3


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz")


def _visible(folder: Path) -> list[Path]:
    """Return the files of a folder, without the hidden ones that macOS and file servers leave."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def find_mtx(folder: Path) -> list[Path]:
    """Return the matrices of a folder, plain or gzipped, also with a prefix before the name (as in GEO)."""
    found = [path for path in _visible(folder) if _stem(path).endswith(".mtx") and path.is_file()]
    for layout in LAYOUTS:
        if chosen := [path for path in found if _stem(path).endswith(layout.matrix)]:
            return chosen
    return []


def read_mtx_folder(folder: Path) -> Opened:
    """Read the features and cells of a folder and open its matrix."""
    found = find_mtx(folder)
    path = found[0]
    if why := next((why for end, why in NO_COUNTS.items() if any(_stem(p).endswith(end) for p in found)), None):
        raise CellsError(f"{path}: this matrix cannot be read. {why}")
    if len(found) != 1:
        listed = f"{len(found)} matrices in it ({show_some(one.name for one in found)})"
        raise CellsError(f"{folder}: there are {listed}. Keep one matrix with its features and barcodes in a folder.")
    fitting = [layout for layout in LAYOUTS if _stem(path).endswith(layout.matrix)]
    layout = next((one for one in fitting if _partner(path, one, one.features)), fitting[-1])
    shape = _read_header(path)
    features, cells = (_read_table(_needed(path, layout, names), shape) for names in (layout.features, layout.cells))
    var, obs, transposed = _fitted(features, cells, shape, layout, path)
    if symbols := _partner(path, layout, (KB_SYMBOLS,)):
        names = _read_table(symbols, shape)
        if len(names.lines) == len(var):
            var["symbol"] = [line[0] for line in names.lines]
    whole = functools.cache(functools.partial(_read_mtx, path, transposed=transposed))  # when a row is asked for
    matrix = SlicedRows((len(obs), len(var)), lambda start, stop: whole()[start:stop].copy(), str(folder), path.name)
    return Opened(obs, {"X": matrix}, {"X": var})


def _partner(matrix: Path, layout: Layout, names: Sequence[str]) -> Path | None:
    """Return the file of one of these names with the matrix's prefix, or the only one that ends so."""
    prefix, files = _stem(matrix).removesuffix(layout.matrix), _visible(matrix.parent)
    for name in names:
        ends = [path for path in files if _stem(path).endswith(name) and path != matrix and path.is_file()]
        same = [path for path in ends if _stem(path) == f"{prefix}{name}"]
        if same or len(ends) == 1:
            return (same or ends)[-1]  # the packed one, of two
    return None


def _needed(matrix: Path, layout: Layout, names: Sequence[str]) -> Path:
    if found := _partner(matrix, layout, names):
        return found
    prefix = _stem(matrix).removesuffix(layout.matrix)
    wanted = " or ".join(f"{prefix}{name}[.gz]" for name in names[:2])
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


def _read_table(path: Path, shape: tuple[int, int]) -> Table:
    with reading(str(path), "the file"):
        content = read_unpacked(path, error=CellsError)
    if content.count(b"\n") > max(shape) + 1000:
        n = content.count(b"\n")
        raise CellsError(f"{path}: it has {n:,} lines, and the matrix is {shape[0]:,} × {shape[1]:,}.")
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")  # Excel's «Unicode text»
    text = content.decode("utf-16" if wide else "utf-8-sig", errors="replace")
    lines = [line for line in re.split("\r\n?|\n", text) if line.strip()]
    separator = next((mark for mark in "\t," if lines and mark in lines[0]), "\t")
    if not UNCLEAN.search(text):  # millions of barcodes
        return Table(path, [line.split(separator) for line in lines])
    quoted = '"' in text
    split = (next(csv.reader([line], delimiter=separator)) if quoted else line.split(separator) for line in lines)
    return Table(path, [clean_texts(fields) for fields in split])


def _fitted(
    features: Table, cells: Table, shape: tuple[int, int], layout: Layout, path: Path
) -> tuple[pd.DataFrame, pd.DataFrame, bool]:
    """Return features, cells, and whether the matrix is features × cells: by their lengths, with or without titles."""
    n_features = [len(features.lines), *([len(features.lines) - 1] if features.has_title else [])]
    n_cells = [len(cells.lines), *([len(cells.lines) - 1] if cells.has_title else [])]
    order = (False, True) if layout.by_cell else (True, False)
    for n, m, transposed in ((n, m, t) for n in n_features for m in n_cells for t in order):
        if shape == ((n, m) if transposed else (m, n)):
            obs = cells.frame(m, plain=()).apply(_numbers)
            return features.frame(n, plain=("symbol", "feature_types")), obs, transposed
    raise CellsError(
        f"{path}: the matrix is {shape[0]:,} × {shape[1]:,}, but {n_features[0]:,} features × {n_cells[0]:,} barcodes "
        f"are beside it ({features.path.name} begins with {show(' '.join(features.lines[0]) if features.lines else '')}"
        "). Give the three files of one run."
    )


def _numbers(column: pd.Series) -> pd.Series:
    try:
        return pd.to_numeric(column)
    except ValueError:
        return column


def _read_header(path: Path) -> tuple[int, int]:
    """Return rows and columns; refuse what is no matrix of counts, or announces more values than the file can hold."""
    with reading(str(path), "the header"), open_unpacked(path, error=CellsError) as file:
        first = line = file.readline(1000)
        while line.startswith(b"%"):
            line = file.readline(100_000)
        # only these lines: scipy seeks in a stream that it does not read to its end, and crashes where it cannot
        n_rows, n_columns, n_values, layout, values, symmetry = scipy.io.mminfo(io.BytesIO(first + line))
        fields = len(file.readline(1000).split())
    if (layout, symmetry) != ("coordinate", "general") or values not in ("integer", "real", "double"):
        raise CellsError(f"{path}: it is {layout} {values} {symmetry}, not coordinate integer or real general.")
    if fields and fields != FIELDS:
        five = "STARsolo's Velocyto wrote five once, with unspliced counts: give Gene/filtered of the same run."
        raise CellsError(f"{path}: its lines have {fields} fields, not row, column and count. {five}")
    if n_values * SHORTEST_ENTRY > largest_text(path):
        raise damaged(str(path), f"The header announces {n_values:,} values, more than the file can hold.")
    return int(n_rows), int(n_columns)


class _AsReal:
    """A Matrix Market file that scipy reads as ``real``, without what scipy crashes on.

    As integers, values would lose fractions. scipy crashes on a NUL byte, and on an unfinished last line. It passes
    over what follows a third field: blanks and lines are counted.
    """

    def __init__(self, file: BinaryIO) -> None:
        file.readline()
        line = file.readline()
        while line.startswith(b"%"):
            line = file.readline()
        self._file = file
        self._before = b"%%MatrixMarket matrix coordinate real general\n" + line
        self._last = b"\n"
        self.blanks = self.lines = 0

    def read(self, size: int = -1) -> bytes:
        if text := self._before:
            self._before = b""
            return text
        text = self._file.read(size)
        if b"\0" in text:
            raise ValueError("it holds a NUL byte")
        if not text and self._last != b"\n":
            text = b"\n"
        self._last = text[-1:] or b"\n"
        self.blanks += text.count(b" ") + text.count(b"\t")
        self.lines += text.count(b"\n")
        return text


def _read_mtx(path: Path, *, transposed: bool) -> sparse.csr_matrix:
    with reading(str(path), "the matrix"), open_unpacked(path, error=CellsError) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # scipy 1.18: about the kind of matrix, which is made here
        text = _AsReal(file)
        matrix = scipy.io.mmread(text)
    if text.blanks != (FIELDS - 1) * text.lines:
        _check_fields(path)
    return sparse.csr_matrix(matrix.T if transposed else matrix)


def _check_fields(path: Path) -> None:
    """Refuse a matrix of which a line has another number of fields."""
    with reading(str(path), "the matrix"), open_unpacked(path, error=CellsError) as file:
        lines = (line for line in enumerate(file, 1) if not line[1].startswith(b"%"))
        odd = next((i for i, line in lines if len(line.split()) not in (0, FIELDS)), None)
    if odd is not None:
        raise damaged(str(path), f"Line {odd:,} has not three fields (row, column, count).")
