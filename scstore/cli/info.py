"""The command ``info``."""

import os
from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any

from scstore.cli.builder import state
from scstore.cli.results import held_out_line, level_lines, show_build_genes, show_panel
from scstore.fsio import mend
from scstore.genes.table import GeneTable, load_gene_table
from scstore.heads.artifact import AnyHead, load_head
from scstore.options import Option, public
from scstore.panels.panel import Panel, load_panel
from scstore.store.mirror import local
from scstore.store.reader import Store, open_store
from scstore.untrusted.guards import FILES, FOLDERS, what_is


@public
def info(
    path: Annotated[
        str | os.PathLike[str], Option("A store, an AnnData, a head, a gene table or a panel.", argument=True)
    ],
) -> Store | AnyHead | GeneTable | Panel:
    """Open a store, an AnnData, a head, a gene table or a panel."""
    mend(path := local(path))
    what = what_is(path)
    if what == FOLDERS["head.json"]:
        return load_head(path)
    if what == FILES["genes"]:
        return load_gene_table(path)
    return load_panel(path) if what == FILES["panel"] else open_store(path)


def show(found: Store | AnyHead | GeneTable | Panel, given: Mapping[str, Any]) -> None:
    if isinstance(found, GeneTable):
        show_build_genes(found, {"output": given["path"]})
    elif isinstance(found, Panel):
        show_panel(found, {"output": given["path"], "label_free": not found.label, "cells": "CELLS"})
    elif isinstance(found, Store):
        _show_store(found, given["path"])
    else:
        _show_head(found, given["path"])


def _show_store(store: Store, path: Any) -> None:
    values = store.info
    progress = "complete" if values["complete"] else f"{values['n_committed']:,} extracted"
    title = f"{path}: {values['n_obs']:,} cells ({progress}, {values['n_empty']:,} empty)"
    rows = [[name, str(v["width"]), v["dtype"], v["fingerprint"][7:19]] for name, v in values["views"].items()]
    state.output.table(title, ["view", "width", "dtype", "feature space"], rows)
    lines = [f"obs: {', '.join(values['obs_columns'])}"]
    if run := values["run"]:
        model = "none" if run["model"] is None else f"{run['model']['name']} ({run['model']['digest'][7:19]})"
        control = f"; control: {run['control']['kind']}" if run.get("control") else ""
        lines += [
            f"model: {model}{control}",
            f"default view: {values['default_view']}",
            f"input: {run['input']['name']}, {run['input']['kind']} from {run['input']['slot']}",
        ]
    state.output.result(values, *lines, *store.notes)


def _show_head(head: AnyHead, path: Any) -> None:
    record: dict[str, Any] = head.record_
    scores = record.get("held_out_by_class", {})
    classes = record["trained_on"]["classes"]
    rows = [[name, f"{n:,}", f"{scores[name]['f1']:.3f}" if name in scores else "-"] for name, n in classes.items()]
    state.output.table(f"{path}: {head.kind} head", ["label", "training cells", "held-out F1"], rows)
    thresholds: dict[str, float] = {}
    line = "no thresholds: every cell gets a label"
    if (limits := head.rejection_) is not None:
        thresholds["confidence"], far = limits.thresholds("confidence").confidence, ""
        if isfinite(limits.thresholds("both").novelty):  # a head may know no distance
            thresholds["distance"] = limits.thresholds("distance").novelty
            far = f" (by distance: novelty above {thresholds['distance']:.2f})"
        kept = f"{limits.keep:.0%} of correctly labelled held-out cells keep their label"
        line = f"unassigned where confidence is below {thresholds['confidence']:.3f}{far}; {kept}"
    values = {"kind": head.kind, "views": list(head.views_), "held_out": head.held_out_, "record": record}
    state.output.result(
        values | {"thresholds": thresholds or None},
        f"label: {record['label']} of {record['trained_on']['name']}",
        *level_lines(record),
        f"views: {', '.join(head.views_)}",
        held_out_line(head.held_out_),
        line,
    )
