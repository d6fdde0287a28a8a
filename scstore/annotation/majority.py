"""Majority voting: the label of most cells of a cluster, beside each cell's own."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from scstore.cells.labels import check_column, missing_labels
from scstore.errors import OptionError
from scstore.store.reader import Store

# The majority label of a cluster in which no label has the share asked for.
HETEROGENEOUS = "heterogeneous"


def read_clusters(store: Store, column: str) -> NDArray[np.int32]:
    """Return the cluster of each committed cell ``(n,)`` by number, from a column of ``obs``; -1 for none."""
    check_column(store.obs, column, option="majority", source=str(store.path))
    values = pd.Series(store.obs[column].to_numpy(dtype=object)[store.committed])
    missing = missing_labels(values)
    if missing.all():
        raise OptionError(f"majority={column!r}: no cell of {store.path} has a value in it. Choose another column.")
    codes: NDArray[np.int32] = pd.factorize(values.astype(str).where(~missing))[0].astype(np.int32)
    return codes


def with_majority(
    frames: Iterator[pd.DataFrame], clusters: NDArray[np.int32], *, min_share: float
) -> Iterator[pd.DataFrame]:
    """Add ``majority_label`` and ``majority_share`` to tables of predictions of cells in ``clusters`` ``(n,)``.

    As in CellTypist, every cell that is not empty votes with its ``label``, ``unassigned`` included; of labels with
    equally many votes the first by name wins. An empty cell stays ``unassigned``, and a cell in no cluster keeps its
    label; both have no share. The tables wait in a temporary file until all cells have voted.
    """
    votes: Counter[tuple[int, str]] = Counter()
    with tempfile.TemporaryFile() as file:
        start, writer = 0, None
        for frame in frames:
            mine = clusters[start : start + len(frame)]
            voters = (mine >= 0) & (frame["status"] != "empty").to_numpy()
            votes.update(zip(mine[voters].tolist(), frame["label"][voters], strict=True))
            table = pa.Table.from_pandas(frame)
            writer = writer or pa.ipc.new_stream(pa.PythonFile(file, "w"), table.schema)
            writer.write_table(table)
            start += len(frame)
        if writer is None:
            return
        writer.close()
        file.seek(0)
        winners = _winners(votes, min_share)
        with closing(pa.ipc.open_stream(pa.PythonFile(file, "r"))) as reader:
            start = 0
            for batch in reader:
                frame = batch.to_pandas()
                yield _with_votes(frame, clusters[start : start + len(frame)], winners)
                start += len(frame)
        if not start:
            yield _with_votes(frame, clusters[:0], winners)


def _winners(votes: Counter[tuple[int, str]], min_share: float) -> pd.DataFrame:
    """Return the ``label`` and its ``share`` of the votes for each cluster; of equal ones the first by name."""
    counts = pd.DataFrame([(*key, n) for key, n in sorted(votes.items())], columns=["cluster", "label", "n"])
    best = counts.sort_values("n", ascending=False, kind="stable").drop_duplicates("cluster").set_index("cluster")
    share = best["n"] / counts.groupby("cluster")["n"].sum()
    return pd.DataFrame({"label": best["label"].where(share >= min_share, HETEROGENEOUS), "share": share})


def _with_votes(frame: pd.DataFrame, mine: NDArray[np.int32], winners: pd.DataFrame) -> pd.DataFrame:
    label, share = frame["label"].to_numpy().astype(object), np.full(len(frame), np.nan)
    voted = (mine >= 0) & (frame["status"] != "empty").to_numpy()
    found = winners.loc[mine[voted]]
    label[voted], share[voted] = found["label"], found["share"]
    return frame.assign(majority_label=label, majority_share=share)
