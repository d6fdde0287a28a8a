"""The commands of stage 2, which run on any laptop: fit, predict, info, export."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from scstore.cli.shared import AllowPartial, MissingLabels, Overwrite, PriorAdjustment, StoreArgument, app, state
from scstore.heads import PRIOR_ADJUSTMENT

__all__: list[str] = []


@app.command(rich_help_panel="On a laptop, without the model")
def fit(
    store: StoreArgument,
    label: Annotated[
        list[str],
        typer.Option(help="Column of obs; repeat for coarser levels of the same labels.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder of the head.", show_default=False)],
    *,
    missing_labels: MissingLabels = None,
    head: Annotated[
        str, typer.Option(help="linear, mlp, knn; or across-genes, for cells measured on other genes.")
    ] = "linear",
    view: Annotated[
        list[str] | None,
        typer.Option(help="Feature matrix; repeat for several. Readout, genept and X by default."),
    ] = None,
    prior_adjustment: PriorAdjustment = PRIOR_ADJUSTMENT,
    keep: Annotated[
        float, typer.Option(help="Share of known, rightly labelled cells that predict is to leave their label.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="The same seed gives the same head.")] = 0,
    allow_partial: AllowPartial = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a head on a store's cached features. No model, no GPU.

    Examples
    --------
        scstore fit stores/ref.zarr --label cell_type -o heads/cell_type

        scstore fit any.h5ad --view X_pca --label leiden --head knn -o heads/leiden

        scstore fit stores/ref.zarr --label lineage --label cell_type -o heads/two_levels
    """
    from scstore.annotation.fit import fit as run
    from scstore.cells.labels import MISSING_LABELS
    from scstore.report.card import save_model_card

    trained = run(
        store,
        out,
        label=label,
        missing_labels=missing_labels or MISSING_LABELS,
        head=head,  # type: ignore[arg-type]  # checked by the function
        views=view,
        prior_adjustment=prior_adjustment,
        keep=keep,
        seed=seed,
        allow_partial=allow_partial,
        overwrite=overwrite,
        progress=state.output.reporter,
    )
    save_model_card(trained, out / "README.md", name=out.name, overwrite=True)
    held_out = trained.held_out_
    state.output.result(
        {"head": str(out), "classes": [str(name) for name in trained.classes_], "held_out": held_out},
        f"{out}: {head} head for {len(trained.classes_)} labels on {', '.join(trained.views_)}",
        *_level_lines(trained.record_),
        _held_out_line(held_out),
        f"model card: {out / 'README.md'}",
        f"next: scstore predict STORE --head {out} -o annotated.h5ad",
    )


def _level_lines(record: dict[str, Any]) -> list[str]:
    """How well each level of a head of several was told."""
    levels = [
        f"{level['column']} {level['held_out']['accuracy']:.3f} ({len(level['classes'])} labels)"
        for level in record.get("levels", [])
        if level["held_out"]["n"]
    ]
    return [f"accuracy of held-out cells, coarse to fine: {', '.join(levels)}"] if levels else []


def _held_out_line(held_out: dict[str, Any]) -> str:
    if not held_out["n"]:
        return "No label has enough cells to hold any out; no accuracy is reported."
    return (
        f"on {held_out['n']:,} cells held out in turn: accuracy {held_out['accuracy']:.3f}, macro-F1 "
        f"{held_out['macro_f1']:.3f}, calibration error {held_out['ece']:.3f}"
    )


