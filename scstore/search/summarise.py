"""What the neighbours of a cell are: shares of their labels, and how much they agree."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import InputError, OptionError
from scstore.progress import Reporter
from scstore.search.query import SearchOptions, neighbour_tables
from scstore.store.reader import Store, open_store
from scstore.tables import check_table, open_table, write_table

__all__ = ["MOST_LABELS", "Summary", "query_summary", "summarise"]

MOST_LABELS = 1000
"""Different labels that a table of shares has columns for."""


@dataclass(frozen=True, eq=False)
class Summary:
    """What :func:`query_summary` wrote.

    Attributes
    ----------
    n_rows, columns
        Of the table.
    clusters
        The table, where it has a row a cluster.
    mean_coherence
        Mean over its rows; NaN where no neighbour has a label.
    chance_coherence
        That of neighbours drawn by chance from all cells of the reference: the sum of its labels' squared shares.
    """

    n_rows: int
    columns: tuple[str, ...]
    clusters: pd.DataFrame | None
    mean_coherence: float
    chance_coherence: float


def query_summary(
    store: str | os.PathLike[str] | Store,
    reference: str | os.PathLike[str] | Store,
    output: str | os.PathLike[str],
    search: SearchOptions | None = None,
    *,
    column: str,
    by: str | None = None,
    overwrite: bool = False,
    progress: Reporter | None = None,
) -> Summary:
    """Look up the neighbours of every cell and write what they are, block by block.

    Memory does not grow with the cells: a table of clusters is made from sums, one of cells is written in parts.

    Parameters
    ----------
    store, reference
        As for :func:`scstore.query`.
    output
        ``.parquet`` or ``.csv``.
    search
        Which neighbours; its ``columns`` are not looked at.
    column
        Column of the reference's ``obs`` to sum up. The table has a share for each of its labels.
    by
        Column of the store's ``obs`` whose values are the clusters; a row a cell by default.
    overwrite
        Replace an existing output.
    progress
        Told what happens.

    Raises
    ------
    InputError
        If there is no such column.
    """
    check_table(output, overwrite=overwrite)
    cells = store if isinstance(store, Store) else open_store(store)
    others = reference if isinstance(reference, Store) else open_store(reference)
    if by is not None and by not in cells.obs:
        msg = f"--by {by}: {cells.path} has no such obs column. It has: {', '.join(map(str, cells.obs.columns))}."
        raise InputError(msg)
    if column not in others.obs:
        known = ", ".join(map(str, others.obs.columns))
        msg = f"--summarise {column}: {others.path} has no such obs column. It has: {known}."
        raise InputError(msg)
    labels = _labels(others.obs[column], column).categories
    shares = others.obs[column].value_counts(normalize=True).to_numpy()
    chance = float((shares**2).sum())
    asked = replace(SearchOptions() if search is None else search, columns=[column])
    blocks = _count_blocks(neighbour_tables(cells, others, asked, progress=progress or Reporter()), labels)
    if by is not None:
        sums = _ClusterSums(cells.obs[by], len(labels))
        for ids, counts in blocks:
            sums.add(ids, counts)
        table = sums.table(labels)
        write_table(table, output)
        return Summary(len(table), tuple(table.columns), table, float(table["coherence"].mean()), chance)
    n_rows, total, n_known = 0, 0.0, 0
    with open_table(output) as writer:
        for ids, counts in blocks:
            part = _compositions(pd.DataFrame({"cell_id": ids}), counts, labels)
            writer.write(part)
            n_rows += len(part)
            total += float(part["coherence"].sum())
            n_known += int(part["coherence"].notna().sum())
    return Summary(n_rows, tuple(part.columns), None, total / n_known if n_known else float("nan"), chance)


def summarise(neighbours: pd.DataFrame, column: str, *, clusters: pd.Series | None = None) -> pd.DataFrame:
    r"""Sum up the neighbours of each cell, or of each cluster of cells, by one of their columns.

    With :math:`f_i` the share of label i among the labelled neighbours, the coherence is Simpson's index
    :math:`\sum_i f_i^2`: the chance that two of them, drawn with replacement, carry the same label. It is 1 where all
    agree and 1/L where L labels are equally frequent. Every neighbour counts the same.

    Parameters
    ----------
    neighbours
        What :func:`scstore.query` gave.
    column
        A column of the reference's in it.
    clusters
        Cluster of each query cell, by cell id. A cluster's shares are those of all neighbours of its cells; cells
        without a cluster are left out.

    Returns
    -------
    DataFrame
        One row a cell (``cell_id``), or a cluster (named as ``clusters`` is, with ``n_cells``), in the order of their
        first appearance and of the clusters' names. Then ``n_labelled`` (neighbours with a label), ``label`` (the most
        frequent; of equal ones the first by name), ``fraction`` (its share), ``coherence``, for clusters also
        ``cell_coherence`` (the mean over its cells), and a column ``f(LABEL)`` with the share of each. Where no
        neighbour has a label, they are missing.

    Raises
    ------
    InputError
        If there is no such column, or a cell has no entry in ``clusters``.
    OptionError
        If the column has more than 1,000 different values.
    """
    if column not in neighbours:
        msg = f"--summarise {column}: the neighbours have no such column. They have: {', '.join(neighbours.columns)}."
        raise InputError(msg)
    labels = _labels(neighbours[column], column).categories
    ids, counts = _count(neighbours, column, labels)
    if clusters is None:
        return _compositions(pd.DataFrame({"cell_id": ids}), counts, labels)
    sums = _ClusterSums(clusters, len(labels))
    sums.add(ids, counts)
    return sums.table(labels)


class _ClusterSums:
    """Labels of the neighbours of each cluster's cells, added up block by block.

    Parameters
    ----------
    clusters
        Cluster of each cell, by cell id.
    n_labels
        How many labels there are.
    """

    def __init__(self, clusters: pd.Series, n_labels: int) -> None:
        self._clusters = clusters.astype("category")
        n_clusters = len(self._clusters.cat.categories)
        self._pooled = np.zeros((n_clusters, n_labels), dtype=np.int64)
        self._n_cells, self._n_coherent = (np.zeros(n_clusters, dtype=np.int64) for _ in range(2))
        self._coherence = np.zeros(n_clusters)

    def add(self, ids: NDArray[Any], counts: NDArray[np.int64]) -> None:
        """Add cells, each with its neighbours' labels: ``(n_cells, n_labels)``."""
        missing = pd.Index(ids).difference(self._clusters.index)
        if len(missing):
            msg = f"--by: no cluster is given for {len(missing):,} cells, the first is {missing[0]!r}."
            raise InputError(msg)
        codes = self._clusters.reindex(ids).cat.codes.to_numpy()
        inside = codes >= 0
        codes, counts = codes[inside], counts[inside]
        np.add.at(self._pooled, codes, counts)
        coherence = _coherence(_shares(counts))
        known = ~np.isnan(coherence)
        n_clusters = len(self._n_cells)
        self._n_cells += np.bincount(codes, minlength=n_clusters)
        self._n_coherent += np.bincount(codes[known], minlength=n_clusters)
        self._coherence += np.bincount(codes[known], coherence[known], minlength=n_clusters)

    def table(self, labels: pd.Index) -> pd.DataFrame:
        """One row a cluster that has cells."""
        there = self._n_cells > 0
        names = self._clusters.cat.categories[there].astype(str)
        head = pd.DataFrame({str(self._clusters.name or "cluster"): names, "n_cells": self._n_cells[there]})
        table = _compositions(head, self._pooled[there], labels)
        with np.errstate(invalid="ignore"):
            by_cell = self._coherence[there] / self._n_coherent[there]
        table.insert(table.columns.get_loc("coherence") + 1, "cell_coherence", by_cell)
        return table


