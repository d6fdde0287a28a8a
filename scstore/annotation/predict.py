"""Labels for new cells, from their cached features and a trained head."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.annotation.head_inputs import head_features, predict_across_genes
from scstore.annotation.majority import read_clusters, with_majority
from scstore.annotation.prediction_files import check_predictions_file, open_predictions_file
from scstore.annotation.prediction_frames import LabelRule, prediction_frames
from scstore.errors import FarFromReferenceWarning, OptionError
from scstore.heads.across_genes import AcrossGenesHead
from scstore.heads.artifact import AnyHead, load_head
from scstore.heads.fusion import FusedHead
from scstore.heads.missing_genes import MIN_ACCURACY
from scstore.heads.rejection import Thresholds
from scstore.heads.rows import Rows, RowSubset
from scstore.options import AllowPartial, Option, Overwrite, Progress, fraction, with_options
from scstore.progress import Reporter
from scstore.store.reader import Store, open_store

# Share of far cells above which the whole data set is unlike the training cells.
MANY_FAR = 0.5
# Cells looked at to see that, at most.
SAMPLE = 2048

Cells = Annotated[
    str | os.PathLike[str] | Store,
    Option("A store, or any AnnData on disk with the views that the head was trained on.", argument=True),
]
TrainedHead = Annotated[str | os.PathLike[str] | AnyHead, Option("Folder that fit wrote, or what it returned.")]


@dataclass(frozen=True)
class PredictOptions:
    """Options of :func:`predict` and :func:`predict_to_file`."""

    output: Annotated[
        str | os.PathLike[str] | None, Option("annotated.h5ad, labels.csv or .parquet.", flags=("--output", "-o"))
    ] = None
    _: KW_ONLY
    unassigned: Annotated[
        Literal["confidence", "distance", "both", "none"] | None,
        Option(
            "A low probability, a large distance, or either makes a label unassigned. confidence by default; both "
            "where most cells are far from the training cells."
        ),
    ] = None
    keep: Annotated[float | None, fraction("Fraction of correct held-out cells to keep. Fit's by default.")] = None
    proba: Annotated[bool, Option("Add the probability of every class.")] = False
    majority: Annotated[str | None, Option("obs column of clusters, each of which votes for a label.")] = None
    min_accuracy: Annotated[
        float,
        fraction(
            "Refuse cells whose genes allow less held-out accuracy than this; 0 labels what is sure all the same."
        ),
    ] = MIN_ACCURACY
    min_share: Annotated[float, fraction("Share of votes that a majority needs, or it is heterogeneous.")] = 0.0
    allow_partial: AllowPartial = False
    overwrite: Overwrite = False
    progress: Progress = None


@dataclass
class PredictionCounts:
    """What :func:`predict_to_file` wrote.

    Attributes
    ----------
    n_cells
        Number of cells.
    cells, confidence
        By label: number of cells, and the sum of their confidences.
    statuses
        Number of cells by status.
    majority
        Number of cells by majority label; empty without a vote.
    """

    n_cells: int = 0
    cells: Counter[str] = field(default_factory=Counter)
    confidence: dict[str, float] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    majority: Counter[str] = field(default_factory=Counter)

    def add(self, frame: pd.DataFrame) -> None:
        """Count the cells of one block."""
        self.n_cells += len(frame)
        for name, part in frame.groupby("label", sort=False)["confidence"]:
            self.confidence[name] = self.confidence.get(name, 0.0) + float(part.sum())
        self.cells.update(frame["label"])
        self.statuses.update(frame["status"])
        self.majority.update(frame.get("majority_label", ()))


@with_options(PredictOptions)
def predict(store: Cells, head: TrainedHead, options: PredictOptions) -> pd.DataFrame:
    """Label cells with a trained head.

    ``unassigned="distance"`` is for the same kind of data: another technology can put every cell far away.

    Returns
    -------
    DataFrame
        Index: cell id. Columns: ``label``; ``confidence`` (calibrated probability of ``best_label``); ``margin`` (its
        lead over the most probable other label); ``status`` (``ok``; why the label is ``unassigned``: ``unsure``,
        ``far``, or ``empty`` for a cell without any gene to read; or ``coarse`` where the label is that of a coarser
        level because the finest is unsure); ``novelty`` (distance from the training cells of ``best_label``, where 1
        is the 95 % quantile of held-out cells; NaN with a head without thresholds); ``best_label`` (the most probable
        label, whatever the status). With a head of several levels ``label:COLUMN`` and ``confidence:COLUMN`` for each.
        With ``proba`` one ``p(CLASS)`` for each class. With ``majority`` ``majority_label`` and ``majority_share`` (of
        the votes of the cell's cluster).

    Raises
    ------
    FeatureSpaceError
        If a view is missing or lives in another feature space; the message lists the fields that differ.
    GenesError
        If the head uses expression and none of its genes is there, or the genes are too few for ``min_accuracy``.
    OptionError
        If the head lacks the thresholds asked for, or there is no such column of clusters.
    OutputError
        If the output exists and ``overwrite`` is not set.
    """
    return pd.concat(list(_predictions(store, head, options)))


@with_options(PredictOptions)
def predict_to_file(store: Cells, head: TrainedHead, options: PredictOptions) -> PredictionCounts:
    """Write what :func:`predict` returns block by block: memory grows by a few numbers a cell.

    With a majority vote the predictions wait in a temporary file until all cells have voted.

    Raises
    ------
    OptionError
        If no ``output`` is given, and as :func:`predict` does.
    """
    if options.output is None:
        raise OptionError("output=: name the file to write, such as annotated.h5ad, labels.csv or labels.parquet.")
    counts = PredictionCounts()
    for frame in _predictions(store, head, options):
        counts.add(frame)
    return counts


def _predictions(store: Cells, head: TrainedHead, options: PredictOptions) -> Iterator[pd.DataFrame]:
    """Yield tables of predictions, which are written on their way."""
    if options.min_share and options.majority is None:
        raise OptionError(f"min_share={options.min_share:g}: name the column of clusters that vote with majority=.")
    target = None if options.output is None else Path(options.output)
    if target is not None:
        check_predictions_file(target, overwrite=options.overwrite)
    progress = options.progress or Reporter()
    opened = open_store(store)
    for line in opened.notes:
        progress.note(line)
    trained, name = (head, "the head") if isinstance(head, AnyHead) else (load_head(head)[0], str(head))
    usable = opened.usable_rows(allow_partial=options.allow_partial)
    clusters = None if options.majority is None else read_clusters(opened, options.majority)
    if isinstance(trained, AcrossGenesHead):
        trained, found = predict_across_genes(
            opened, trained, name, usable, progress, min_accuracy=options.min_accuracy
        )
        unlike = False
    else:
        trained, views = head_features(opened, trained, name, progress, min_accuracy=options.min_accuracy)
        unlike = _mostly_far(trained, views, usable, options, progress)
        found = trained.iter_predictions({view: RowSubset(rows, usable) for view, rows in views.items()})
    rule = _label_rule(trained, name, options, progress, unlike=unlike)
    with (
        progress.track("predicting", len(usable), "cells") as track,
        nullcontext()
        if target is None
        else open_predictions_file(target, opened, labels=rule.labels, overwrite=options.overwrite) as writer,
    ):
        frames = prediction_frames(opened, rule, found, usable, track=track)
        if clusters is not None:
            folder = None if target is None else target.absolute().parent
            frames = with_majority(frames, clusters, folder=folder, min_share=options.min_share)
        for frame in frames:
            if writer is not None:
                writer.write(frame)
            yield frame


def _mostly_far(
    head: FusedHead, views: Mapping[str, Rows], usable: NDArray[np.int64], options: PredictOptions, progress: Reporter
) -> bool:
    """Return whether most cells lie far from the training cells, by an even sample of them, and warn of it."""
    if head.rejection_ is None or not len(usable):
        return False
    sample = usable[np.unique(np.linspace(0, len(usable) - 1, SAMPLE).astype(np.int64))]
    found = head.iter_predictions({view: RowSubset(rows, sample) for view, rows in views.items()})
    novelty = np.concatenate([np.empty(0) if far is None else far for _, _, far in found])
    limit = head.rejection_.thresholds("both", options.keep).novelty
    share = float((novelty > limit).mean()) if len(novelty) else 0.0
    if share <= MANY_FAR:
        return False
    kept = "They stay unassigned; unassigned='confidence' labels them all the same."
    progress.warn(
        f"{share:.0%} of {len(sample):,} cells looked at lie far from the training cells of their label (novelty above "
        f"{limit:.2f}): another technology, tissue, species, or new cell types. Their accuracy is not known. "
        f"{kept if options.unassigned is None else ''}".rstrip(),
        FarFromReferenceWarning,
    )
    return True


def _label_rule(
    head: AnyHead, name: str, options: PredictOptions, progress: Reporter, *, unlike: bool = False
) -> LabelRule:
    """Choose the thresholds of a head; where the cells are unlike its training cells, distance counts too."""
    rejection = head.rejection_
    hierarchy = None if isinstance(head, AcrossGenesHead) else head.hierarchy_
    levels = () if hierarchy is None else hierarchy.levels
    coarse = (0.0,) * len(levels)
    if rejection is None:
        if options.unassigned not in (None, "none") or options.keep is not None:
            raise OptionError(
                f"{name} has no thresholds for unassigned= and keep=. Fit it with more cells, or use unassigned='none'."
            )
        if options.unassigned is None:
            progress.note(f"{name} has no thresholds: every cell but the empty ones gets a label")
        return LabelRule(head.classes_, Thresholds(), hierarchy, coarse, options.proba)
    rule = options.unassigned or ("both" if unlike else "confidence")
    thresholds = rejection.thresholds(rule, options.keep)
    if thresholds.confidence > 0:
        keep = rejection.keep if options.keep is None else options.keep
        coarse = tuple(level.threshold(keep) for level in levels)
    return LabelRule(head.classes_, thresholds, hierarchy, coarse, options.proba)
