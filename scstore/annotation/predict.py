"""``scstore predict``: labels for new cells, from their cached features and a saved head."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.annotation.across_genes import judge_across_genes
from scstore.annotation.features import head_features
from scstore.annotation.majority import check_min_share, read_clusters, with_majority
from scstore.annotation.prediction_files import check_format, open_writer
from scstore.annotation.prediction_frames import UNASSIGNED, Judge, prediction_frames
from scstore.errors import OptionError
from scstore.heads.across_genes import AcrossGenesHead
from scstore.heads.artifact import AnyHead, load_head
from scstore.heads.rejection import RULES, Thresholds
from scstore.heads.rows import RowSubset
from scstore.progress import Reporter, Track
from scstore.store.reader import Store, open_store

__all__ = ["PredictOptions", "PredictionCounts", "predict", "predict_to_file", "write_predictions"]

MANY_FAR = 0.5
"""Share of far cells above which it is the data set that is strange."""

IN_MEMORY = "the head"
"""What a head without a folder is called."""


@dataclass(frozen=True)
class PredictOptions:
    """How cells are judged: the options of :func:`predict`, which says what they mean."""

    unassigned: str | None = None
    keep: float | None = None
    proba: bool = False
    majority: str | None = None
    min_share: float = 0.0
    allow_partial: bool = False


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
    majority
        Cells by majority label; empty without a vote.
    """

    n_cells: int = 0
    cells: dict[str, int] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    majority: dict[str, int] = field(default_factory=dict)

    def add(self, frame: pd.DataFrame) -> None:
        """Count the cells of one block."""
        self.n_cells += len(frame)
        for name, part in frame.groupby("label", sort=False)["confidence"]:
            self.cells[name] = self.cells.get(name, 0) + len(part)
            self.confidence[name] = self.confidence.get(name, 0.0) + float(part.sum())
        for column, counts in (("status", self.statuses), ("majority_label", self.majority)):
            if column in frame:
                for name, n in frame[column].value_counts().items():
                    counts[name] = counts.get(name, 0) + int(n)


