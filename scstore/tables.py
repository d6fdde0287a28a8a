"""Tables as CSV, TSV, Parquet or Excel, by the ending of the name; whole or block by block."""

import csv
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scstore import fsio
from scstore.errors import OutputError

# Columns that tell the tables of predictions and of neighbours from a user's own, which are not replaced.
OWN_COLUMNS = (
    {"confidence", "best_label"},
    {"cell_id", "rank", "distance"},
    {"n_labelled", "coherence"},
    {"next_id", "next_term"},
)
EXCEL_ROWS, EXCEL_MARK = 1_048_576, "Written by scstore"  # rows of a sheet at most; what marks those written here


def check_table(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    target = Path(path)
    if target.suffix not in FORMATS:
        raise OutputError(f"{target}: the name must end in one of {', '.join(FORMATS)}.")
    return fsio.check_output(target, overwrite=overwrite, problem=_problem)


def _problem(path: Path) -> str | None:
    columns: set[str] = set()
    with suppress(Exception):  # a file of anything
        if path.suffix == ".xlsx":
            with zipfile.ZipFile(path) as parts, parts.open("docProps/core.xml") as core:
                if EXCEL_MARK.encode() in core.read(1 << 16):
                    return None
        elif path.suffix == ".parquet":
            columns = set(pq.read_schema(path).names)
        else:
            columns = set(pd.read_csv(path, nrows=0, sep=KINDS[path.suffix].separator))
    return None if any(own <= columns for own in OWN_COLUMNS) else "is not a table that scstore wrote"


def four_digits(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with four significant digits of its numbers that are not whole, for people to read."""
    rounded = {name: [float(f"{v:.4g}") for v in frame[name]] for name in frame.columns[frame.dtypes == np.float64]}
    return frame.assign(**rounded)


class TableWriter:
    """Blocks with the same columns, as comma-separated values."""

    separator = ","

    def __init__(self, path: Path, *, index: bool) -> None:
        self._path, self._index, self._begun = path, index, False
        self._file: Any = None

    def write(self, frame: pd.DataFrame) -> None:
        how: Any = {"mode": "a" if self._begun else "w", "header": not self._begun, "index": self._index}
        if _has_carriage_return(frame):
            how["quoting"] = csv.QUOTE_NONNUMERIC
        frame.to_csv(self._path, sep=self.separator, **how)
        self._begun = True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _has_carriage_return(frame: pd.DataFrame) -> bool:
    """Whether a text holds what pandas does not quote, though it reads it as the end of a line."""
    texts = frame.select_dtypes(exclude=["number", "bool"])
    values = (value for column in (frame.index, *(texts[name] for name in texts)) for value in column.unique())
    return any(isinstance(value, str) and "\r" in value for value in (*frame.columns, *values))


class TabTable(TableWriter):
    separator = "\t"


class ParquetTable(TableWriter):  # one row group a block
    def write(self, frame: pd.DataFrame) -> None:
        if self._file is None:
            schema = pa.Schema.from_pandas(frame, preserve_index=self._index)
            # a column of texts that are all missing in the first block
            fields = [field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in schema]
            self._file = pq.ParquetWriter(self._path, pa.schema(fields, schema.metadata))
        self._file.write_table(pa.Table.from_pandas(frame, schema=self._file.schema, preserve_index=self._index))


class ExcelTable(TableWriter):
    """One sheet of an Excel workbook, in which text is text and never a formula."""

    def __init__(self, path: Path, *, index: bool) -> None:
        from xlsxwriter import Workbook  # type: ignore[import-untyped]

        super().__init__(path, index=index)
        options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
        self._file = Workbook(str(path), {**options, "nan_inf_to_errors": True})
        self._file.set_properties({"comments": EXCEL_MARK})
        self._sheet, self._row = self._file.add_worksheet(), 0

    def write(self, frame: pd.DataFrame) -> None:
        frame = frame.reset_index() if self._index else frame
        if self._row + len(frame) >= EXCEL_ROWS:
            raise OutputError(
                f"A sheet of Excel has {EXCEL_ROWS:,} rows, and there are more. Write a .csv or .parquet."
            )
        if not self._row:
            self._sheet.write_row(0, 0, [str(name) for name in frame.columns])
            self._sheet.freeze_panes(1, 0)
        for values in frame.astype(object).where(frame.notna(), None).itertuples(index=False, name=None):
            self._row += 1
            self._sheet.write_row(self._row, 0, values)


KINDS = {".parquet": ParquetTable, ".csv": TableWriter, ".tsv": TabTable, ".xlsx": ExcelTable}
FORMATS = tuple(KINDS)


def write_table(frame: pd.DataFrame, path: str | os.PathLike[str], *, index: bool = False) -> None:
    with open_table(path, index=index) as table:
        table.write(frame)


@contextmanager
def open_table(path: str | os.PathLike[str], *, index: bool = False, overwrite: bool = True) -> Iterator[TableWriter]:
    """Write a table in blocks; the file appears, whole, when the ``with`` block ends without an error."""
    target = Path(path)
    with fsio.atomic_path(target, overwrite=overwrite) as partial:
        writer = KINDS.get(target.suffix, TableWriter)(partial, index=index)
        try:
            yield writer
        except BaseException:
            with suppress(Exception):
                writer.close()
            raise
        writer.close()
