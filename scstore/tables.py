"""Tables as CSV or Parquet, by the ending of the name; whole or block by block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from scstore import fsio
from scstore.errors import OutputError

FORMATS = (".parquet", ".csv")


def check_table(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Check that a table can be written, before the work for it starts.

    Raises
    ------
    OutputError
        If its ending names no format, or it exists and ``overwrite`` is not set, or its folder cannot be written to.
    """
    target = Path(path)
    if target.suffix not in FORMATS:
        raise OutputError(f"{target}: the name must end in one of {', '.join(FORMATS)}.")
    return fsio.check_output(target, overwrite=overwrite)


def write_table(frame: pd.DataFrame, path: str | os.PathLike[str], *, index: bool = False) -> None:
    """Write a table, whole or not at all."""
    with open_table(path, index=index) as table:
        table.write(frame)


@contextmanager
def open_table(path: str | os.PathLike[str], *, index: bool = False) -> Iterator[TableWriter]:
    """Write a table in blocks; the file appears, whole, when the ``with`` block ends without an error."""
    with fsio.atomic_path(path) as partial:
        writer = TableWriter(partial, csv=Path(path).suffix == ".csv", index=index)
        try:
            yield writer
        finally:
            writer.close()


class TableWriter:
    """Appends blocks with the same columns to a file, CSV or Parquet, with the index or without."""

    def __init__(self, path: Path, *, csv: bool, index: bool = False) -> None:
        self._path = path
        self._csv = csv
        self._index = index
        self._parquet: Any = None
        self._begun = False

    def write(self, frame: pd.DataFrame) -> None:
        """Append a block."""
        if self._csv:
            frame.to_csv(self._path, mode="a" if self._begun else "w", header=not self._begun, index=self._index)
        else:
            self._write_parquet(frame)
        self._begun = True

    def _write_parquet(self, frame: pd.DataFrame) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._parquet is None:
            schema = pa.Schema.from_pandas(frame, preserve_index=self._index)
            # a column of texts that are all missing in the first block
            fields = [field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in schema]
            self._parquet = pq.ParquetWriter(self._path, pa.schema(fields, schema.metadata))
        self._parquet.write_table(pa.Table.from_pandas(frame, schema=self._parquet.schema, preserve_index=self._index))

    def close(self) -> None:
        """Finish the file."""
        if self._parquet is not None:
            self._parquet.close()
