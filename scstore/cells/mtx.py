"""10x Genomics folders: ``matrix.mtx``, ``features.tsv`` or ``genes.tsv``, ``barcodes.tsv``, each plain or gzipped."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike

from scstore.cells.anndata_files import Opened
from scstore.cells.csc_to_csr import BLOCK, Entries, Scratch, SortedByRow
from scstore.cells.tenx import only_genes
from scstore.errors import CellsError
from scstore.escaping import show, show_some
from scstore.untrusted.guards import reading

__all__ = ["find_mtx", "read_10x_folder"]


def find_mtx(folder: Path) -> list[Path]:
    """The ``matrix.mtx`` files of a folder, plain or gzipped, also with a prefix before the name (as in GEO)."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(("matrix.mtx", "matrix.mtx.gz")))


def read_10x_folder(folder: Path, *, scratch: Scratch, block: int = BLOCK) -> Opened:
    """Read the features and barcodes of a 10x folder and open its matrix.

    Parameters
    ----------
    folder
        Holds the three files; if their names have a prefix, all three have the same.
    scratch
        For the matrix by rows.
    block
        Entries read at a time.

    Raises
    ------
    CellsError
        If a file is missing or damaged, or the three do not fit each other.
    """
    found = find_mtx(folder)
    if len(found) != 1:
        msg = (
            f"{folder}: there are {len(found)} matrices in it ({show_some(path.name for path in found)}). "
            "Keep one matrix with its features and barcodes in a folder of its own."
        )
        raise CellsError(msg)
    prefix = found[0].name.split("matrix.mtx")[0]
    features = _columns(_partner(folder, prefix, "features.tsv", "genes.tsv"))
    barcodes = [line[0] for line in _columns(_partner(folder, prefix, "barcodes.tsv"))]
    var = pd.DataFrame(
        {"symbol": [line[1] if len(line) > 1 else line[0] for line in features]},
        index=pd.Index([line[0] for line in features], dtype=object),
    )
    if features and all(len(line) > 2 for line in features):
        var["feature_type"] = [line[2] for line in features]
    matrix = MtxFile.open(found[0])
    if (matrix.n_rows, matrix.n_columns) != (len(features), len(barcodes)):
        msg = (
            f"{found[0]}: the matrix is {matrix.n_rows:,} × {matrix.n_columns:,}, but there are "
            f"{len(features):,} features and {len(barcodes):,} barcodes beside it (features × cells is "
            "expected). Give the three files of one run."
        )
        raise CellsError(msg)
    rows = SortedByRow(
        (len(barcodes), len(features)),
        matrix.dtype,
        lambda: matrix.blocks(block),
        scratch,
        str(folder),
        found[0].name,
    )
    genes, slot = only_genes(var, rows, source=str(folder))
    return Opened(pd.DataFrame(index=pd.Index(barcodes, dtype=object)), {"X": slot}, {"X": genes})


def _partner(folder: Path, prefix: str, *names: str) -> Path:
    for name in names:
        for path in (folder / f"{prefix}{name}.gz", folder / f"{prefix}{name}"):
            if path.is_file():
                return path
    wanted = " or ".join(f"{prefix}{name}[.gz]" for name in names)
    msg = f"{folder}: {wanted} is missing beside the matrix. Put the three files of one run into the folder."
    raise CellsError(msg)


def _open_text(path: Path) -> TextIO:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="\n")
    return path.open(encoding="utf-8", errors="replace", newline="\n")


def _columns(path: Path) -> list[list[str]]:
    with reading(str(path), "the file"), _open_text(path) as file:
        lines = file.read().split("\n")
    return [line.rstrip("\r").split("\t") for line in lines if line.strip()]


@dataclass(frozen=True)
class MtxFile:
    """A Matrix Market file of coordinates.

    Attributes
    ----------
    path
        The file.
    n_rows, n_columns, n_values
        What its header says.
    dtype
        Of the values: int64 or float64.
    """

    path: Path
    n_rows: int
    n_columns: int
    n_values: int
    dtype: DTypeLike

    @classmethod
    def open(cls, path: Path) -> MtxFile:
        """Read the header.

        Raises
        ------
        CellsError
            If it is no general coordinate matrix of integers or reals.
        """
        with reading(str(path), "the header"), _open_text(path) as file:
            words, sizes = cls._header(file)
        if len(words) != 5 or words[:3] != ["%%matrixmarket", "matrix", "coordinate"]:
            msg = (
                f"{path}: it does not begin with '%%MatrixMarket matrix coordinate': "
                f"{show(' '.join(words))}. It is no 10x matrix."
            )
            raise CellsError(msg)
        if words[3] not in ("integer", "real") or words[4] != "general" or len(sizes) != 3:
            msg = (
                f"{path}: its header says {show(' '.join(words[3:]))}; a general matrix of integers or reals is wanted."
            )
            raise CellsError(msg)
        n_rows, n_columns, n_values = sizes
        return cls(path, n_rows, n_columns, n_values, np.int64 if words[3] == "integer" else np.float64)

    @staticmethod
    def _header(file: TextIO) -> tuple[list[str], list[int]]:
        line = file.readline(1000)
        words = line.lower().split()
        while line.startswith("%"):
            line = file.readline(100_000)
        return words, [int(word) for word in line.split() if word.isdecimal()]

    def blocks(self, block: int) -> Iterator[Entries]:
        """Yield cells, genes and values of all entries, ``block`` at a time.

        Raises
        ------
        CellsError
            If the text does not parse, or holds another number of values than the header announces.
        """
        found = 0
        with _open_text(self.path) as file:
            for table in self._tables(file, block):
                found += len(table)
                # Matrix Market counts from 1
                yield (
                    table["cell"].to_numpy(np.int64) - 1,
                    table["gene"].to_numpy(np.int64) - 1,
                    table["value"].to_numpy(),
                )
        if found != self.n_values:
            msg = (
                f"{self.path}: the header announces {self.n_values:,} values, but there are {found:,}. "
                "The file is truncated or damaged: copy or download it again."
            )
            raise CellsError(msg)

    def _tables(self, file: TextIO, block: int) -> Iterator[pd.DataFrame]:
        with reading(str(self.path), "the matrix"):
            self._header(file)
            if not self.n_values:
                return
            types: dict[str, Any] = {"gene": np.int64, "cell": np.int64, "value": self.dtype}
            tables = pd.read_csv(
                file,
                sep=r"\s+",
                header=None,
                names=list(types),
                dtype=types,
                chunksize=block,
                engine="c",
                na_filter=False,
            )
        while True:
            # the generator's consumer runs between chunks: only the parsing is guarded
            with reading(str(self.path), "the matrix"):
                table = next(tables, None)
            if table is None:
                return
            yield table
