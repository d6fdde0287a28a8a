"""``scstore fit``: a head on cached features."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore import fsio
from scstore.annotation.across_genes import fit_across_genes, refuse_other_options
from scstore.annotation.label_columns import LabelColumns, read_label_columns
from scstore.cells.labels import MISSING_LABELS, MissingLabels
from scstore.errors import OptionError
from scstore.heads import PRIOR_ADJUSTMENT
from scstore.heads.across_genes import KIND
from scstore.heads.artifact import AnyHead, save_head
from scstore.heads.fusion import FusedHead
from scstore.heads.hierarchy import Hierarchy
from scstore.heads.rejection import KEEP, check_keep
from scstore.heads.rows import Rows, RowSubset
from scstore.heads.scores import held_out_scores, reliability, scores_by_class
from scstore.progress import Reporter
from scstore.store.ledger import ids_digest
from scstore.store.reader import Store, open_store

__all__ = ["fit"]


def fit(
    store: str | os.PathLike[str] | Store,
    output: str | os.PathLike[str] | None = None,
    *,
    label: str | Sequence[str],
    missing_labels: MissingLabels = MISSING_LABELS,
    head: str = "linear",
    views: Sequence[str] | None = None,
    params: Mapping[str, Any] | None = None,
    prior_adjustment: float = PRIOR_ADJUSTMENT,
    keep: float = KEEP,
    seed: int = 0,
    allow_partial: bool = False,
    overwrite: bool = False,
    progress: Reporter | None = None,
) -> AnyHead:
    """Train a head to tell labels from features that are already on disk. No model, no torch, no GPU.

    Parameters
    ----------
    store
        A store, or any ``.h5ad`` or AnnData Zarr with ``obsm`` matrices.
    output
        Folder to save the head in; not saved when ``None``.
    label
        Column of ``obs``; cells without a label, and empty cells, are left out. Several columns, of which each divides
        the labels of a coarser one, make one head of several levels: it learns the finest, a coarse label is as
        probable as the fine ones in it together, and ``predict`` backs off to it where the fine one is unsure.
    missing_labels
        Words that count as a missing label, whatever their case and outer blanks.
    head
        ``linear``, ``mlp`` or ``knn``; or ``across-genes``, for new cells that were measured on other genes
        (:class:`scstore.AcrossGenesHead`).
    views
        Feature matrices; the store's readout, ``genept`` and ``X`` by default.
    params
        Parameters of the head's estimator, such as ``{"C": 0.1}``.
    prior_adjustment
        How much of the labels' shares among the training cells is taken back, 0 to 1: at 0 a rare label is assumed to
        be as rare among new cells.
    keep
        Share of the rightly labelled held-out cells that keep their label: the thresholds below which ``predict``
        says ``unassigned`` are set by it. Another share can be asked for there.
    seed
        The same seed gives the same head, byte for byte.
    allow_partial
        Train on what is extracted so far; recorded in the head.
    overwrite
        Replace an existing head.
    progress
        Told what happens.

    Returns
    -------
    FusedHead or AcrossGenesHead
        Trained; its ``held_out_`` says how well it did on cells it had not seen.

    Raises
    ------
    LabelsError
        If there is no such column, or fewer than two labels; or if a label lies in two labels of a coarser column.
    IncompleteStoreError
        If the store is not finished and ``allow_partial`` is not set.
    OutputError
        If the head exists.
    """
    check_keep(keep)
    if output is not None:
        fsio.check_output(output, overwrite=overwrite)
    progress = progress or Reporter()
    if head == KIND and not isinstance(label, str) and len(label) > 1:
        msg = f"--label: {len(label)} columns. A head of --head {KIND} learns one; fit one for each column."
        raise OptionError(msg)
    opened = store if isinstance(store, Store) else open_store(store)
    told = read_label_columns(opened, label, missing=missing_labels, progress=progress)
    labels, finest = told.labels, told.columns[-1]
    usable = opened.usable_rows(allow_partial=allow_partial)
    rows = usable[[labels[row] is not None for row in usable]]
    y = np.array([labels[row] for row in rows], dtype=object)
    trained: AnyHead
    if head == KIND:
        nothing = {"--view": (views, None), "params": (params, None)}
        refuse_other_options(nothing | {"--prior-adjustment": (prior_adjustment, PRIOR_ADJUSTMENT)})
        progress.note(f"fitting {head} on X: {len(rows):,} cells, {len(set(y)):,} labels of {finest!r}")
        trained, record = fit_across_genes(opened, rows, y, keep=keep, seed=seed)
    else:
        chosen = [opened.view(name).name for name in (views or opened.default_views)]
        unfitted = FusedHead(head, params=params, prior_adjustment=prior_adjustment, random_state=seed)
        progress.note(
            f"fitting {head} on {', '.join(chosen)}: {len(rows):,} cells, {len(set(y)):,} labels of {finest!r}"
        )
        trained, record = _fit_views(unfitted, opened, chosen, rows, y, keep=keep, progress=progress)
        if told.parents:
            record["levels"] = _add_levels(trained, told)
    if trained.rejection_ is None:
        progress.warn(
            "No held-out cell was labelled rightly: there are no thresholds, and every cell will get a label however "
            "unlike the training cells it is."
        )
    record |= {
        "label": finest,
        "missing_labels": list(missing_labels),
        "trained_on": {
            "name": opened.path.name,
            "n_cells": len(rows),
            "classes": dict(sorted(Counter(map(str, y)).items())),
            "ids": ids_digest([str(name) for name in opened.obs.index[rows]]),
            "partial": not opened.is_complete,
        },
        "seed": seed,
        "held_out_by_class": _by_class(trained),
        "reliability": reliability(trained.held_out_codes_, trained.held_out_proba_),
        "versions": {name: version(name) for name in ("scstore", "numpy", "scipy", "scikit-learn", "faiss-cpu")},
    }
    trained.record_ = record
    if output is not None:
        save_head(trained, Path(output), record=record, overwrite=overwrite)
    return trained


def _fit_views(
    head: FusedHead,
    store: Store,
    names: Sequence[str],
    rows: NDArray[np.int64],
    y: NDArray[Any],
    *,
    keep: float,
    progress: Reporter,
) -> tuple[FusedHead, dict[str, Any]]:
    """Fit a head on views of a store; and what has to be known of the views."""
    if len(set(names)) < len(names):
        msg = f"--view: {', '.join(names)}: name each view once."
        raise OptionError(msg)
    matrices = {name: store.view(name) for name in names}
    for view in matrices.values():
        if "source" in view.space:
            progress.note(
                f"{view.name} was not extracted by scstore: whether other cells' {view.name} is in the same space "
                "cannot be checked."
            )
    features: dict[str, Rows] = {name: RowSubset(view, rows) for name, view in matrices.items()}
    genes = store.expression_genes if "X" in names else None
    head.fit(features, y, gene_names=None if genes is None else list(genes.index), keep=keep)
    record: dict[str, Any] = {
        "views": {name: {"space": dict(v.space), "fingerprint": v.fingerprint} for name, v in matrices.items()},
        "genes": None,
        "training": {name: member.training_note() for name, member in head.members_.items()},
    }
    for name, note in record["training"].items():
        progress.note(f"{name}: {note}")
    if genes is not None and head.genes_ is not None:
        chosen = genes.loc[list(head.genes_), ["symbol", "ensembl_id"]].astype(str)
        record["genes"] = chosen.to_dict("list")
    return head, record


def _add_levels(head: FusedHead, told: LabelColumns) -> list[dict[str, Any]]:
    """Give a trained head its coarser levels; how well each was told on held-out cells, coarse to fine."""
    proba, truth = head.held_out_proba_, head.held_out_codes_
    head.hierarchy_ = Hierarchy.fit(told.columns[-1], told.parents, classes=head.classes_, proba=proba, truth=truth)
    found = [
        (level.column, level.labels, held_out_scores(level.parents[truth], level.sums(proba)))
        for level in head.hierarchy_.levels
    ]
    return [
        {"column": column, "classes": [str(name) for name in names], "held_out": held_out}
        for column, names, held_out in (*found, (told.columns[-1], head.classes_, head.held_out_))
    ]


def _by_class(head: AnyHead) -> dict[str, dict[str, float | int]]:
    """Precision, recall, F1 and support of each class among the held-out cells."""
    if not len(head.held_out_codes_):
        return {}
    names = [str(name) for name in head.classes_]
    return scores_by_class(head.held_out_codes_, head.held_out_proba_.argmax(axis=1), names)