def predict(
    store: str | os.PathLike[str] | Store,
    head: str | os.PathLike[str] | AnyHead,
    output: str | os.PathLike[str] | None = None,
    *,
    unassigned: str | None = None,
    keep: float | None = None,
    proba: bool = False,
    majority: str | None = None,
    min_share: float = 0.0,
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
    majority
        Also give each cell the label of most cells of its cluster: a column of ``obs`` that names the clusters. A
        cell's own label stays as it is.
    min_share
        Share of a cluster's votes below which its majority label is ``heterogeneous``; by default the largest share
        wins, however small.
    allow_partial
        Label what is extracted so far; the other cells are left out.
    overwrite
        Replace an existing output.
    progress
        Told what happens.

    Returns
    -------
    DataFrame
        Index: cell id. Columns: ``label``; ``confidence`` (calibrated probability of ``best_label``); ``margin`` (to
        the most probable other label); ``status`` (``ok``; or why the label is ``unassigned``: ``unsure``, ``far``, or
        ``empty`` for a cell without any gene to read; or ``coarse`` where it is that of a coarser level, the finest
        being unsure); ``novelty`` (distance to the training cells of ``best_label``, where 1 is the 95 % quantile of
        held-out cells; NaN with a head that has no thresholds); ``best_label`` (the most probable label, whatever the
        status). With a head of several levels ``label:COLUMN`` and ``confidence:COLUMN`` for each. With ``proba`` one
        ``p(CLASS)`` a class. With ``majority`` ``majority_label`` and ``majority_share`` (of the votes of the cell's
        cluster).

    Raises
    ------
    FeatureSpaceError
        If a view is missing or lives in another feature space; the differing fields are listed.
    GenesError
        If the head uses expression and none of its genes is there.
    OptionError
        If thresholds are asked for that the head does not have, or there is no such column of clusters.
    OutputError
        If the output exists and is not to be replaced.
    """
    options = PredictOptions(unassigned, keep, proba, majority, min_share, allow_partial)
    parts: list[pd.DataFrame] = []
    predict_to_file(
        store, head, output, options, take=parts.append, overwrite=overwrite, progress=progress
    )  # fmt: skip
    return pd.concat(parts)


def predict_to_file(
    store: str | os.PathLike[str] | Store,
    head: str | os.PathLike[str] | AnyHead,
    output: str | os.PathLike[str] | None = None,
    options: PredictOptions | None = None,
    *,
    take: Callable[[pd.DataFrame], None] | None = None,
    overwrite: bool = False,
    progress: Reporter | None = None,
) -> PredictionCounts:
    """:func:`predict` for any number of cells: blocks go to the file, and counts come back.

    Besides the cells' metadata, a few numbers a cell are held at most. With a majority vote the predictions wait in a
    temporary file until all cells have voted.

    Parameters
    ----------
    store, head, output, overwrite, progress
        As for :func:`predict`, which says what is raised too.
    options
        How to judge.
    take
        Given each block as well.
    """
    asked = PredictOptions() if options is None else options
    majority = asked.majority
    check_min_share(asked.min_share, majority=majority)
    if output is not None:
        check_format(Path(output))
        fsio.check_output(output, overwrite=overwrite)
    progress = progress or Reporter()
    opened = store if isinstance(store, Store) else open_store(store)
    if isinstance(head, AnyHead):
        trained, record, name = head, head.record_, IN_MEMORY
    else:
        trained, record = load_head(Path(head))
        name = str(head)
    judge = _judge(trained, name, asked, progress)
    usable = opened.usable_rows(allow_partial=asked.allow_partial)
    clusters = None if majority is None else read_clusters(opened, majority)
    judged: Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64] | None]]
    if isinstance(trained, AcrossGenesHead):
        judged = judge_across_genes(opened, trained, record, name, usable, progress)
    else:
        views = head_features(opened, trained, record, name, progress)
        features = {view: RowSubset(rows, usable) for view, rows in views.items()}
        judged = trained.iter_predictions(features)
    far = np.inf if trained.rejection_ is None else trained.rejection_.thresholds("both", asked.keep).novelty
    counts, n_far, target = PredictionCounts(), 0, None if output is None else Path(output)
    with (
        progress.track("predicting", len(usable), "cells") as track,
        nullcontext() if target is None else open_writer(target, opened, labels=judge.labels) as writer,
    ):
        frames = _tracked(prediction_frames(opened, judge, judged, usable), track)
        if clusters is not None:
            folder = None if target is None else target.absolute().parent
            frames = with_majority(frames, clusters, folder=folder, min_share=asked.min_share)
        for frame in frames:
            counts.add(frame)
            if take is not None:
                take(frame)
            if writer is not None:
                writer.write(frame)
            n_far += int((frame["novelty"] > far).sum())
    if n_far > MANY_FAR * len(usable):
        progress.warn(
            f"{n_far:,} of {len(usable):,} cells lie far from their label's training cells (novelty above {far:.2f}): "
            "another technology, tissue or species, or types that were not among them. Confidence says less than it "
            "seems to here."
        )
    return counts


def _tracked(frames: Iterator[tuple[pd.DataFrame, int]], track: Track) -> Iterator[pd.DataFrame]:
    for frame, n_judged in frames:
        yield frame
        track.advance(n_judged)


def _judge(head: AnyHead, name: str, options: PredictOptions, progress: Reporter) -> Judge:
    unassigned, keep, proba = options.unassigned, options.keep, options.proba
    if unassigned is not None and unassigned not in RULES:
        msg = f"--unassigned {unassigned}: must be one of {', '.join(RULES)}."
        raise OptionError(msg)
    hierarchy = None if isinstance(head, AcrossGenesHead) else head.hierarchy_
    levels = () if hierarchy is None else hierarchy.levels
    coarse = (0.0,) * len(levels)
    if head.rejection_ is None:
        if unassigned not in (None, "none") or keep is not None:
            msg = (
                f"{name} has no thresholds for --unassigned and --keep: it was fitted without, or no held-out cell was "
                "labelled rightly. Fit it again, or use --unassigned none."
            )
            raise OptionError(msg)
        if unassigned is None:
            progress.note(f"{name} has no thresholds: every cell but the empty ones gets a label")
        return Judge(head.classes_, Thresholds(0.0, np.inf), hierarchy, coarse, proba)
    thresholds = head.rejection_.thresholds(unassigned or "confidence", keep)
    if thresholds.confidence > 0:
        share = head.rejection_.keep if keep is None else keep
        coarse = tuple(level.threshold(share) for level in levels)
    return Judge(head.classes_, thresholds, hierarchy, coarse, proba)


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
    texts = frame.select_dtypes("object").drop(columns="status")
    labels = sorted({str(name) for column in texts for name in texts[column].unique()} - {UNASSIGNED})
    with open_writer(output, store, labels=labels) as writer:
        writer.write(frame)
