"""``scstore query``: the nearest reference cells of every cell."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import FeatureSpaceError, InputError, OptionError
from scstore.heads.compressed import EXACT_BELOW
from scstore.heads.exact_search import centre_of, nearest
from scstore.heads.rows import BLOCK_BYTES, RowSubset
from scstore.progress import Reporter
from scstore.search.index import fitting_index, searchable_view
from scstore.spec import differences
from scstore.store.obs_filter import cells_where
from scstore.store.reader import Store, open_store
from scstore.store.views import View
from scstore.tables import check_table, open_table, write_table

__all__ = ["QueryCounts", "SearchOptions", "neighbour_tables", "query", "query_to_file"]

MOST_CELLS = 50_000
"""Cells whose neighbours are worked out at a time, at most."""

TABLE_CELLS = 4096
"""Cells whose neighbours' metadata are looked up at a time: that takes more memory than the neighbours."""


@dataclass(frozen=True)
class SearchOptions:
    """Which neighbours are looked for: the options of :func:`query`, which says what they mean."""

    k: int = 15
    view: str | None = None
    columns: Sequence[str] | None = None
    where: str | None = None
    exact: bool = False
    index: str | os.PathLike[str] | None = None
    allow_partial: bool = False


@dataclass(frozen=True)
class QueryCounts:
    """What :func:`query_to_file` wrote.

    Attributes
    ----------
    n_cells
        Cells that have neighbours.
    median_distance
        Over all cells and neighbours; NaN where there are none.
    columns
        Of the table.
    """

    n_cells: int
    median_distance: float
    columns: tuple[str, ...]


def query(
    store: str | os.PathLike[str] | Store,
    reference: str | os.PathLike[str] | Store,
    output: str | os.PathLike[str] | None = None,
    *,
    k: int = 15,
    view: str | None = None,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    exact: bool = False,
    index: str | os.PathLike[str] | None = None,
    allow_partial: bool = False,
    overwrite: bool = False,
    progress: Reporter | None = None,
) -> pd.DataFrame:
    """Find the ``k`` nearest reference cells of every cell, by cosine distance around the reference's mean.

    The index that ``scstore index`` made is searched where it is there and fits the cells, else all cells are,
    exactly and in blocks. Distances are exact either way.

    Parameters
    ----------
    store
        The cells to look up.
    reference
        The cells to look among.
    output
        ``.parquet`` or ``.csv``; not written when ``None``.
    k
        Neighbours a cell.
    view
        The feature matrix both have; the readout by default.
    columns
        Columns of the reference's ``obs`` to bring along; all by default.
    where
        Condition on the reference's ``obs`` that the neighbours must fulfil, such as ``"tissue == 'lung'"``; see
        :func:`scstore.store.obs_filter.cells_where`. The mean stays that of all cells.
    exact
        Search all cells even where there is an index.
    index
        Folder of the index, where it is not beside the reference.
    allow_partial
        Search what is extracted so far.
    overwrite
        Replace an existing output.
    progress
        Told what happens.

    Returns
    -------
    DataFrame
        One row a cell and neighbour, nearest first: ``cell_id``, ``rank`` (from 1), ``neighbour`` (reference cell's
        id), ``distance`` (1 − cosine, 0 to 2), then the reference's columns. Empty cells have no rows.

    Raises
    ------
    FeatureSpaceError
        If the two live in different feature spaces.
    OptionError
        If ``k`` is not at least one and at most the number of reference cells to choose from, or the condition cannot
        be read, or both ``exact`` and ``index`` are given.
    NotAStoreError, InputError, DamagedError
        If the index that was named is not there, does not fit or is damaged.
    """
    if output is not None:
        check_table(output, overwrite=overwrite)
    search = SearchOptions(k, view, columns, where, exact, index, allow_partial)
    parts = neighbour_tables(store, reference, search, progress=progress or Reporter())
    frame = pd.concat(list(parts), ignore_index=True)
    if output is not None:
        write_table(frame, output)
    return frame


