"""Looking up the nearest cells: index, query."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scstore.cli.shared import AllowPartial, Overwrite, StoreArgument, app, state

if TYPE_CHECKING:
    from scstore.search.query import SearchOptions

__all__: list[str] = []


@app.command(rich_help_panel="On a laptop, without the model")
def query(
    store: StoreArgument,
    reference: Annotated[Path, typer.Option(help="Store to look in.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--output", "-o", help="neighbours.parquet or neighbours.csv.", show_default=False)
    ],
    *,
    k: Annotated[int, typer.Option("-k", help="Neighbours a cell.")] = 15,
    view: Annotated[str | None, typer.Option(help="Feature matrix of both. The readout by default.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="obs column of the reference to bring along; repeat. All by default."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Look among these reference cells only, such as: \"tissue == 'lung'\".", show_default=False),
    ] = None,
    summarise: Annotated[
        str | None,
        typer.Option(
            help="obs column of the reference: write its shares among each cell's neighbours instead.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="With --summarise: a row for each value of this obs column of STORE.", show_default=False),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare all cells even where there is an index.")] = False,
    index: Annotated[
        Path | None,
        typer.Option(help="The index, where it is not beside the reference.", show_default=False),
    ] = None,
    allow_partial: AllowPartial = False,
    overwrite: Overwrite = False,
) -> None:
    """Find the nearest reference cells of every cell.

    Examples
    --------
        scstore query stores/new.zarr --reference stores/ref.zarr -k 15 -o neighbours.parquet

        scstore query stores/new.zarr --reference stores/ref.zarr --where "tissue == 'lung'" -o lung.csv

        scstore query stores/new.zarr --reference stores/ref.zarr --summarise cell_type --by leiden -o clusters.csv
    """
    from scstore.errors import OptionError
    from scstore.search.query import SearchOptions, query_to_file

    if by is not None and summarise is None:
        msg = f"--by {by}: it goes with --summarise COLUMN."
        raise OptionError(msg)
    search = SearchOptions(k, view, column, where, exact, index, allow_partial)
    if summarise is not None:
        if column:
            msg = "--column: --summarise writes shares, not neighbours with their columns. Leave one of them out."
            raise OptionError(msg)
        _summarise(store, reference, out, search, column=summarise, by=by, overwrite=overwrite)
        return
    counts = query_to_file(store, reference, out, search, overwrite=overwrite, progress=state.output.reporter)
    state.output.result(
        {"output": str(out), "n_cells": counts.n_cells, "k": k, "columns": list(counts.columns)},
        f"{out}: {k} neighbours of each of {counts.n_cells:,} cells, median distance {counts.median_distance:.3f}",
    )


def _summarise(
    store: Path,
    reference: Path,
    out: Path,
    search: SearchOptions,
    *,
    column: str,
    by: str | None,
    overwrite: bool,
) -> None:
    from scstore.search.summarise import query_summary

    k = search.k
    summary = query_summary(
        store, reference, out, search, column=column, by=by, overwrite=overwrite, progress=state.output.reporter
    )
    if summary.clusters is not None and by is not None:
        state.output.table(
            f"{out}: {column} of the {k} neighbours of each cell, by {by}",
            [by, "cells", column, "fraction", "coherence"],
            [
                [str(row[by]), f"{row['n_cells']:,}", str(row["label"]), f"{row['fraction']:.3f}",
                 f"{row['coherence']:.3f}"]
                for _, row in summary.clusters.iterrows()
            ],
        )  # fmt: skip
    rows = f"{summary.n_rows:,} {'cells' if by is None else 'clusters'}"
    state.output.result(
        {
            "output": str(out),
            "n_rows": summary.n_rows,
            "k": k,
            "mean_coherence": summary.mean_coherence,
            "chance_coherence": summary.chance_coherence,
            "columns": list(summary.columns),
        },
        f"{out}: what the {k} neighbours of {rows} are, by {column}",
        f"mean coherence {summary.mean_coherence:.3f} (1: all neighbours have the same {column}; "
        f"{summary.chance_coherence:.3f}: drawn from the reference by chance)",
    )


@app.command(rich_help_panel="On a laptop, without the model")
def index(
    store: StoreArgument,
    *,
    view: Annotated[str | None, typer.Option(help="Feature matrix. The readout by default.")] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Put the cells extracted since into the index that is there.")
    ] = False,
    recall: Annotated[
        float, typer.Option(help="Share of the 10 nearest neighbours that a query is to find; the rest is speed.")
    ] = 0.95,
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the index. Beside the store by default.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same index.")] = 0,
    allow_partial: AllowPartial = False,
) -> None:
    """Make the index that query searches when there are many cells.

    A cache made from the store: it may be deleted, and is made again where the cells have changed.

    Examples
    --------
        scstore index stores/ref.zarr

        scstore index stores/ref.zarr --add
    """
    from scstore.search.index import build_index

    built = build_index(
        store,
        out,
        view=view,
        add=add,
        recall=recall,
        seed=seed,
        allow_partial=allow_partial,
        progress=state.output.reporter,
    )
    probing = built.probing
    values = {
        "index": None if built.path is None else str(built.path),
        "view": built.view,
        "n_cells": built.n_cells,
        "added": built.added,
        "recall": None if probing is None else probing.recall,
        "probes": None if probing is None else probing.probes,
        "n_lists": built.n_lists,
        "components": built.components,
        "bytes": built.n_bytes,
    }
    if probing is None:
        lines = [f"{store}: {built.n_cells:,} cells need no index: query compares them all, exactly"]
    else:
        what = f"{built.added:,} cells added, {built.n_cells:,} in all" if built.added else "it fits already"
        lines = [
            f"{built.path}: {what}, {built.n_bytes / 1e6:,.1f} MB",
            f"recall at {probing.k}: {probing.recall:.3f}, measured on {probing.n_queries} cells held out",
            f"{built.components} dimensions in half precision; {probing.probes} of {built.n_lists} lists searched",
            f"next: scstore query STORE --reference {store} -o neighbours.parquet",
        ]
    state.output.result(values, *lines)
