"""Train a head on cached features."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from scstore.annotation.head_inputs import fit_across_genes
from scstore.annotation.label_columns import LabelColumns, read_label_columns
from scstore.cells.labels import MISSING_LABELS, MissingLabels, read_labels
from scstore.cluster import on_cluster
from scstore.errors import LabelsError, OptionError
from scstore.heads import PRIOR_ADJUSTMENT
from scstore.heads.across_genes import KIND
from scstore.heads.artifact import COPIES, HEAD, AnyHead, save_head
from scstore.heads.fusion import FusedHead
from scstore.heads.hierarchy import Hierarchy
from scstore.heads.rejection import KEEP, check_keep
from scstore.heads.rows import Rows, RowSubset
from scstore.heads.scores import held_out_scores, reliability, scores_by_class
from scstore.options import AllowPartial, Dask, Option, Overwrite, Progress, Seed, fraction, public
from scstore.progress import Reporter
from scstore.remote import there
from scstore.sealed import check_sealed_output
from scstore.store.ledger import ids_digest
from scstore.store.reader import Cells, Store, open_store

# Packages whose versions a head records.
PACKAGES = ("scstore", "numpy", "scipy", "scikit-learn", "faiss-cpu")

# What a head keeps of the record of the run that extracted its cells: others are extracted like them.
EXTRACTION = ("options", "model", "genes", "panel", "projector")

# What a trained projector's folder has in it.
PROJECTOR = "projector.json"

# Share of labelled cells below which genes and their covariance are learned from the others too.
FEW_LABELLED = 0.5

PriorAdjustment = Annotated[float, fraction("0 keeps the label frequencies of training, 1 assumes equal ones.")]


@dataclass(frozen=True, eq=False)
class TrainingCells:
    """Labelled cells of a store: rows ``(n,)`` and labels ``(n,)``; ``usable`` rows ``(m,)`` have features."""

    store: Store
    columns: LabelColumns
    usable: NDArray[np.int64]
    rows: NDArray[np.int64]
    labels: NDArray[np.object_]


@public
def fit(
    store: Annotated[Cells, Option("A store, an AnnData on disk or in memory, or a 10x file.", argument=True)],
    output: Annotated[str | os.PathLike[str] | None, Option("Folder of the head.", flags=("--output", "-o"))] = None,
    *,
    label: Annotated[str | Sequence[str], Option("Column of obs, or nested ones for a head of several levels.")],
    missing_labels: MissingLabels = MISSING_LABELS,
    head: Annotated[Literal["linear", "mlp", "knn", "across-genes"], Option("Kind of classifier.")] = "linear",
    views: Annotated[Sequence[str] | None, Option("Views, the default ones by default.", flags=("--view",))] = None,
    params: Annotated[Mapping[str, Any] | None, Option("Of the classifier: {'C': 0.1}.", in_python_only=True)] = None,
    group: Annotated[
        str | None,
        Option("Column of obs, such as donor: whole groups are held out to calibrate and to set thresholds."),
    ] = None,
    prior_adjustment: PriorAdjustment = PRIOR_ADJUSTMENT,
    keep: Annotated[float, fraction("Fraction of correct held-out cells that keep their label.")] = KEEP,
    seed: Seed = 0,
    allow_partial: AllowPartial = False,
    overwrite: Overwrite = False,
    dask: Dask = None,
    progress: Progress = None,
) -> AnyHead:
    """Train a head on features that are already on disk. No model, no torch, no GPU.

    Cells without a label, and empty cells, are left out. The calibrated log-probabilities of the views' classifiers are
    averaged. By default the views are X (expression), and of the store's readout and genept those that make held-out
    cells more likely beside it. Name a ``group`` column where there is one: cells of another donor or laboratory are
    what a head is used on.

    ``head="across-genes"`` is for new cells that were measured on other genes.

    A head of several label columns learns the finest; a coarse label is as probable as its fine labels together, and
    ``predict`` falls back to it where the fine label is unsure. The same seed gives the same head, byte for byte.

    Returns
    -------
    FusedHead or AcrossGenesHead
        The trained head. ``held_out_`` holds its scores on cells it had not seen, ``record_`` what it was trained on.

    Raises
    ------
    LabelsError
        If there is no such column, fewer than two labels, or a label that lies in two labels of a coarser column.
    IncompleteStoreError
        If the store is not finished and ``allow_partial`` is not set.
    OutputError
        If the head exists.
    """
    check_keep(keep)
    if output is not None:
        check_sealed_output(output, HEAD, overwrite=overwrite)
    progress = progress or Reporter()
    if head == KIND:
        adjusted = None if prior_adjustment == PRIOR_ADJUSTMENT else prior_adjustment
        unused = {"views": views, "params": params, "prior_adjustment": adjusted}
        _check_across_genes(label, unused)
    opened = open_store(store)
    for line in opened.notes:
        progress.note(line)
    cells = _training_cells(opened, label, missing_labels, allow_partial=allow_partial, progress=progress)
    names = ["X"] if head == KIND else [opened.view(name).name for name in (views or opened.default_views)]
    optional = [] if views or "X" not in names else [name for name in names if name != "X"]
    what = f"{len(cells.rows):,} cells, {len(set(cells.labels)):,} labels of {cells.columns.finest!r}"
    progress.note(f"fitting {head} on {', '.join(names)}: {what}")
    groups = None if group is None else _groups(cells, group)
    trained: AnyHead
    if head == KIND:
        trained, record = fit_across_genes(opened, cells.rows, cells.labels, groups=groups, keep=keep, seed=seed)
    else:
        unfitted = FusedHead(head, params=params or {}, prior_adjustment=prior_adjustment, random_state=seed)
        with on_cluster(dask, opened):
            trained, record = _fit_views(
                unfitted, cells, names, optional=optional, groups=groups, keep=keep, progress=progress
            )
    if trained.rejection_ is None:
        progress.warn("No held-out cell was labelled correctly: without thresholds predict labels every cell.")
    n_groups = 0 if groups is None else len(set(groups))
    record |= _training_record(trained, cells)
    record |= {"group": group, "n_groups": n_groups, "missing_labels": list(missing_labels), "seed": seed}
    if opened.record is not None and any(name in opened.record["views"] for name in trained.views_):
        record["extraction"] = {name: opened.record[name] for name in EXTRACTION}
        trained.files_ = _files_of_run(opened)
    trained.record_ = record
    if output is not None:
        save_head(trained, Path(output), record=record, overwrite=overwrite)
    return trained


def _check_across_genes(label: str | Sequence[str], unused: Mapping[str, Any]) -> None:
    """Refuse options that the head across genes does not have."""
    if not isinstance(label, str) and len(label) > 1:
        raise OptionError(f"label={list(label)}: head={KIND!r} learns one column. Fit one head for each column.")
    for name, value in unused.items():
        if value is not None:
            raise OptionError(f"{name}={value!r}: head={KIND!r} reads expression and gene texts: no such option.")


def _files_of_run(store: Store) -> dict[str, Path]:
    """Return the files that a store's run read and that a head copies, by option, as far as they are there."""
    given = {} if store.record is None else store.record["options"]
    found = {name: there(store.path.parent / str(given[name])) for name in COPIES if given.get(name)}
    if "projector" in found and not (found["projector"] / PROJECTOR).is_file():
        del found["projector"]  # one of scstore's own, by its name
    return {name: path for name, path in found.items() if path.exists()}


