"""Shares of the neighbours' labels, for each cell or for each group of cells."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import OptionError

MOST_LABELS = 1000  # different labels that a table of shares has columns for


class LabelShares:
    """Counts of the labels of reference cells; ``groups`` of the cells looked up, whose counts are added up."""

    def __init__(self, column: str, labels: Sequence[str | None], *, groups: pd.Series | None) -> None:
        names = pd.Categorical(pd.Series(labels, dtype="object"))
        self._labels, self._codes = names.categories, names.codes
        if len(self._labels) > MOST_LABELS:
            raise OptionError(f"summarise={column!r}: {len(self._labels):,} different values, over {MOST_LABELS:,}.")
        self._groups = pd.Series(dtype="category") if groups is None else groups.astype("category")
        self._totals = np.zeros((len(self._groups.cat.categories), len(self._labels)), dtype=np.int64)

    def by_cell(self, ids: NDArray[np.object_], places: NDArray[np.int64]) -> pd.DataFrame:
        """Return one row for each cell, from its neighbours ``(m, k)``."""
        return self._table(pd.DataFrame({"cell_id": ids}), self._count(places))

    def add(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        """Add the neighbours ``(m, k)`` of cells ``(m,)`` to their groups; a cell without a group is left out."""
        groups = self._groups.cat.codes.to_numpy()[rows]
        np.add.at(self._totals, groups[groups >= 0], self._count(places[groups >= 0]))

    def by_group(self) -> pd.DataFrame:
        """Return one row for each group that has neighbours with a label, in the order of the groups' names."""
        names = self._groups.cat.categories.astype(str)
        there = self._totals.any(axis=1)
        return self._table(pd.DataFrame({str(self._groups.name): names[there]}), self._totals[there])

    def labelled(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which reference cells have a label."""
        return np.asarray(self._codes[rows] >= 0)

    def share_right(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> float:
        """Return how many reference cells have the most frequent label of their neighbours ``(m, k)``, 0 to 1."""
        counts = self._count(places)
        return float(((counts.argmax(axis=1) == self._codes[rows]) & counts.any(axis=1)).mean())

    def _count(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        counts = np.zeros((len(places), len(self._labels) + 1), dtype=np.int64)
        np.add.at(counts, (np.arange(len(places))[:, None], self._codes[places]), 1)  # -1, no label, is the last
        return counts[:, :-1]

    def _table(self, head: pd.DataFrame, counts: NDArray[np.int64]) -> pd.DataFrame:
        totals = counts.sum(axis=1)
        with np.errstate(invalid="ignore"):
            shares = counts / totals[:, None]
        best = self._labels.to_numpy(dtype=object)[counts.argmax(axis=1)]
        columns = {
            "n_labelled": totals,
            "label": np.where(totals > 0, best, None),
            "fraction": shares.max(axis=1),
            "coherence": (shares**2).sum(axis=1),
        }
        fractions = {f"f({name})": shares[:, i] for i, name in enumerate(self._labels)}
        return pd.concat([head, pd.DataFrame(columns | fractions, index=head.index)], axis=1)
