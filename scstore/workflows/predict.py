"""``scstore predict``: labels for new cells, from their cached features and a saved head."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.cells.matching import GeneMatch, match_genes
from scstore.errors import FeatureSpaceError, GenesError, OutputError
from scstore.heads.artifact import load_head
from scstore.heads.fusion import FusedHead, summarise
from scstore.heads.rows import MappedRows, Rows, RowSubset
from scstore.progress import Reporter
from scstore.spec import differences
from scstore.stores.reader import Store, open_store

__all__ = ["FORMATS", "UNASSIGNED", "predict", "write_predictions"]

UNASSIGNED = "unassigned"
FORMATS = (".h5ad", ".csv", ".parquet")


def predict(
    store: str | os.PathLike[str] | Store,
    head: str | os.PathLike[str] | FusedHead,
    output: str | os.PathLike[str] | None = None,
    *,
    proba: bool = False,
    allow_partial: bool = False,
    overwrite: bool = False,
    progress: Reporter | None = None,
) -> pd.DataFrame:
    """Label cells with a trained head.

    Parameters
    ----------
    store
        A store, or any AnnData on disk with the views that the head was trained on.
    head
        A folder that :func:`scstore.fit` wrote, or what it returned.
    output
        ``.h5ad`` (the cells with ``obs["scstore_label"]`` and so on), ``.csv`` or ``.parquet`` (a table). Not written
        when ``None``.
    proba
        Add the probability of every class.
    allow_partial
        Label what is extracted so far; the other cells are left out.
    overwrite
        Replace an existing output.
    progress
        Told what happens.

    Returns
    -------
    DataFrame
        Index: cell id. Columns: ``label``, ``confidence`` (calibrated probability of the label), ``margin`` (to the
        second most probable), ``status`` (``ok``, or ``empty`` for a cell without any gene to read, labelled
        ``unassigned``), and with ``proba`` one ``p(CLASS)`` a class.

    Raises
    ------
    FeatureSpaceError
        If a view is missing or lives in another feature space; the differing fields are listed.
    GenesError
        If the head uses expression and none of its genes is there.
    """
    if output is not None:
        _check_format(Path(output))
        fsio.check_output(output, overwrite=overwrite)
    progress = progress or Reporter()
    opened = store if isinstance(store, Store) else open_store(store)
    if isinstance(head, FusedHead):
        trained, record, name = head, head.record_, "the head"
    else:
        trained, record = load_head(Path(head))
        name = str(head)
    features = _features(opened, trained, record, name, progress)
    usable = opened.usable_rows(allow_partial=allow_partial)
    frame = pd.DataFrame(
        {"label": UNASSIGNED, "confidence": 0.0, "margin": 0.0, "status": "empty"},
        index=pd.Index(opened.obs.index.astype(str), name="cell_id"),
    ).astype({"label": object, "status": object})
    columns = {name: frame[name].to_numpy(copy=True) for name in frame}
    chances = np.zeros((opened.n_obs, len(trained.classes_) if proba else 0))
    columns["status"][usable] = "ok"
    with progress.track("predicting", len(usable), "cells") as track:
        for rows, probabilities in _probabilities(trained, features, usable):
            summary = summarise(probabilities, trained.classes_)
            columns["label"][rows] = summary.label
            columns["confidence"][rows] = summary.confidence
            columns["margin"][rows] = summary.margin
            if proba:
                chances[rows] = probabilities
            track.advance(len(rows))
    frame = frame.assign(**columns)
    if proba:
        names = [f"p({name})" for name in trained.classes_]
        frame = pd.concat([frame, pd.DataFrame(chances, index=frame.index, columns=names)], axis=1)
    if not opened.is_complete:
        frame = frame[opened.committed]
    if output is not None:
        write_predictions(frame, opened, Path(output))
    return frame


def _probabilities(
    head: FusedHead, features: Mapping[str, Rows], rows: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    chosen = {name: RowSubset(view, rows) for name, view in features.items()}
    for start, probabilities in head.iter_proba(chosen):
        yield rows[start : start + len(probabilities)], probabilities


def _features(
    store: Store, head: FusedHead, record: Mapping[str, Any], name: str, progress: Reporter
) -> dict[str, Rows]:
    """The views the head needs, each in the feature space it was trained in."""
    origin = record["trained_on"]["name"]
    cure = f"Extract these cells with --like the store the head was trained on ({origin})."
    if missing := [view for view in head.views_ if view not in store.views]:
        msg = (
            f"{name} was trained on the view {missing[0]}, which {store.path} does not have. It has: "
            f"{', '.join(store.views)}. {cure}"
        )
        raise FeatureSpaceError(msg)
    features: dict[str, Rows] = {}
    fields: dict[str, None] = {}
    for view_name in head.views_:
        view = store.view(view_name)
        fields |= dict.fromkeys(differences(record["views"][view_name]["space"], view.space))
        features[view_name] = view
    if fields:
        listed = "\n  ".join(fields)
        msg = (
            f"{store.path} lives in another feature space than {name} was trained in. What differs (head → store):\n"
            f"  {listed}\n{cure}"
        )
        raise FeatureSpaceError(msg)
    if "X" in features:
        features["X"] = _aligned(store, features["X"], record["genes"], name, progress)
    return features


def _aligned(store: Store, view: Rows, genes: Mapping[str, list[str]], name: str, progress: Reporter) -> Rows:
    """The head's genes, in its order, by name; a gene that was not measured is zero."""
    table = pd.DataFrame(genes)
    table.index = pd.Index([str(i) for i in range(len(table))])
    try:
        match: GeneMatch = match_genes(store.expression_genes, table, min_fraction=0.0, source=str(store.path))
    except GenesError as error:
        msg = f"{name} reads the expression of {len(table)} genes, and {store.path} has none of them."
        raise GenesError(msg) from error
    present = match.genes
    if (missing := len(table) - len(present)) > 0:
        examples = ", ".join(table["symbol"].drop(table.index[present]).head(5))
        progress.warn(
            f"{missing} of the {len(table)} genes whose expression the head reads are not in {store.path} "
            f"({examples}): "
            "taken as not expressed, which makes labels less sure."
        )

    def align(block: Any) -> NDArray[np.float32]:
        aligned = np.zeros((block.shape[0], len(table)), dtype=np.float32)
        aligned[:, present] = match.apply(block).toarray()
        return aligned

    return MappedRows(view, align, width=len(table))


def _check_format(output: Path) -> None:
    if output.suffix not in FORMATS:
        msg = f"{output}: the name must end in one of {', '.join(FORMATS)}."
        raise OutputError(msg)


def write_predictions(frame: pd.DataFrame, store: Store, output: Path) -> None:
    """Write predictions in the format that the name asks for, atomically.

    Parameters
    ----------
    frame
        From :func:`predict`.
    store
        The cells they are of; an ``.h5ad`` holds all of it.
    output
        ``.h5ad``, ``.csv`` or ``.parquet``.
    """
    with fsio.atomic_path(output) as partial:
        if output.suffix == ".csv":
            frame.to_csv(partial)
        elif output.suffix == ".parquet":
            frame.to_parquet(partial)
        else:
            adata = store.to_anndata(rows=np.flatnonzero(store.committed))
            for column in ("label", "status"):
                adata.obs[f"scstore_{column}"] = pd.Categorical(frame[column].astype(str))
            for column in ("confidence", "margin"):
                adata.obs[f"scstore_{column}"] = frame[column].to_numpy()
            if chances := [column for column in frame.columns if column.startswith("p(")]:
                adata.obsm["scstore_probability"] = frame[chances].set_axis(adata.obs_names)
            adata.write_h5ad(partial)