def _training_cells(
    store: Store, label: str | Sequence[str], missing: Sequence[str], *, allow_partial: bool, progress: Reporter
) -> TrainingCells:
    columns = read_label_columns(store, label, missing=missing, progress=progress)
    usable = store.usable_rows(allow_partial=allow_partial)
    rows = usable[[columns.labels[row] is not None for row in usable]]
    labels = np.array([columns.labels[row] for row in rows], dtype=object)
    return TrainingCells(store, columns, usable, rows, labels)


def _groups(cells: TrainingCells, group: str) -> NDArray[np.object_]:
    """Return the group of each training cell; refuse a column that does not name at least two, or not for each cell."""
    found = read_labels(cells.store.obs, group, source=str(cells.store.path), missing=("",))
    groups = [found[row] for row in cells.rows]
    if absent := groups.count(None):
        raise LabelsError(
            f"{cells.store.path}: {absent:,} labelled cells have no {group!r}. Fill it, or leave out group=."
        )
    if len(set(groups)) < 2:
        raise LabelsError(
            f"{cells.store.path}: {group!r} has one value, {groups[0]!r}: nothing to hold out. Leave out group=."
        )
    return np.array(groups, dtype=object)


def _fit_views(
    head: FusedHead,
    cells: TrainingCells,
    names: Sequence[str],
    *,
    optional: Sequence[str],
    groups: NDArray[np.object_] | None,
    keep: float,
    progress: Reporter,
) -> tuple[FusedHead, dict[str, Any]]:
    """Fit a head on views, of which the optional ones must earn their place; return it with the record of the views."""
    if len(set(names)) < len(names):
        raise OptionError(f"views={list(names)}: name each view once.")
    matrices = {name: cells.store.view(name) for name in names}
    for view in matrices.values():
        if "source" in view.space:
            progress.note(f"{view.name} is not scstore's own: predict cannot check that other cells are in its space")
    features: dict[str, Rows] = {name: RowSubset(view, cells.rows) for name, view in matrices.items()}
    genes = cells.store.expression_genes if "X" in names else None
    unlabelled = "X" in names and len(cells.rows) < FEW_LABELLED * len(cells.usable)
    head.fit(
        features,
        cells.labels,
        gene_names=None if genes is None else list(genes.index),
        keep=keep,
        groups=groups,
        optional=optional,
        background=RowSubset(matrices["X"], cells.usable) if unlabelled else None,
    )
    if dropped := [name for name in names if name not in head.members_]:
        progress.note(f"{', '.join(dropped)}: left out, adds nothing to {', '.join(head.views_)} on held-out cells")
    matrices = {name: matrices[name] for name in head.views_}
    notes = {name: member.head.training_note() for name, member in head.members_.items()}
    for name, note in notes.items():
        progress.note(f"{name}: {note}")
    record: dict[str, Any] = {
        "views": {name: {"space": dict(v.space), "fingerprint": v.fingerprint} for name, v in matrices.items()},
        "genes": None,
        "training": notes,
        "left_out_views": dropped,
    }
    if genes is not None and head.genes_ is not None:
        record["genes"] = genes.loc[list(head.genes_), ["symbol", "ensembl_id"]].astype(str).to_dict("list")
    if cells.columns.parents:
        record["levels"] = _add_levels(head, cells.columns)
    return head, record


