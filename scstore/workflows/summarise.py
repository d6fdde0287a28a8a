"""What the neighbours of a cell are: shares of their labels, and how much they agree."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import InputError, OptionError
from scstore.stores.reader import open_store
from scstore.workflows.query import query
from scstore.workflows.tables import check_table, write_table

__all__ = ["MOST_LABELS", "Summary", "query_summary", "summarise"]

MOST_LABELS = 1000
"""Different labels that a table of shares has columns for."""


@dataclass(frozen=True, eq=False)
class Summary:
    """What :func:`query_summary` wrote.

    Attributes
    ----------
    table
        As :func:`summarise` gives it.
    mean_coherence
        Mean over its rows; NaN where no neighbour has a label.
    chance_coherence
        That of neighbours drawn by chance from all cells of the reference: the sum of its labels' squared shares.
    """

    table: pd.DataFrame
    mean_coherence: float
    chance_coherence: float


def query_summary(
    store: str | os.PathLike[str],
    reference: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    column: str,
    by: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Summary:
    """Look up the neighbours of every cell and write what they are.

    Parameters
    ----------
    store, reference
        As for :func:`scstore.query`, with its ``options``.
    output
        ``.parquet`` or ``.csv``.
    column
        Column of the reference's ``obs`` to sum up.
    by
        Column of the store's ``obs`` whose values are the clusters; a row a cell by default.
    overwrite
        Replace an existing output.

    Raises
    ------
    InputError
        If there is no such column.
    """
    check_table(output, overwrite=overwrite)
    cells, others = open_store(store), open_store(reference)
    if by is not None and by not in cells.obs:
        msg = f"--by {by}: {cells.path} has no such obs column. It has: {', '.join(map(str, cells.obs.columns))}."
        raise InputError(msg)
    if column not in others.obs:
        known = ", ".join(map(str, others.obs.columns))
        msg = f"--summarise {column}: {others.path} has no such obs column. It has: {known}."
        raise InputError(msg)
    _labels(others.obs[column], column)
    neighbours = query(cells, others, columns=[column], **options)
    brought = f"neighbour_{column}" if f"neighbour_{column}" in neighbours else column
    table = summarise(neighbours, brought, clusters=None if by is None else cells.obs[by])
    write_table(table, output)
    shares = others.obs[column].value_counts(normalize=True).to_numpy()
    return Summary(table, float(table["coherence"].mean()), float((shares**2).sum()))


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
    labels = _labels(neighbours[column], column)
    cell = np.cumsum(neighbours["rank"].to_numpy() == 1) - 1
    ids = neighbours["cell_id"].to_numpy()[neighbours["rank"].to_numpy() == 1]
    known = labels.codes >= 0
    counts = np.zeros((len(ids), len(labels.categories)), dtype=np.int64)
    np.add.at(counts, (cell[known], labels.codes[known]), 1)
    if clusters is None:
        return _compositions(pd.DataFrame({"cell_id": ids}), counts, labels)
    missing = pd.Index(ids).difference(clusters.index)
    if len(missing):
        msg = f"--by: no cluster is given for {len(missing):,} cells, the first is {missing[0]!r}."
        raise InputError(msg)
    groups = pd.Categorical(clusters.reindex(ids).astype("category")).remove_unused_categories()
    inside = groups.codes >= 0
    pooled = np.zeros((len(groups.categories), counts.shape[1]), dtype=np.int64)
    np.add.at(pooled, groups.codes[inside], counts[inside])
    head = pd.DataFrame(
        {
            str(clusters.name or "cluster"): groups.categories.astype(str),
            "n_cells": np.bincount(groups.codes[inside], minlength=len(groups.categories)),
        }
    )
    table = _compositions(head, pooled, labels)
    by_cell = pd.Series(_coherence(_shares(counts)[inside])).groupby(groups.codes[inside]).mean()
    table.insert(table.columns.get_loc("coherence") + 1, "cell_coherence", by_cell.to_numpy())
    return table


def _labels(values: pd.Series, column: str) -> pd.Categorical:
    text = values.astype("string") if not isinstance(values.dtype, pd.CategoricalDtype) else values
    labels = pd.Categorical(text).remove_unused_categories()
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


def _compositions(head: pd.DataFrame, counts: NDArray[np.int64], labels: pd.Categorical) -> pd.DataFrame:
    shares = _shares(counts)
    names = np.array([*map(str, labels.categories), None], dtype=object)
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
