"""Majority voting: the label of most cells of a cluster, beside each cell's own."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from scstore.cells.labels import missing_labels
from scstore.errors import OptionError
from scstore.store.reader import Store

__all__ = ["HETEROGENEOUS", "check_min_share", "read_clusters", "with_majority"]

HETEROGENEOUS = "heterogeneous"
"""The majority label of a cluster in which no label has the share asked for."""


def check_min_share(min_share: float, *, majority: str | None) -> None:
    """Refuse a share that is none, or one without a vote.

    Raises
    ------
    OptionError
        Naming the option.
    """
    if not 0 <= min_share <= 1:
        msg = f"--min-share {min_share}: must be between 0 and 1, such as 0.5 for more than a relative majority."
        raise OptionError(msg)
    if min_share and majority is None:
        msg = "--min-share: is about majority voting. Add majority='COLUMN'."
        raise OptionError(msg)


def read_clusters(store: Store, column: str) -> NDArray[np.int32]:
    """Return the cluster number of each committed cell ``(n,)`` from a column of ``obs``; -1 for cells in no cluster.

    Raises
    ------
    OptionError
        If there is no such column, or no cell has a value in it.
    """
    if column not in store.obs:
        known = ", ".join(map(str, store.obs.columns)) or "none"
        msg = f"--majority {column}: {store.path} has no such obs column. It has: {known}."
        raise OptionError(msg)
    values = store.obs[column].to_numpy(dtype=object)[store.committed]
    missing = missing_labels(values)
    if missing.all():
        msg = f"--majority {column}: no cell of {store.path} has a value in it. Choose another column."
        raise OptionError(msg)
    codes = np.full(len(values), -1, dtype=np.int32)
    codes[~missing] = pd.factorize(values[~missing].astype(str))[0]
    return codes


def with_majority(
    frames: Iterator[pd.DataFrame], clusters: NDArray[np.int32], *, folder: Path | None, min_share: float
) -> Iterator[pd.DataFrame]:
    """Add to each prediction what its cluster says.

    As CellTypist has it: every cell that is not empty votes with its ``label``, ``unassigned`` included; of labels with
    as many votes the first by name wins. An empty cell stays ``unassigned``, and a cell in no cluster keeps its label;
    both have no share. All cells are judged before the first is given back: they wait on disk, in bounded memory.

    Parameters
    ----------
    frames
        Predictions block by block.
    clusters
        Cluster number of each cell ``(n,)``; -1 for a cell in no cluster.
    folder
        Where the temporary file goes; the system's place for such files by default.
    min_share
        Share of a cluster's votes below which it is :data:`HETEROGENEOUS`.

    Yields
    ------
    DataFrame
        With ``majority_label`` and ``majority_share``.
    """
    votes: Counter[tuple[int, str]] = Counter()
    with tempfile.TemporaryFile(dir=folder) as file:
        start, writer = 0, None
        for frame in frames:
            mine = clusters[start : start + len(frame)]
            votes_here = (mine >= 0) & (frame["status"] != "empty").to_numpy()
            votes.update(zip(mine[votes_here].tolist(), frame["label"][votes_here], strict=True))
            table = pa.Table.from_pandas(frame)
            writer = writer or pa.ipc.new_stream(pa.PythonFile(file, "w"), table.schema)
            writer.write_table(table)
            start += len(frame)
        if writer is None:
            return
        writer.close()
        file.seek(0)
        labels, shares = _count(votes, min_share)
        with closing(pa.ipc.open_stream(pa.PythonFile(file, "r"))) as reader:
            start = 0
            for batch in reader:
                frame = batch.to_pandas()
                yield _with_votes(frame, clusters[start : start + len(frame)], labels, shares)
                start += len(frame)
        if not start:
            yield _with_votes(frame, clusters[:0], labels, shares)


def _count(votes: Counter[tuple[int, str]], min_share: float) -> tuple[dict[int, str], dict[int, float]]:
    """Label and share of each cluster."""
    by_cluster: dict[int, dict[str, int]] = {}
    for (cluster, label), n in sorted(votes.items()):
        by_cluster.setdefault(cluster, {})[label] = n
    labels, shares = {}, {}
    for cluster, counts in by_cluster.items():
        best = max(counts, key=lambda label: counts[label])  # of equal ones the first by name
        shares[cluster] = counts[best] / sum(counts.values())
        labels[cluster] = best if shares[cluster] >= min_share else HETEROGENEOUS
    return labels, shares


def _with_votes(
    frame: pd.DataFrame, mine: NDArray[Any], labels: dict[int, str], shares: dict[int, float]
) -> pd.DataFrame:
    own, empty = frame["label"].to_numpy(), (frame["status"] == "empty").to_numpy()
    voted = (mine >= 0) & ~empty
    label = own.astype(object)
    label[voted] = [labels[cluster] for cluster in mine[voted].tolist()]
    share = np.full(len(frame), np.nan)
    share[voted] = [shares[cluster] for cluster in mine[voted].tolist()]
    return frame.assign(majority_label=label, majority_share=share)
