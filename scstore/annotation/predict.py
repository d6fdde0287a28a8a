"""Labels for new cells, from their cached features and a trained head."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.annotation.head_inputs import HeadInputs, head_features, predict_across_genes
from scstore.annotation.majority import read_clusters, with_majority
from scstore.annotation.prediction_frames import Judge, LabelRule, Seen, prediction_frames, with_categories
from scstore.cluster import on_cluster
from scstore.errors import FarFromReferenceWarning, OptionError, OutputError
from scstore.heads.across_genes import AcrossGenesHead
from scstore.heads.artifact import AnyHead, load_head
from scstore.heads.missing_genes import MIN_ACCURACY
from scstore.heads.rejection import Thresholds
from scstore.options import AllowPartial, Dask, Option, Overwrite, Progress, fraction, with_options
from scstore.progress import Reporter
from scstore.store.reader import Cells, Store, open_store
from scstore.tables import FORMATS, check_table, four_digits, open_table

# Share of far cells above which the whole data set is unlike the training cells.
MANY_FAR = 0.5
SAMPLE = 2048  # cells looked at to see that, at most

Labelled = Annotated[Cells, Option("A store, or any AnnData with the views that the head reads.", argument=True)]
TrainedHead = Annotated[str | os.PathLike[str] | AnyHead, Option("Folder that fit wrote, or what it returned.")]


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How a head labels cells."""

    unassigned: Annotated[
        Literal["confidence", "distance", "both", "none"] | None,
        Option(
            "A low probability, a large distance, or either makes a label unassigned. confidence by default; both "
            "where most cells are far from the training cells."
        ),
    ] = None
    keep: Annotated[float | None, fraction("Fraction of correct held-out cells to keep. Fit's by default.")] = None
    members: Annotated[
        Sequence[str] | None,
        Option("X: label by expression alone, where the head reads a model's views too."),
    ] = None
    proba: Annotated[bool, Option("Add the probability of every class.")] = False
    majority: Annotated[str | None, Option("obs column of clusters, each of which votes for a label.")] = None
    min_accuracy: Annotated[
        float,
        fraction(
            "Refuse cells whose genes allow less held-out accuracy than this; 0 labels what is sure all the same."
        ),
    ] = MIN_ACCURACY
    min_share: Annotated[float, fraction("Share of votes that a majority needs, or it is heterogeneous.")] = 0.0
    only_unassigned: Annotated[bool, Option("Of a table, write the cells alone whose label does not stand.")] = False
    allow_partial: AllowPartial = False
    overwrite: Overwrite = False
    dask: Dask = None
    progress: Progress = None


