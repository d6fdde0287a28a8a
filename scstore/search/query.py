"""The nearest reference cells of every cell, or the shares of their labels."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.cells.labels import MISSING_LABELS, MissingLabels, check_column, read_labels, report_labels
from scstore.cluster import each, on_cluster
from scstore.described import Described
from scstore.errors import FeatureSpaceError, OptionError, show
from scstore.heads.neighbour_search import EXACT_BELOW, centre_of, nearest
from scstore.heads.rows import BLOCK_BYTES, Rows, RowSubset
from scstore.options import AllowPartial, Dask, Option, Overwrite, Progress, with_options
from scstore.progress import Reporter, Silent
from scstore.sealed import differences
from scstore.search.gene_loss import report_missing_genes
from scstore.search.index import cached_index
from scstore.search.label_shares import LabelShares
from scstore.store.obs_filter import cells_where
from scstore.store.reader import Cells, Store, open_store
from scstore.store.views import PICTURES, View
from scstore.tables import check_table, open_table

MOST_CELLS = 50_000  # cells whose neighbours are found at a time, at most

TABLE_CELLS = 4096  # cells whose table is made at a time: metadata take more memory than neighbours

LookedUp = Annotated[Cells, Option("The cells to look up.", argument=True)]
Reference = Annotated[Cells, Option("The cells to look among.")]


@dataclass(frozen=True)
class QueryOptions:
    """Options of :func:`query` and :func:`query_to_file`."""

    output: Annotated[
        str | os.PathLike[str] | None, Option("A .csv, .tsv, .parquet or .xlsx.", flags=("--output", "-o"))
    ] = None
    _: KW_ONLY
    k: Annotated[int, Option("Neighbours of each cell.", flags=("-k",), minimum=1)] = 15
    view: Annotated[str | None, Option("Feature matrix of both. By default the readout, or the only one.")] = None
    columns: Annotated[Sequence[str] | None, Option("obs columns to add. All by default.", flags=("--column",))] = None
    where: Annotated[str | None, Option("Condition on neighbours' obs, such as \"tissue == 'lung'\".")] = None
    summarise: Annotated[str | None, Option("obs column: give the shares of its labels among the neighbours.")] = None
    by: Annotated[str | None, Option("With summarise: obs column of the cells; one row for each value.")] = None
    missing_labels: MissingLabels = MISSING_LABELS
    exact: Annotated[bool, Option("Compare all cells, however large the reference is.", advanced=True)] = False
    allow_partial: AllowPartial = False
    overwrite: Overwrite = False
    dask: Dask = None
    progress: Progress = None


@dataclass(frozen=True, eq=False, repr=False)
class Neighbours(Described):
    """The result of :func:`query`.

    Attributes
    ----------
    table
        One row for each cell and neighbour, nearest first: ``cell_id``, ``rank`` (from 1), ``neighbour`` (id of the
        reference cell), ``distance`` (1 - cosine, 0 to 2), then the reference's columns. Empty cells have no rows.
        With ``summarise`` one row for each cell (``cell_id``) or group (named as ``by``): ``n_labelled`` neighbours
        with a label, the most frequent ``label`` (of equal ones the first by name), its ``fraction``, the
        ``coherence`` (Simpson's index, the sum of the squared shares: 1 where all agree), and the share ``f(LABEL)``
        of each label.
    """

    table: pd.DataFrame  # of :func:`query_to_file` its columns alone, but for groups
    n_rows: int
    n_cells: int  # that were looked up: all but the empty ones
    median_distance: float  # NaN without neighbours, or where only shares of labels were asked for
    k: int
    view: str  # the feature matrix they were compared by
    reference: str  # the cells they were looked up among

    def described(self) -> tuple[str, Mapping[str, str]]:
        """Return what is shown at a prompt and in notebooks, above the first rows of the table."""
        facts = {"k": str(self.k), "among": self.reference, "by": self.view}
        if "distance" in self.table:
            facts["median distance"] = f"{self.median_distance:.4g}"
        return f"Neighbours of {self.n_cells:,} cells", {**facts, "rows": f"{self.n_rows:,}"}

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n{self.table.head()}"

    def _repr_html_(self) -> str:
        return f"{super()._repr_html_()}{self.table.head().to_html(index=False, border=0)}"


@with_options(QueryOptions)
def query(store: LookedUp, reference: Reference, options: QueryOptions) -> Neighbours:
    """Find the ``k`` nearest reference cells of every cell, by cosine distance around the reference's mean.

    A reference of 50,000 cells or more is searched through an index, which is built once and kept in the user's cache
    folder; the recall it reaches is measured and reported. Distances are exact either way.

    With ``where``, distances stay centred on the mean of all cells.

    Returns
    -------
    Neighbours
        ``table`` is a DataFrame: one row for each cell and neighbour, or with ``summarise`` for each cell or group.

    Raises
    ------
    FeatureSpaceError
        If the two live in different feature spaces.
    InputError
        If there is no such view or column.
    OptionError
        If there are fewer than ``k`` reference cells to choose from, or the condition cannot be read.
    """
    return _found(_plan(store, reference, options), options, keep=True)


@with_options(QueryOptions)
def query_to_file(store: LookedUp, reference: Reference, options: QueryOptions) -> Neighbours:
    """Write the table of :func:`query` to ``output`` block by block: memory does not grow with the number of cells."""
    if options.output is None:
        raise OptionError("output=: name the file to write, such as neighbours.parquet.")
    return _found(_plan(store, reference, options), options, keep=options.by is not None)


@dataclass(frozen=True, eq=False)
class _Plan:
    """Rows to look up, all usable reference rows, and which of these ``(n,)`` may be found."""

    cells: Store
    view: View
    rows: NDArray[np.int64]
    others: Store
    others_view: View
    others_rows: NDArray[np.int64]
    chosen: NDArray[np.bool_]
    shares: LabelShares | None


def _plan(store: LookedUp, reference: Reference, options: QueryOptions) -> _Plan:
    """Open both sides and check everything before any search."""
    if options.output is not None:
        check_table(options.output, overwrite=options.overwrite)
    if options.by is not None and options.summarise is None:
        raise OptionError(f"by={options.by!r}: name the column of labels whose shares it groups with summarise=.")
    cells = open_store(store)
    others = open_store(reference)
    name = options.view or _common_view(cells, others)
    others_view, view = _searchable_view(others, name), _searchable_view(cells, name)
    if view.fingerprint != others_view.fingerprint:
        fields = "\n  ".join(differences(others_view.space, view.space))
        raise FeatureSpaceError(
            f"{cells.path} and {others.path}: {view.name} lives in two feature spaces. What differs (reference → "
            f"cells):\n  {fields}\nExtract the cells with like={str(others.path)!r}."
        )
    brought = [("columns", name, others) for name in options.columns or ()]
    for option, column, side in (*brought, ("summarise", options.summarise, others), ("by", options.by, cells)):
        if column is not None:
            check_column(side.obs, column, option=option, source=str(side.path))
    shares = None
    if options.summarise is not None:
        labels = read_labels(others.obs, options.summarise, missing=options.missing_labels, source=str(others.path))
        progress = options.progress or Reporter()
        report_labels(others.obs, options.summarise, labels, source=str(others.path), progress=progress)
        groups = None if options.by is None else cells.obs[options.by]
        shares = LabelShares(options.summarise, labels, groups=groups)
    rows, others_rows = (side.usable_rows(allow_partial=options.allow_partial) for side in (cells, others))
    chosen = np.ones(len(others_rows), dtype=bool)
    if options.where is not None:
        chosen = cells_where(others.obs, options.where)[others_rows]
        if not chosen.any():
            raise OptionError(
                f"where={options.where!r}: 0 cells of {others.path} meet it. Compare it with the values in its obs."
            )
    if options.k > (n_chosen := int(chosen.sum())):
        condition = f" where {options.where}" if options.where else ""
        raise OptionError(f"k={options.k}: {others.path} has {n_chosen:,} cells to choose from{condition}.")
    return _Plan(cells, view, rows, others, others_view, others_rows, chosen, shares)


def _common_view(cells: Store, others: Store) -> str:
    """The reference's default view where the cells have it or scstore made both, else the only one that both have."""
    if others.record is not None and (cells.record is not None or others.default_view in cells.views):
        return others.default_view
    both = [name for name in others.views if name in cells.views and name != "X"]
    chosen = [name for name in both if not PICTURES.search(name)] or both
    if len(chosen) == 1:
        return chosen[0]
    said = f"both have {', '.join(map(show, both))}. Name one"
    if not both:
        said = f"share no obsm matrix. Extract the cells with like={str(others.path)!r}"
    raise OptionError(f"view= is needed: {cells.path} and {others.path} {said}.")


def _searchable_view(store: Store, name: str) -> View:
    matrix = store.view(name)
    if matrix.name == "X":
        raise OptionError("view='X': expression is not searched. Name an obsm matrix.")
    return matrix


def _found(plan: _Plan, options: QueryOptions, *, keep: bool) -> Neighbours:
    """Make the table in parts, which are written on their way, and kept or not."""
    kept: list[pd.DataFrame] = []
    n_rows, distances = 0, [np.empty(0, dtype=np.float32)]
    with nullcontext() if options.output is None else open_table(options.output, overwrite=options.overwrite) as writer:
        for table in _tables(plan, options):
            if writer is not None:
                writer.write(table)
            n_rows += len(table)
            kept = [*kept, table] if keep else [table.head(0)]
            if plan.shares is None:
                distances.append(table["distance"].to_numpy(dtype=np.float32))
    median = float(pd.Series(np.concatenate(distances)).median())
    whole = pd.concat(kept, ignore_index=True)
    return Neighbours(whole, n_rows, len(plan.rows), median, options.k, plan.view.name, str(plan.others.path))


def _tables(plan: _Plan, options: QueryOptions) -> Iterator[pd.DataFrame]:
    obs = plan.others.obs if options.columns is None else plan.others.obs[list(options.columns)]
    for rows, places, distances in _neighbours(plan, options):
        for first in range(0, max(1, len(rows)), TABLE_CELLS):
            part = slice(first, first + TABLE_CELLS)
            ids = plan.cells.obs.index[rows[part]].astype(str).to_numpy(dtype=object)
            if plan.shares is None:
                yield _neighbour_table(ids, obs, places[part], distances[part])
            elif options.by is None:
                yield plan.shares.by_cell(ids, places[part])
            else:
                plan.shares.add(rows[part], places[part])
    if plan.shares is not None and options.by is not None:
        yield plan.shares.by_group()


def _neighbours(
    plan: _Plan, options: QueryOptions
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Yield some rows to look up, the reference rows nearest to each, and their distances."""
    progress = options.progress or Reporter()
    n_chosen = int(plan.chosen.sum())
    for line in (line for one in (plan.cells, plan.others) for line in one.notes):
        progress.note(line)
    progress.note(f"searching {n_chosen:,} reference cells for each of {len(plan.rows):,}, by {plan.view.name}")
    exact = n_chosen < EXACT_BELOW or options.exact
    among = _Reference(plan.others, plan.others_view, plan.others_rows, plan.chosen, exact, progress)
    search = among.search  # an index is built once, here
    report_missing_genes(
        plan.cells,
        plan.others,
        plan.others_view,
        plan.others_rows[plan.chosen],
        lambda queries, k: search(queries, k)[1],
        k=options.k,
        shares=plan.shares,
        progress=progress,
    )
    step = min(MOST_CELLS, max(1, BLOCK_BYTES // (4 * plan.view.shape[1])))
    looked_up = [plan.rows[start : start + step] for start in range(0, max(1, len(plan.rows)), step)]
    with on_cluster(options.dask, plan.cells, plan.others):
        found = each(partial(_look_up, among, plan.view, options.k), looked_up)
        yield from ((rows, places, distances) for rows, (distances, places) in zip(looked_up, found, strict=True))


Search = Callable[[Rows, int], tuple[NDArray[np.float32], NDArray[np.int64]]]


@dataclass(eq=False)
class _Reference:
    """What is searched; another process makes ready for it anew, with the index that is kept, where it is there."""

    store: Store
    view: View
    rows: NDArray[np.int64]  # (n,) that can be used
    chosen: NDArray[np.bool_]  # (n,) those of them that may be found
    exact: bool
    progress: Reporter

    def __getstate__(self) -> dict[str, Any]:
        return {**{name: value for name, value in vars(self).items() if name != "search"}, "progress": Silent()}

    @cached_property
    def search(self) -> Search:
        """From queries ``(m, d)`` and k to distances, and rows of the reference, ``(m, k)`` each."""
        everything = RowSubset(self.view, self.rows)
        if self.exact:
            rows = self.rows[self.chosen]
            find: Any = partial(nearest, RowSubset(self.view, rows), mean=centre_of(everything))
        else:
            index, rows = cached_index(self.store, self.view, self.rows, progress=self.progress), self.rows
            find = partial(index.nearest, everything, chosen=self.chosen)

        def search(queries: Rows, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            distances, found = find(queries, k=k)
            return distances, rows[found]

        return search


def _look_up(
    among: _Reference, view: View, k: int, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return among.search(RowSubset(view, rows), k)


def _neighbour_table(
    ids: NDArray[np.object_], obs: pd.DataFrame, places: NDArray[np.int64], distances: NDArray[np.float32]
) -> pd.DataFrame:
    k = places.shape[1]
    metadata = obs.iloc[places.ravel()]
    frame = pd.DataFrame(
        {
            "cell_id": np.repeat(ids, k),
            "rank": np.tile(np.arange(1, k + 1), len(ids)),
            "neighbour": metadata.index.astype(str).to_numpy(dtype=object),
            "distance": distances.ravel(),
        }
    )
    kept = metadata.rename(columns={name: f"neighbour_{name}" for name in metadata.columns if name in frame.columns})
    return pd.concat([frame, kept.reset_index(drop=True)], axis=1)
