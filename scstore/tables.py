"""Tables as CSV or Parquet, by the ending of the name; whole or block by block."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scstore import fsio
from scstore.errors import OutputError

FORMATS = (".parquet", ".csv")

# Columns that tell the tables of predictions and of neighbours from a user's own, which are not replaced.
OWN_COLUMNS = ({"confidence", "best_label"}, {"cell_id", "rank", "distance"}, {"n_labelled", "coherence"})


def check_table(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Refuse a table whose ending names no format, that may not be replaced, or that cannot be written there."""
    target = Path(path)
    if target.suffix not in FORMATS:
        raise OutputError(f"{target}: the name must end in one of {', '.join(FORMATS)}.")
    return fsio.check_output(target, overwrite=overwrite, problem=_problem)


def _problem(path: Path) -> str | None:
    columns: set[str] = set()
    with suppress(Exception):  # a file of anything
        columns = set(pd.read_csv(path, nrows=0) if path.suffix == ".csv" else pq.read_schema(path).names)
    return None if any(own <= columns for own in OWN_COLUMNS) else "is not a table that scstore wrote"


def write_table(frame: pd.DataFrame, path: str | os.PathLike[str], *, index: bool = False) -> None:
    with open_table(path, index=index) as table:
        table.write(frame)


@contextmanager
def open_table(path: str | os.PathLike[str], *, index: bool = False, overwrite: bool = True) -> Iterator[TableWriter]:
    """Write a table in blocks; the file appears, whole, when the ``with`` block ends without an error."""
    with fsio.atomic_path(path, overwrite=overwrite) as partial:
        writer = TableWriter(partial, csv=Path(path).suffix == ".csv", index=index)
        try:
            yield writer
        finally:
            writer.close()


def _has_carriage_return(frame: pd.DataFrame) -> bool:
    """Whether a text holds what pandas does not quote, though it reads it as the end of a line."""
    texts = frame.select_dtypes(exclude=["number", "bool"])
    values = (value for column in (frame.index, *(texts[name] for name in texts)) for value in column.unique())
    return any(isinstance(value, str) and "\r" in value for value in (*frame.columns, *values))


class TableWriter:
    """Appends blocks with the same columns to a file, CSV or Parquet, with the index or without."""

    def __init__(self, path: Path, *, csv: bool, index: bool = False) -> None:
        self._path = path
        self._csv = csv
        self._index = index
        self._parquet: Any = None
        self._begun = False

    def write(self, frame: pd.DataFrame) -> None:
        if self._csv:
            how: Any = {"mode": "a" if self._begun else "w", "header": not self._begun, "index": self._index}
            if _has_carriage_return(frame):
                how["quoting"] = csv.QUOTE_NONNUMERIC
            frame.to_csv(self._path, **how)
        else:
            self._write_parquet(frame)
        self._begun = True

    def _write_parquet(self, frame: pd.DataFrame) -> None:
        if self._parquet is None:
            schema = pa.Schema.from_pandas(frame, preserve_index=self._index)
            # a column of texts that are all missing in the first block
            fields = [field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in schema]
            self._parquet = pq.ParquetWriter(self._path, pa.schema(fields, schema.metadata))
        self._parquet.write_table(pa.Table.from_pandas(frame, schema=self._parquet.schema, preserve_index=self._index))

    def close(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
