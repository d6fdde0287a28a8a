"""The commands of stage 2, which run on any laptop: fit, predict, query, info, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scstore.cli.shared import AllowPartial, Label, Overwrite, StoreArgument, app, state

__all__: list[str] = []


@app.command(rich_help_panel="On a laptop, without the model")
def fit(
    store: StoreArgument,
    label: Label,
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder of the head.", show_default=False)],
    *,
    head: Annotated[str, typer.Option(help="linear, mlp or knn.")] = "linear",
    view: Annotated[
        list[str] | None,
        typer.Option(help="Feature matrix; repeat for several. Readout, genept and X by default."),
    ] = None,
    fuse: Annotated[str, typer.Option(help="Several views: late (averaged) or early (joined).")] = "late",
    prior_adjustment: Annotated[
        float, typer.Option(help="0: labels rare here are rare elsewhere; 1: all are equally likely.", min=0, max=1)
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="The same seed gives the same head.")] = 0,
    allow_partial: AllowPartial = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a head on a store's cached features. No model, no GPU.

    Examples
    --------
        scstore fit stores/ref.zarr --label cell_type -o heads/cell_type

        scstore fit any.h5ad --view X_pca --label leiden --head knn -o heads/leiden
    """
    from scstore.workflows.fit import fit as run

    trained = run(
        store,
        out,
        label=label,
        head=head,
        views=view,
        fuse=fuse,
        prior_adjustment=prior_adjustment,
        seed=seed,
        allow_partial=allow_partial,
        overwrite=overwrite,
        progress=state.output.reporter,
    )
    held_out = trained.held_out_
    state.output.result(
        {"head": str(out), "classes": [str(name) for name in trained.classes_], "held_out": held_out},
        f"{out}: {head} head for {len(trained.classes_)} labels on {', '.join(trained.views_)}",
        _held_out_line(held_out),
        f"next: scstore predict STORE --head {out} -o annotated.h5ad",
    )


def _held_out_line(held_out: dict[str, Any]) -> str:
    if not held_out["n"]:
        return "no label has cells enough to hold some out: how good the head is cannot be said"
    return (
        f"on {held_out['n']:,} cells held out in turn: accuracy {held_out['accuracy']:.3f}, macro-F1 "
        f"{held_out['macro_f1']:.3f}, calibration error {held_out['ece']:.3f}"
    )


@app.command(rich_help_panel="On a laptop, without the model")
def predict(
    store: StoreArgument,
    head: Annotated[Path, typer.Option(help="Folder that `scstore fit` wrote.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option("--output", "-o", help="annotated.h5ad, labels.csv or labels.parquet.", show_default=False),
    ],
    *,
    proba: Annotated[bool, typer.Option("--proba", help="Add the probability of every class.")] = False,
    allow_partial: AllowPartial = False,
    overwrite: Overwrite = False,
) -> None:
    """Label cells with a trained head.

    Examples
    --------
        scstore predict stores/new.zarr --head heads/cell_type -o annotated.h5ad

        scstore predict stores/new.zarr --head heads/cell_type -o labels.csv --proba
    """
    from scstore.workflows.predict import predict as run

    frame = run(
        store,
        head,
        out,
        proba=proba,
        allow_partial=allow_partial,
        overwrite=overwrite,
        progress=state.output.reporter,
    )
    counts = frame["label"].value_counts()
    state.output.table(
        f"{out}: {len(frame):,} cells",
        ["label", "cells", "mean confidence"],
        [[str(n), f"{c:,}", f"{frame.confidence[frame['label'] == n].mean():.3f}"] for n, c in counts.items()],
    )
    state.output.result(
        {"output": str(out), "n_cells": len(frame), "labels": {str(k): int(v) for k, v in counts.items()}}
    )


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
    allow_partial: AllowPartial = False,
    overwrite: Overwrite = False,
) -> None:
    """Find the nearest reference cells of every cell.

    Example:

        scstore query stores/new.zarr --reference stores/ref.zarr -k 15 -o neighbours.parquet
    """
    from scstore.workflows.query import query as run

    frame = run(
        store,
        reference,
        out,
        k=k,
        view=view,
        columns=column,
        allow_partial=allow_partial,
        overwrite=overwrite,
        progress=state.output.reporter,
    )
    n_cells = frame["cell_id"].nunique()
    state.output.result(
        {"output": str(out), "n_cells": n_cells, "k": k, "columns": list(map(str, frame.columns))},
        f"{out}: {k} neighbours of each of {n_cells:,} cells, median distance {frame['distance'].median():.3f}",
    )


@app.command(rich_help_panel="On a laptop, without the model")
def info(
    path: Annotated[Path, typer.Argument(help="A store, an AnnData, or a head.", show_default=False)],
) -> None:
    """Say what a store, an AnnData or a head holds."""
    if (path / "head.json").exists():
        _info_of_head(path)
        return
    from scstore.stores.reader import open_store

    store = open_store(path)
    values = store.info
    progress = "complete" if values["complete"] else f"{values['n_committed']:,} extracted"
    state.output.table(
        f"{path}: {values['n_obs']:,} cells ({progress}, {values['n_empty']:,} empty)",
        ["view", "width", "dtype", "feature space"],
        [[name, str(v["width"]), v["dtype"], v["fingerprint"][7:19]] for name, v in values["views"].items()],
    )
    run = values["run"]
    lines = [f"obs: {', '.join(values['obs_columns'])}"]
    if run:
        lines += [
            f"model: {run['model']['name']} ({run['model']['digest'][7:19]})",
            f"default view: {values['default_view']}",
            f"input: {run['input']['name']}, {run['input']['kind']} from {run['input']['slot']}",
        ]
    state.output.result(values, *lines)


def _info_of_head(path: Path) -> None:
    from scstore.heads.artifact import load_head

    head, record = load_head(path)
    classes = record["trained_on"]["classes"]
    state.output.table(
        f"{path}: {head.kind} head", ["label", "training cells"], [[n, f"{c:,}"] for n, c in classes.items()]
    )
    values = {"kind": head.kind, "views": list(head.views_), "held_out": head.held_out_, "record": record}
    state.output.result(
        values,
        f"label: {record['label']} of {record['trained_on']['name']}",
        f"views: {', '.join(head.views_)}",
        _held_out_line(head.held_out_),
    )


@app.command(rich_help_panel="On a laptop, without the model")
def export(
    store: Annotated[Path, typer.Argument(help="A finished store.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", help="The .h5ad to write.", show_default=False)],
    *,
    view: Annotated[list[str] | None, typer.Option(help="View to include; repeat. All by default.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a store as one .h5ad file."""
    from scstore.stores.export import export_h5ad

    written = export_h5ad(store, out, views=view, overwrite=overwrite)
    state.output.result({"output": str(written)}, f"{written}: {written.stat().st_size / 1e6:,.1f} MB")