@app.command(rich_help_panel="On a laptop, without the model")
def predict(
    store: StoreArgument,
    head: Annotated[Path, typer.Option(help="Folder that `scstore fit` wrote.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="annotated.h5ad, labels.csv or labels.parquet.", show_default=False),
    ] = None,
    *,
    unassigned: Annotated[
        str | None,
        typer.Option(
            help="What makes a label unassigned: confidence (the default), distance, both or none.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            help="Share of known, rightly labelled cells to leave their label. As the head was fitted by default.",
            show_default=False,
        ),
    ] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Add the probability of every class.")] = False,
    majority: Annotated[
        str | None,
        typer.Option(
            help="Also the label of most cells of a cluster: an obs column of clusters.",
            show_default=False,
        ),
    ] = None,
    min_share: Annotated[
        float, typer.Option(help="With --majority: a cluster in which no label has this share is heterogeneous.")
    ] = 0.0,
    allow_partial: AllowPartial = False,
    overwrite: Overwrite = False,
) -> None:
    """Label cells with a trained head.

    Examples
    --------
        scstore predict stores/new.zarr --head heads/cell_type -o annotated.h5ad

        scstore predict stores/new.zarr --head heads/cell_type -o labels.csv --proba

        scstore predict stores/new.zarr --head heads/cell_type -o annotated.h5ad --majority leiden
    """
    from scstore.annotation.predict import predict_to_file

    counts = predict_to_file(
        store,
        head,
        out,
        unassigned=unassigned,  # type: ignore[arg-type]  # checked by the function
        keep=keep,
        proba=proba,
        majority=majority,
        min_share=min_share,
        allow_partial=allow_partial,
        overwrite=overwrite,
        progress=state.output.reporter,
    )
    labels = dict(sorted(counts.cells.items(), key=lambda item: -item[1]))
    voted = ["by majority"] if counts.majority else []
    rows = []
    for name in [*labels, *(name for name in counts.majority if name not in labels)]:
        n = labels.get(name, 0)
        mean = f"{counts.confidence[name] / n:.3f}" if n else "-"
        rows.append([name, f"{n:,}", mean, *(f"{counts.majority.get(name, 0):,}" for _ in voted)])
    state.output.table(f"{out}: {counts.n_cells:,} cells", ["label", "cells", "mean confidence", *voted], rows)
    reasons = {"unsure": "confidence too low", "far": "too far from the training cells", "empty": "no gene to read"}
    told = [f"{counts.statuses[name]:,} {why}" for name, why in reasons.items() if counts.statuses.get(name)]
    coarse = counts.statuses.get("coarse", 0)
    result = {
        "output": str(out),
        "n_cells": counts.n_cells,
        "labels": labels,
        "statuses": counts.statuses,
    }
    state.output.result(
        result | ({"majority": counts.majority} if counts.majority else {}),
        *([f"{coarse:,} cells have a coarse label: their finest one is unsure"] if coarse else []),
        *([f"unassigned: {', '.join(told)}; what each would have been: best_label"] if told else []),
    )


@app.command(rich_help_panel="On a laptop, without the model")
def info(
    path: Annotated[Path, typer.Argument(help="A store, an AnnData, or a head.", show_default=False)],
    *,
    card: Annotated[
        Path | None, typer.Option(help="Of a head: also write its model card, Markdown, here.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Say what a store, an AnnData or a head holds."""
    if (path / "head.json").exists():
        _info_of_head(path, card=card, overwrite=overwrite)
        return
    if card is not None:
        from scstore.errors import OptionError

        msg = f"--card: {path} is no head. Only heads have a model card."
        raise OptionError(msg)
    from scstore.store.reader import open_store

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
            _model_line(run),
            f"default view: {values['default_view']}",
            f"input: {run['input']['name']}, {run['input']['kind']} from {run['input']['slot']}",
        ]
    state.output.result(values, *lines)


def _model_line(run: dict[str, Any]) -> str:
    """The model that read the cells, and what of the run was made meaningless."""
    model, control = run["model"], run.get("control")
    told = "none read the cells" if model is None else f"{model['name']} ({model['digest'][7:19]})"
    return f"model: {told}" + (f"; control: {control['kind']}" if control else "")


def _info_of_head(path: Path, *, card: Path | None, overwrite: bool) -> None:
    from scstore.heads.artifact import load_head
    from scstore.report.card import save_model_card

    head, record = load_head(path)
    written = None if card is None else save_model_card(head, card, name=path.resolve().name, overwrite=overwrite)
    classes = record["trained_on"]["classes"]
    seen = record.get("held_out_by_class", {})
    rows = [[name, f"{n:,}", f"{seen[name]['f1']:.3f}" if name in seen else "-"] for name, n in classes.items()]
    state.output.table(f"{path}: {head.kind} head", ["label", "training cells", "held-out F1"], rows)
    thresholds: dict[str, float] = {}
    if head.rejection_ is not None:
        thresholds["confidence"] = head.rejection_.thresholds("confidence").confidence
        if isfinite(head.rejection_.thresholds("both").novelty):  # a head may know no distance
            thresholds["distance"] = head.rejection_.thresholds("distance").novelty
    values = {
        "kind": head.kind,
        "views": list(head.views_),
        "held_out": head.held_out_,
        "thresholds": thresholds or None,
        "record": record,
        "card": None if written is None else str(written),
    }
    rejects = "no thresholds: every cell gets a label"
    if head.rejection_ is not None:
        far = f" (by distance: novelty above {thresholds['distance']:.2f})" if "distance" in thresholds else ""
        rejects = (
            f"unassigned where confidence is below {thresholds['confidence']:.3f}{far}: "
            f"{head.rejection_.keep:.0%} of known, rightly labelled cells pass"
        )
    state.output.result(
        values,
        f"label: {record['label']} of {record['trained_on']['name']}",
        *_level_lines(record),
        f"views: {', '.join(head.views_)}",
        _held_out_line(head.held_out_),
        rejects,
        *([] if written is None else [f"model card: {written}"]),
    )