def _count_blocks(tables: Iterable[pd.DataFrame], labels: pd.Index) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
    """Ids of some cells and their neighbours' labels."""
    for frame in tables:
        yield _count(frame, str(frame.columns[-1]), labels)


def _count(neighbours: pd.DataFrame, column: str, labels: pd.Index) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Cell ids, and ``(n_cells, n_labels)`` how many of each one's neighbours have each label."""
    first = neighbours["rank"].to_numpy() == 1
    cell, ids = np.cumsum(first) - 1, neighbours["cell_id"].to_numpy()[first]
    codes = pd.Categorical(_text(neighbours[column]), categories=labels).codes
    known = codes >= 0
    counts = np.zeros((len(ids), len(labels)), dtype=np.int64)
    np.add.at(counts, (cell[known], codes[known]), 1)
    return ids, counts


def _text(values: pd.Series) -> pd.Series:
    return values if isinstance(values.dtype, pd.CategoricalDtype) else values.astype("string")


def _labels(values: pd.Series, column: str) -> pd.Categorical:
    labels = pd.Categorical(_text(values)).remove_unused_categories()
    if len(labels.categories) > MOST_LABELS:
        msg = (
            f"--summarise {column}: {len(labels.categories):,} different values. Name a column of labels, of at most "
            f"{MOST_LABELS:,}."
        )
        raise OptionError(msg)
    return labels


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    totals = counts.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    return shares


def _coherence(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    coherence: NDArray[np.float64] = (shares**2).sum(axis=1)
    if not shares.shape[1]:
        coherence[:] = np.nan
    return coherence


def _compositions(head: pd.DataFrame, counts: NDArray[np.int64], labels: pd.Index) -> pd.DataFrame:
    shares = _shares(counts)
    names = np.array([*map(str, labels), None], dtype=object)
    totals = counts.sum(axis=1)
    best = counts.argmax(axis=1) if counts.shape[1] else np.zeros(len(counts), dtype=np.int64)
    columns = {
        "n_labelled": totals,
        "label": names[np.where(totals > 0, best, len(names) - 1)],
        "fraction": shares.max(axis=1) if counts.shape[1] else np.full(len(counts), np.nan),
        "coherence": _coherence(shares),
    }
    fractions = {f"f({name})": shares[:, i] for i, name in enumerate(names[:-1])}
    return pd.concat([head, pd.DataFrame(columns), pd.DataFrame(fractions, index=head.index)], axis=1)
