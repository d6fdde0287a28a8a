"""``scstore predict``: labels for new cells, from their cached features and a saved head."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.cells.matching import GeneMatch, match_genes
from scstore.errors import FeatureSpaceError, GenesError, OptionError
from scstore.heads.across_genes import AcrossGenesHead
from scstore.heads.artifact import AnyHead, load_head
from scstore.heads.fusion import FusedHead, summarise
from scstore.heads.rejection import RULES, Thresholds
from scstore.heads.rows import MappedRows, Rows, RowSubset
from scstore.progress import Reporter
from scstore.spec import differences
from scstore.stores.reader import Store, open_store
from scstore.workflows.across_genes import judge_across_genes
from scstore.workflows.prediction_files import UNASSIGNED, check_format, open_writer

__all__ = ["PredictionCounts", "predict", "predict_to_file", "write_predictions"]

MANY_FAR = 0.5
"""Share of far cells above which it is the data set that is strange."""


@dataclass
class PredictionCounts:
    """What came of a prediction, counted block by block.

    Attributes
    ----------
    n_cells
        How many.
    cells, confidence
        By label: cells, and the sum of their confidences.
    statuses
        Cells by status.
    """

    n_cells: int = 0
    cells: dict[str, int] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)

    def add(self, frame: pd.DataFrame) -> None:
        """Count the cells of one block."""
        self.n_cells += len(frame)
        for name, part in frame.groupby("label", sort=False)["confidence"]:
            self.cells[name] = self.cells.get(name, 0) + len(part)
            self.confidence[name] = self.confidence.get(name, 0.0) + float(part.sum())
        for name, n in frame["status"].value_counts().items():
            self.statuses[name] = self.statuses.get(name, 0) + int(n)


def predict(
    store: str | os.PathLike[str] | Store,
    head: str | os.PathLike[str] | AnyHead,
    output: str | os.PathLike[str] | None = None,
    *,
    unassigned: str | None = None,
    keep: float | None = None,
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
    unassigned
        What turns a label into ``unassigned``: ``confidence`` (the calibrated probability is low), ``distance`` (the
        cell lies far from the training cells of that label), ``both`` (either of them), or ``none``. By default
        ``confidence``, and ``none`` with a head that has no thresholds. ``distance`` is for cells of the training
        cells' own kind of data: another technology can put every cell far away.
    keep
        Share of the rightly labelled held-out cells that keep their label; what the head was fitted with by default.
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
        Index: cell id. Columns: ``label``; ``confidence`` (calibrated probability of the most probable label);
        ``margin`` (to the second most probable); ``status`` (``ok``; or why the label is ``unassigned``: ``unsure``,
        ``far``, or ``empty`` for a cell without any gene to read); ``novelty`` (distance to the training cells of the
        most probable label, where 1 is the 95 % quantile of held-out cells; NaN with a head that has no thresholds);
        ``best_label`` (the most probable label, whatever the status), and with ``proba`` one ``p(CLASS)`` a class.

    Raises
    ------
    FeatureSpaceError
        If a view is missing or lives in another feature space; the differing fields are listed.
    GenesError
        If the head uses expression and none of its genes is there.
    OptionError
        If thresholds are asked for that the head does not have.
    """
    parts: list[pd.DataFrame] = []
    _run(
        store,
        head,
        output,
        take=parts.append,
        unassigned=unassigned,
        keep=keep,
        proba=proba,
        allow_partial=allow_partial,
        overwrite=overwrite,
        progress=progress,
    )
    return pd.concat(parts)


def predict_to_file(
    store: str | os.PathLike[str] | Store,
    head: str | os.PathLike[str] | AnyHead,
    output: str | os.PathLike[str],
    *,
    unassigned: str | None = None,
    keep: float | None = None,
    proba: bool = False,
    allow_partial: bool = False,
    overwrite: bool = False,
    progress: Reporter | None = None,
) -> PredictionCounts:
    """:func:`predict` for any number of cells: blocks go to the file, and counts come back.

    Takes and raises what :func:`predict` does. Besides the cells' metadata, a few numbers a cell are held at most.
    """
    counts = PredictionCounts()
    _run(
        store,
        head,
        output,
        take=counts.add,
        unassigned=unassigned,
        keep=keep,
        proba=proba,
        allow_partial=allow_partial,
        overwrite=overwrite,
        progress=progress,
    )
    return counts


