"""Tables that a workflow writes: CSV or Parquet, by the ending of the name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from scstore import fsio
from scstore.errors import OutputError

__all__ = ["FORMATS", "TableWriter", "check_table", "open_table", "write_table"]

FORMATS = (".parquet", ".csv")


def check_table(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Say whether a table can be written, before any work is done for it.

    Raises
    ------
    OutputError
        If its ending names no format, or it exists and ``overwrite`` is not set, or its folder cannot be written to.
    """
    target = Path(path)
    if target.suffix not in FORMATS:
        msg = f"{target}: the name must end in one of {', '.join(FORMATS)}."
        raise OutputError(msg)
    return fsio.check_output(target, overwrite=overwrite)


def write_table(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table without its index, whole or not at all."""
    with open_table(path) as table:
        table.write(frame)


@contextmanager
def open_table(path: str | os.PathLike[str]) -> Iterator[TableWriter]:
    """Write a table in parts; the file appears, whole, when the block ends without an error."""
    with fsio.atomic_path(path) as partial:
        writer = TableWriter(partial, csv=Path(path).suffix == ".csv")
        try:
            yield writer
        finally:
            writer.close()


class TableWriter:
    """Appends parts with the same columns to a file.

    Parameters
    ----------
    path
        The file.
    csv
        Whether it is CSV; else it is Parquet.
    """

    def __init__(self, path: Path, *, csv: bool) -> None:
        self._path = path
        self._csv = csv
        self._parquet: Any = None
        self._begun = False

    def write(self, frame: pd.DataFrame) -> None:
        """Append a part, without its index."""
        if self._csv:
            frame.to_csv(self._path, mode="a" if self._begun else "w", header=not self._begun, index=False)
        else:
            self._write_parquet(frame)
        self._begun = True

    def _write_parquet(self, frame: pd.DataFrame) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._parquet is None:
            schema = pa.Schema.from_pandas(frame, preserve_index=False)
            # a column of texts that are all missing in the first part
            fields = [field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in schema]
            self._parquet = pq.ParquetWriter(self._path, pa.schema(fields, schema.metadata))
        self._parquet.write_table(pa.Table.from_pandas(frame, schema=self._parquet.schema, preserve_index=False))

    def close(self) -> None:
        """Finish the file."""
        if self._parquet is not None:
            self._parquet.close()