@dataclass(frozen=True)
class PredictOptions(LabelOptions):
    """Options of :func:`predict` and :func:`predict_to_file`."""

    output: Annotated[
        str | os.PathLike[str] | None, Option("A .csv, .tsv, .parquet or .xlsx.", flags=("--output", "-o"))
    ] = None


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
    suggestions
        Number of cells by what :func:`annotate` suggests for those far from every label.
    """

    n_cells: int = 0
    cells: Counter[str] = field(default_factory=Counter)
    confidence: dict[str, float] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    majority: Counter[str] = field(default_factory=Counter)
    suggestions: Counter[str] = field(default_factory=Counter)

    def add(self, frame: pd.DataFrame) -> None:
        """Count the cells of one block."""
        self.n_cells += len(frame)
        for name, part in frame.groupby("label", sort=False, observed=True)["confidence"]:
            self.confidence[name] = self.confidence.get(name, 0.0) + float(part.sum())
        self.cells.update(frame["label"])
        self.statuses.update(frame["status"])
        self.majority.update(frame.get("majority_label", ()))
        self.suggestions.update(words for words in frame.get("suggestion", ()) if words)


@with_options(PredictOptions)
def predict(store: Labelled, head: TrainedHead, options: PredictOptions) -> pd.DataFrame:
    """Label cells with a trained head.

    ``unassigned="distance"`` is for the same kind of data: another technology can put every cell far away.
    :func:`scstore.annotate` gives the cells back with their labels, and computes the views that they lack.

    Returns
    -------
    DataFrame
        Index: cell id. Columns, text as categories: ``label``; ``confidence`` (calibrated probability of
        ``best_label``); ``status`` (``ok``; why the label is ``unassigned``: ``unsure``, ``far``, or ``empty`` for a
        cell without any gene to read; or ``coarse`` where the label is that of a coarser level because the finest is
        unsure); ``reason`` (the same in words); ``best_label`` (the most probable label, whatever the status);
        ``second_label`` (the most probable other label) and ``margin`` (the lead over it); ``novelty`` (distance from
        the training cells of ``best_label``, where 1 is the 95 % quantile of held-out cells; NaN with a head without
        thresholds). With a head of several levels ``label:COLUMN`` and ``confidence:COLUMN`` for each. With ``proba``
        one ``p(CLASS)`` for each class. With ``majority`` ``majority_label`` and ``majority_share`` (of the votes of
        the cell's cluster).

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
    return with_categories(pd.concat(list(_written(store, head, options))))


@with_options(PredictOptions)
def predict_to_file(store: Labelled, head: TrainedHead, options: PredictOptions) -> PredictionCounts:
    """Write what :func:`predict` returns block by block: memory grows by a few numbers a cell.

    Numbers have four significant digits. With a majority vote the table is kept until all cells have voted.

    Raises
    ------
    OptionError
        If no ``output`` is given, and as :func:`predict` does.
    """
    if options.output is None:
        raise OptionError("output=: name the file to write, such as labels.csv, labels.xlsx or labels.parquet.")
    counts = PredictionCounts()
    for frame in _written(store, head, options):
        counts.add(frame)
    return counts


def _written(store: Cells, head: AnyHead | str | os.PathLike[str], options: PredictOptions) -> Iterator[pd.DataFrame]:
    """Yield tables of predictions, which are written on their way."""
    if options.output is not None:
        if Path(options.output).suffix not in FORMATS:
            cure = "For the cells with their labels: scstore.annotate."
            raise OutputError(f"{options.output}: the name must end in one of {', '.join(FORMATS)}. {cure}")
        check_table(options.output, overwrite=options.overwrite)
    labelling = plan_labelling(open_store(store), head, options)
    with on_cluster(options.dask, labelling.store):
        yield from write_frames(labelling.frames(), options.output, options)


def write_frames(
    frames: Iterator[pd.DataFrame], output: str | os.PathLike[str] | None, options: LabelOptions
) -> Iterator[pd.DataFrame]:
    """Pass tables of predictions on, and write them to a table if there is an output."""
    with nullcontext() if output is None else open_table(output, index=True, overwrite=options.overwrite) as writer:
        for frame in frames:
            if writer is not None:
                wanted = frame[frame["status"] != "ok"] if options.only_unassigned else frame
                writer.write(four_digits(wanted))
            yield frame


@dataclass(frozen=True, eq=False)
class Labelling:
    """Cells and the head that labels them, all checked."""

    store: Store
    head: AnyHead
    rule: LabelRule
    usable: NDArray[np.int64]  # (m,) rows
    clusters: NDArray[np.int32] | None
    options: LabelOptions
    judge: Judge
    inputs: HeadInputs | None = None  # of heads that read views

    def frames(self, seen: Seen = lambda rows, said: None) -> Iterator[pd.DataFrame]:
        """Yield tables of predictions of all committed cells; ``seen`` is told what the head says of them."""
        progress = self.options.progress or Reporter()
        with progress.track("labelling", len(self.usable), "cells") as track:
            frames = prediction_frames(self.store, self.rule, self.judge, self.usable, seen=seen, track=track)
            if self.clusters is not None:
                frames = with_majority(frames, self.clusters, min_share=self.options.min_share)
            yield from frames


def plan_labelling(
    opened: Store,
    head: AnyHead | str | os.PathLike[str],
    options: LabelOptions,
    *,
    more: Store | None = None,
    name: str = "",
) -> Labelling:
    """Open the head, check the cells against it, and choose thresholds; ``more`` has views computed for it."""
    if options.min_share and options.majority is None:
        raise OptionError(f"min_share={options.min_share:g}: name the column of clusters that vote with majority=.")
    progress = options.progress or Reporter()
    for line in opened.notes:
        progress.note(line)
    trained, called = (head, "the head") if isinstance(head, AnyHead) else (load_head(head), str(head))
    name = name or called
    usable = opened.usable_rows(allow_partial=options.allow_partial)
    usable = usable if more is None else usable[~more.empty[usable]]
    clusters = None if options.majority is None else read_clusters(opened, options.majority)
    alone = expression_alone(trained, name, options.members)
    if isinstance(trained, AcrossGenesHead):
        able, judge = predict_across_genes(opened, trained, name, usable, progress, min_accuracy=options.min_accuracy)
        rule = _label_rule(able, name, options, progress)
        return Labelling(opened, able, rule, usable, clusters, options, judge)
    inputs = head_features(
        opened, trained, name, progress, min_accuracy=options.min_accuracy, more=more, expression_alone=alone
    )
    unlike = _mostly_far(inputs, usable, options, progress)
    rule = _label_rule(inputs.head, name, options, progress, unlike=unlike)
    return Labelling(opened, inputs.head, rule, usable, clusters, options, inputs.judge, inputs)


def expression_alone(head: AnyHead, name: str, members: Sequence[str] | None) -> bool:
    """Return whether a head is to read expression alone; refuse members that it cannot be cut down to."""
    views = head.views_
    if members is None or sorted(members) == sorted(views):
        return False
    if list(members) != ["X"] or "X" not in views:
        choices = " or ".join(dict.fromkeys((*(["X"] if "X" in views else []), " and ".join(views))))
        raise OptionError(
            f"members={list(members)}: {name} labels by {choices}; how sure it is was measured for those."
        )
    return True


def _mostly_far(inputs: HeadInputs, usable: NDArray[np.int64], options: LabelOptions, progress: Reporter) -> bool:
    """Return whether most cells lie far from the training cells, by an even sample of them, and warn of it."""
    if inputs.head.rejection_ is None or not len(usable):
        return False
    sample = usable[np.unique(np.linspace(0, len(usable) - 1, SAMPLE).astype(np.int64))]
    limit = inputs.head.rejection_.thresholds("both", options.keep).novelty
    share = float((np.asarray(inputs.judge(sample).novelty) > limit).mean())
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
    head: AnyHead, name: str, options: LabelOptions, progress: Reporter, *, unlike: bool = False
) -> LabelRule:
    """Choose the thresholds of a head; where the cells are unlike its training cells, distance counts too."""
    rejection, hierarchy = head.rejection_, head.hierarchy_
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
