"""Predictions written block by block: CSV, Parquet, or the annotated cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from anndata.io import write_elem

from scstore import fsio, tables
from scstore.annotation.majority import HETEROGENEOUS
from scstore.annotation.prediction_frames import COARSE, UNASSIGNED
from scstore.errors import OutputError
from scstore.hdf5_output import OutputFile, hdf5_output
from scstore.store.export import check_h5ad_output, write_h5ad
from scstore.store.reader import Store

FORMATS = (".h5ad", ".csv", ".parquet")
STATUSES = ("ok", "empty", "unsure", "far", COARSE)
PREFIX, PROBABILITY, CLASSES = "scstore_", "scstore_probability", "scstore_probability_classes"

# Beginnings of obs columns that only some predictions write: those of an earlier prediction are deleted.
OPTIONAL = tuple(f"{PREFIX}{name}" for name in ("majority_", "label:", "confidence:"))


def check_predictions_file(output: Path, *, overwrite: bool) -> None:
    """Refuse an ending that names no format, and a file that exists, before the work for it starts."""
    if output.suffix not in FORMATS:
        raise OutputError(f"{output}: the name must end in one of {', '.join(FORMATS)}.")
    if output.suffix in tables.FORMATS:
        tables.check_table(output, overwrite=overwrite)
    else:
        check_h5ad_output(output, overwrite=overwrite)


@contextmanager
def open_predictions_file(
    output: Path, store: Store, *, labels: Sequence[str], overwrite: bool = True
) -> Iterator[tables.TableWriter | AnnotatedCells]:
    """Write tables of all committed cells in blocks; the file appears, whole, when the block ends without an error.

    ``labels`` are all that the columns of labels can hold, beside ``unassigned`` and ``heterogeneous``.
    """
    if output.suffix in tables.FORMATS:
        with tables.open_table(output, index=True, overwrite=overwrite) as table:
            yield table
        return
    with fsio.atomic_path(output, overwrite=overwrite) as partial:
        write_h5ad(store, partial, rows=None if store.is_complete else np.flatnonzero(store.committed))
        with hdf5_output(partial, "r+") as file:
            cells = AnnotatedCells(file, int(store.committed.sum()), labels)
            yield cells
            cells.finish()


class AnnotatedCells:
    """``n`` cells in an ``.h5ad``, with predictions in ``obs`` and probabilities, if any, in ``obsm``."""

    def __init__(self, file: OutputFile, n: int, labels: Sequence[str]) -> None:
        self._n, self._file = n, file
        self._labels = [*dict.fromkeys((*labels, UNASSIGNED, HETEROGENEOUS))]
        self._columns: dict[str, list[pd.Series]] = {}
        self._classes: list[str] = []
        self._done = 0

    def write(self, frame: pd.DataFrame) -> None:
        """Append a block; every block has the same columns."""
        self._file.check()
        part = slice(self._done, self._done + len(frame))
        probabilities = [name for name in frame.columns if name.startswith("p(")]
        for name in frame.columns.drop(probabilities):
            values = frame[name].copy()  # else the whole block is held
            if values.dtype == object:  # text is held as category codes
                values = values.astype(pd.CategoricalDtype(STATUSES if name == "status" else self._labels))
            self._columns.setdefault(name, []).append(values)
        if probabilities:
            self._write_probabilities(part, frame[probabilities])
        self._done += len(frame)

    def _write_probabilities(self, part: slice, frame: pd.DataFrame) -> None:
        obsm = self._file.require_group("obsm")
        if part.start == 0:
            self._classes = [name[2:-1] for name in frame.columns]
            if PROBABILITY in obsm:
                del obsm[PROBABILITY]
            array = obsm.create_dataset(PROBABILITY, shape=(self._n, frame.shape[1]), dtype=np.float64)
            array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        obsm[PROBABILITY][part] = frame.to_numpy()

    def finish(self) -> None:
        """Write the columns, in place of those of an earlier prediction."""
        obs, uns, obsm = (self._file.require_group(name) for name in ("obs", "uns", "obsm"))
        written = [f"{PREFIX}{name}" for name in self._columns]
        order = [str(name) for name in obs.attrs["column-order"]]
        for key in [key for key in order if key in written or key.startswith(OPTIONAL)]:
            del obs[key]
            order.remove(key)
        for key, parts in zip(written, self._columns.values(), strict=True):
            values = pd.concat(parts, ignore_index=True)
            text = isinstance(values.dtype, pd.CategoricalDtype)
            write_elem(obs, key, values.cat.remove_unused_categories().array if text else values.to_numpy())
        obs.attrs["column-order"] = np.array([*order, *written], dtype=object)
        if CLASSES in uns:
            del uns[CLASSES]
        if self._classes:
            write_elem(uns, CLASSES, np.array(self._classes, dtype=object))
        elif PROBABILITY in obsm:
            del obsm[PROBABILITY]