def _add_levels(head: FusedHead, columns: LabelColumns) -> list[dict[str, Any]]:
    """Give a trained head its coarser levels, and return the held-out scores of each level, coarse to fine."""
    proba, truth = head.held_out_proba_, head.held_out_codes_
    head.hierarchy_ = Hierarchy.fit(columns.finest, columns.parents, classes=head.classes_, proba=proba, truth=truth)
    coarse = [
        {
            "column": level.column,
            "classes": level.labels.tolist(),
            "held_out": held_out_scores(level.parents[truth], level.sums(proba)),
        }
        for level in head.hierarchy_.levels
    ]
    return [*coarse, {"column": columns.finest, "classes": head.classes_.tolist(), "held_out": head.held_out_}]


def _training_record(head: AnyHead, cells: TrainingCells) -> dict[str, Any]:
    """Return what a head keeps of its training cells and of its scores by class."""
    truth, proba = head.held_out_codes_, head.held_out_proba_
    names = [str(name) for name in head.classes_]
    return {
        "label": cells.columns.finest,
        "trained_on": {
            "name": cells.store.path.name,
            "n_cells": len(cells.rows),
            "classes": dict(sorted(Counter(map(str, cells.labels)).items())),
            "ids": ids_digest([str(name) for name in cells.store.obs.index[cells.rows]]),
            "partial": not cells.store.is_complete,
        },
        "held_out_by_class": scores_by_class(truth, proba.argmax(axis=1), names) if len(truth) else {},
        "reliability": reliability(truth, proba),
        "versions": {name: version(name) for name in PACKAGES},
    }
