"""Majority voting: the label of most cells of a cluster, beside each cell's own."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
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
    label; both have no share. The tables are kept until all cells have voted.
    """
    kept = list(frames)
    label = np.concatenate([frame["label"].to_numpy(dtype=object) for frame in kept])
    voted = (clusters >= 0) & np.concatenate([frame["status"] != "empty" for frame in kept])
    share = np.full(len(label), np.nan)
    if voted.any():
        votes = pd.crosstab(clusters[voted], label[voted])  # by clusters and the names of labels, sorted
        largest = votes.max(axis=1) / votes.sum(axis=1)
        winners = votes.idxmax(axis=1).where(largest >= min_share, HETEROGENEOUS)
        label[voted], share[voted] = winners[clusters[voted]], largest[clusters[voted]]
    start = 0
    for frame in kept:
        part = slice(start, start + len(frame))
        yield frame.assign(majority_label=label[part], majority_share=share[part])
        start += len(frame)