def query_to_file(
    store: str | os.PathLike[str] | Store,
    reference: str | os.PathLike[str] | Store,
    output: str | os.PathLike[str],
    search: SearchOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Reporter | None = None,
) -> QueryCounts:
    """What :func:`query` gives, written block by block: memory does not grow with the number of cells."""
    check_table(output, overwrite=overwrite)
    asked = SearchOptions() if search is None else search
    distances = []
    with open_table(output) as table:
        for frame in neighbour_tables(store, reference, asked, progress=progress or Reporter()):
            table.write(frame)
            distances.append(frame["distance"].to_numpy(dtype=np.float32))
    everything = np.concatenate(distances)
    median = float(np.median(everything)) if len(everything) else float("nan")
    return QueryCounts(len(everything) // asked.k, median, tuple(map(str, frame.columns)))


def neighbour_tables(
    store: str | os.PathLike[str] | Store,
    reference: str | os.PathLike[str] | Store,
    search: SearchOptions,
    *,
    progress: Reporter,
) -> Iterator[pd.DataFrame]:
    """The table of neighbours in blocks of cells, one block at least; raises what :func:`query` does."""
    k, view, columns, where = search.k, search.view, search.columns, search.where
    exact, index, allow_partial = search.exact, search.index, search.allow_partial
    if exact and index is not None:
        msg = f"--exact and --index {index}: give one of them."
        raise OptionError(msg)
    cells = store if isinstance(store, Store) else open_store(store)
    others = reference if isinstance(reference, Store) else open_store(reference)
    among = searchable_view(others, view)
    wanted = searchable_view(cells, view or among.name)
    _check_space(cells, wanted, others, among)
    if columns is not None and (unknown := [name for name in columns if name not in others.obs]):
        msg = f"{others.path} has no obs column {unknown[0]!r}. It has: {', '.join(map(str, others.obs.columns))}."
        raise InputError(msg)
    rows, other_rows = (side.usable_rows(allow_partial=allow_partial) for side in (cells, others))
    chosen = np.ones(len(other_rows), dtype=bool) if where is None else cells_where(others.obs, where)[other_rows]
    n_chosen = int(chosen.sum())
    if not 1 <= k <= n_chosen:
        whose = f"{others.path} has {n_chosen:,} cells to choose from" + (f" where {where}" if where else "")
        msg = f"-k {k}: {whose}; k must be between 1 and that."
        raise OptionError(msg)
    progress.note(f"searching {n_chosen:,} reference cells for each of {len(rows):,}, by {among.name}")
    found, told = None, ""
    if not exact and (index is not None or n_chosen >= EXACT_BELOW):
        found, told = fitting_index(others, among, other_rows, path=index)
        if found is None and not told:
            told = f"without an index all cells are compared; `scstore index {others.path}` would make this quicker"
    if told:
        progress.note(told)
    if found is not None:
        probing = found.probing
        progress.note(
            f"with the index {found.path}: recall at {probing.k} was {probing.recall:.3f} on {probing.n_queries} cells "
            f"held out{', all cells being allowed' if where else ''}; --exact compares all"
        )
        allowed = None
        if where is not None:
            allowed = np.zeros(others.n_obs, dtype=bool)
            allowed[other_rows[chosen]] = True
    else:
        mean = centre_of(RowSubset(among, other_rows))
        candidates = other_rows[chosen]
    step = min(MOST_CELLS, max(1, BLOCK_BYTES // (4 * wanted.shape[1])))
    for start in range(0, max(1, len(rows)), step):
        some = rows[start : start + step]
        queries = RowSubset(wanted, some)
        if found is not None:
            distances, places = found.nearest(among, queries, k=k, chosen=allowed)
        else:
            distances, indices = nearest(RowSubset(among, candidates), queries, k=k, mean=mean)
            places = candidates[indices]
        for first in range(0, max(1, len(some)), TABLE_CELLS):
            part = slice(first, first + TABLE_CELLS)
            yield _table(cells, some[part], others, places[part], distances[part], columns=columns)


def _check_space(cells: Store, wanted: View, others: Store, among: View) -> None:
    if wanted.fingerprint == among.fingerprint:
        return
    fields = "\n  ".join(differences(among.space, wanted.space))
    msg = (
        f"{cells.path} and {others.path}: {among.name} lives in two feature spaces. What differs (reference → "
        "cells):\n"
        f"  {fields}\nExtract the cells with --like {others.path}."
    )
    raise FeatureSpaceError(msg)


def _table(
    cells: Store,
    rows: NDArray[np.int64],
    others: Store,
    places: NDArray[np.int64],
    distances: NDArray[np.float32],
    *,
    columns: Sequence[str] | None,
) -> pd.DataFrame:
    k = places.shape[1]
    metadata = (others.obs if columns is None else others.obs[list(columns)]).iloc[places.ravel()]
    frame = pd.DataFrame(
        {
            "cell_id": np.repeat(cells.obs.index[rows].astype(str).to_numpy(dtype=object), k),
            "rank": np.tile(np.arange(1, k + 1), len(rows)),
            "neighbour": metadata.index.astype(str).to_numpy(dtype=object),
            "distance": distances.ravel(),
        }
    )
    kept = metadata.rename(columns={name: f"neighbour_{name}" for name in metadata.columns if name in frame.columns})
    return pd.concat([frame, kept.reset_index(drop=True)], axis=1)
