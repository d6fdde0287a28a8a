"""Predictions on their way to a file, block by block: CSV, Parquet, or the annotated cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from anndata.io import write_elem

from scstore import fsio
from scstore.annotation.majority import HETEROGENEOUS
from scstore.annotation.prediction_frames import COARSE, UNASSIGNED
from scstore.errors import OutputError
from scstore.store.export import write_h5ad
from scstore.store.reader import Store

__all__ = ["FORMATS", "PredictionWriter", "check_format", "open_writer"]

FORMATS = (".h5ad", ".csv", ".parquet")
STATUSES = ("ok", "empty", "unsure", "far", COARSE)
PROBABILITY = "scstore_probability"
NOT_ALWAYS = ("majority_", "label:", "confidence:")
"""How names of columns begin that only some predictions have: those of an earlier one do not outlive it."""


class PredictionWriter(Protocol):
    """Takes the blocks of a prediction in the order of the cells."""

    def write(self, frame: pd.DataFrame) -> None:
        """Append predictions of some cells; every frame has the same columns."""


def check_format(output: Path) -> None:
    """Refuse a name whose ending says no format that is written.

    Raises
    ------
    OutputError
        Naming those that are.
    """
    if output.suffix not in FORMATS:
        msg = f"{output}: the name must end in one of {', '.join(FORMATS)}."
        raise OutputError(msg)


@contextmanager
def open_writer(output: Path, store: Store, *, labels: Sequence[str]) -> Iterator[PredictionWriter]:
    """Write to the format that the name asks for; the file appears, whole, when the block ends without an error.

    Parameters
    ----------
    output
        ``.h5ad``, ``.csv`` or ``.parquet``.
    store
        The cells that are predicted, all that are committed; an ``.h5ad`` holds all of it.
    labels
        All that the columns of labels may hold, beside ``unassigned`` and ``heterogeneous``.
    """
    with fsio.atomic_path(output) as partial:
        writer: _Csv | _Parquet | _H5ad
        if output.suffix == ".csv":
            writer = _Csv(partial)
        elif output.suffix == ".parquet":
            writer = _Parquet(partial)
        else:
            writer = _H5ad(partial, store, labels)
        try:
            yield writer
        except BaseException:
            writer.close(whole=False)
            raise
        writer.close(whole=True)


class _Csv:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._begun = False

    def write(self, frame: pd.DataFrame) -> None:
        frame.to_csv(self._file, header=not self._begun)
        self._begun = True

    def close(self, *, whole: bool) -> None:
        del whole
        self._file.close()


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def write(self, frame: pd.DataFrame) -> None:
        table = pa.Table.from_pandas(frame)
        if self._file is None:
            self._file = pq.ParquetWriter(self._path, table.schema)
        self._file.write_table(table)

    def close(self, *, whole: bool) -> None:
        del whole
        if self._file is not None:
            self._file.close()


class _H5ad:
    """The store's cells with predictions in ``obs``, and the probabilities, if any, in ``obsm``."""

    def __init__(self, path: Path, store: Store, labels: Sequence[str]) -> None:
        write_h5ad(store, path, rows=None if store.is_complete else np.flatnonzero(store.committed))
        self._n = int(store.committed.sum())
        self._file = h5py.File(path, "r+")
        # text takes a small number a cell until the end
        self._labels = [*dict.fromkeys((*labels, UNASSIGNED, HETEROGENEOUS))]
        self._categories: dict[str, list[str]] = {}
        self._columns: dict[str, Any] = {}
        self._classes: list[str] = []
        self._done = 0

    def write(self, frame: pd.DataFrame) -> None:
        part = slice(self._done, self._done + len(frame))
        chances = [name for name in frame.columns if name.startswith("p(")]
        for name in frame.columns.drop(chances):
            values = frame[name]
            if name not in self._columns:
                text = values.dtype == object
                self._columns[name] = np.zeros(self._n, dtype=np.int32 if text else values.dtype)
                if text:
                    self._categories[name] = list(STATUSES) if name == "status" else self._labels
            known = self._categories.get(name)
            self._columns[name][part] = values if known is None else pd.Categorical(values, known).codes
        if chances:
            obsm = self._file.require_group("obsm")
            if self._done == 0:
                self._classes = [name[2:-1] for name in chances]
                if PROBABILITY in obsm:
                    del obsm[PROBABILITY]
                array = obsm.create_dataset(PROBABILITY, shape=(self._n, len(chances)), dtype=np.float64)
                array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            obsm[PROBABILITY][part] = frame[chances].to_numpy()
        self._done += len(frame)

    def close(self, *, whole: bool) -> None:
        try:
            if whole:
                self._finish()
        finally:
            self._file.close()

    def _finish(self) -> None:
        obs, uns = self._file["obs"], self._file.require_group("uns")
        order = [str(name) for name in obs.attrs["column-order"]]
        for key in [key for key in order if key.startswith(tuple(f"scstore_{name}" for name in NOT_ALWAYS))]:
            del obs[key]
            order.remove(key)
        for name, values in self._columns.items():
            key = f"scstore_{name}"
            if key in obs:
                del obs[key]
            categories = self._categories.get(name)
            if categories is not None:
                values = pd.Categorical.from_codes(values, categories).remove_unused_categories()
            write_elem(obs, key, values)
            order = [*(other for other in order if other != key), key]
        obs.attrs["column-order"] = np.array(order, dtype=object)
        if PROBABILITY in self._file.get("obsm", {}):
            key = f"{PROBABILITY}_classes"
            if key in uns:
                del uns[key]
            write_elem(uns, key, np.array(self._classes, dtype=object))