def _run(
    store: str | os.PathLike[str] | Store,
    head: str | os.PathLike[str] | AnyHead,
    output: str | os.PathLike[str] | None,
    *,
    take: Callable[[pd.DataFrame], None],
    unassigned: str | None,
    keep: float | None,
    proba: bool,
    allow_partial: bool,
    overwrite: bool,
    progress: Reporter | None,
) -> None:
    if output is not None:
        check_format(Path(output))
        fsio.check_output(output, overwrite=overwrite)
    progress = progress or Reporter()
    opened = store if isinstance(store, Store) else open_store(store)
    if isinstance(head, AnyHead):
        trained, record, name = head, head.record_, "the head"
    else:
        trained, record = load_head(Path(head))
        name = str(head)
    thresholds = _thresholds(trained, name, unassigned, keep, progress)
    usable = opened.usable_rows(allow_partial=allow_partial)
    judged: Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64] | None]]
    if isinstance(trained, AcrossGenesHead):
        judged = judge_across_genes(opened, trained, record, name, usable, progress)
    else:
        features = _features(opened, trained, record, name, progress)
        judged = trained.iter_judged({view: RowSubset(rows, usable) for view, rows in features.items()})
    classes = [str(label) for label in trained.classes_]
    writing = nullcontext() if output is None else open_writer(Path(output), opened, classes=classes)
    far = np.inf if trained.rejection_ is None else trained.rejection_.thresholds("both", keep).novelty
    n_far = 0
    with progress.track("predicting", len(usable), "cells") as track, writing as writer:
        for frame, n_judged in _frames(opened, trained.classes_, judged, usable, thresholds, proba=proba):
            take(frame)
            if writer is not None:
                writer.write(frame)
            n_far += int((frame["novelty"] > far).sum())
            track.advance(n_judged)
    if n_far > MANY_FAR * len(usable):
        progress.warn(
            f"{n_far:,} of {len(usable):,} cells lie far from their label's training cells (novelty above {far:.2f}): "
            "another technology, tissue or species, or types that were not among them. Confidence says less than it "
            "seems to here."
        )


def _thresholds(head: AnyHead, name: str, unassigned: str | None, keep: float | None, progress: Reporter) -> Thresholds:
    if unassigned is not None and unassigned not in RULES:
        msg = f"--unassigned {unassigned}: must be one of {', '.join(RULES)}."
        raise OptionError(msg)
    if head.rejection_ is not None:
        return head.rejection_.thresholds(unassigned or "confidence", keep)
    if unassigned not in (None, "none") or keep is not None:
        msg = (
            f"{name} has no thresholds for --unassigned and --keep: it was fitted without, or no held-out cell was "
            "labelled rightly. Fit it again, or use --unassigned none."
        )
        raise OptionError(msg)
    if unassigned is None:
        progress.note(f"{name} has no thresholds: every cell but the empty ones gets a label")
    return Thresholds(0.0, np.inf)


def _frames(
    store: Store,
    classes: NDArray[Any],
    judged: Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64] | None]],
    usable: NDArray[np.int64],
    thresholds: Thresholds,
    *,
    proba: bool,
) -> Iterator[tuple[pd.DataFrame, int]]:
    """Predictions block by block in the order of the cells, and how many of each block are not empty."""
    ids, committed, begin = store.obs.index.astype(str), store.committed, 0
    for start, chances, novelty in judged:
        rows = usable[start : start + len(chances)]
        end = int(rows[-1]) + 1
        span = begin + np.flatnonzero(committed[begin:end])
        places = np.searchsorted(span, rows)
        yield _frame(classes, ids[span], places, chances, novelty, thresholds, proba=proba), len(rows)
        begin = end
    span = begin + np.flatnonzero(committed[begin:])
    if len(span) or not begin:
        none = np.empty((0, len(classes)))
        yield _frame(classes, ids[span], np.empty(0, dtype=np.int64), none, None, thresholds, proba=proba), 0


def _frame(
    classes: NDArray[Any],
    ids: pd.Index,
    places: NDArray[np.int64],
    chances: NDArray[np.float64],
    novelty: NDArray[np.float64] | None,
    thresholds: Thresholds,
    *,
    proba: bool,
) -> pd.DataFrame:
    """One block: the cells at ``places`` were judged, the others are empty."""
    summary = summarise(chances, classes)
    status = np.full(len(places), "ok", dtype=object)
    status[summary.confidence < thresholds.confidence] = "unsure"
    if novelty is not None:
        status[novelty > thresholds.novelty] = "far"  # the stronger reason of the two
    judged = {
        "label": (UNASSIGNED, np.where(status == "ok", summary.label.astype(object), UNASSIGNED)),
        "confidence": (0.0, summary.confidence),
        "margin": (0.0, summary.margin),
        "status": ("empty", status),
        "novelty": (np.nan, np.nan if novelty is None else novelty),
        "best_label": (UNASSIGNED, summary.label.astype(object)),
    }
    if proba:
        judged |= {f"p({name})": (0.0, chances[:, code]) for code, name in enumerate(classes)}
    columns = {}
    for name, (without, values) in judged.items():
        columns[name] = np.full(len(ids), without, dtype=object if isinstance(without, str) else np.float64)
        columns[name][places] = values
    return pd.DataFrame(columns, index=pd.Index(ids, name="cell_id"))


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


def write_predictions(frame: pd.DataFrame, store: Store, output: Path) -> None:
    """Write predictions that are in memory in the format that the name asks for, atomically.

    Parameters
    ----------
    frame
        From :func:`predict`.
    store
        The cells they are of; an ``.h5ad`` holds all of it.
    output
        ``.h5ad``, ``.csv`` or ``.parquet``.
    """
    check_format(output)
    classes = sorted({str(name) for name in frame["best_label"]} - {UNASSIGNED})
    chances = [name[2:-1] for name in frame.columns if name.startswith("p(")]
    with open_writer(output, store, classes=chances or classes) as writer:
        writer.write(frame)
