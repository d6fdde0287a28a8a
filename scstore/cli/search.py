"""Looking up the nearest cells: query."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scstore.cli.shared import AllowPartial, Overwrite, StoreArgument, app, state

__all__: list[str] = []


@app.command(rich_help_panel="On a laptop, without the model")
def query(
    store: StoreArgument,
    reference: Annotated[Path, typer.Option(help="Store to look in.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--output", "-o", help="neighbours.parquet or neighbours.csv.", show_default=False)
    ],
    *,
    k: Annotated[int, typer.Option("-k", help="Neighbours of each cell.")] = 15,
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
            help="obs column of the reference: write the shares of its labels among the neighbours instead.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="With --summarise: a row for each value of this obs column of STORE.", show_default=False),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare all cells, however large the reference is.")] = False,
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
    from scstore.search.query import query_to_file

    found = query_to_file(
        store,
        reference,
        out,
        k=k,
        view=view,
        columns=column,
        where=where,
        summarise=summarise,
        by=by,
        exact=exact,
        allow_partial=allow_partial,
        overwrite=overwrite,
        progress=state.output.reporter,
    )
    if found.groups is not None:
        rows = [
            [str(row[by]), str(row["label"]), f"{row['fraction']:.3f}", f"{row['coherence']:.3f}"]
            for _, row in found.groups.iterrows()
        ]
        title = f"{out}: {summarise} of the {k} neighbours of each cell, by {by}"
        state.output.table(title, [str(by), str(summarise), "fraction", "coherence"], rows)
    shares = summarise is not None
    state.output.result(
        {"output": str(out), "n_cells": found.n_cells, "n_rows": found.n_rows, "k": k, "columns": list(found.columns)},
        f"{out}: shares of {summarise} among {k} neighbours of each of {found.n_cells:,} cells"
        if shares
        else f"{out}: {k} neighbours of each of {found.n_cells:,} cells, median distance {found.median_distance:.3f}",
    )
