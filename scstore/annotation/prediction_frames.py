"""Tables of predictions: labels that stand, and why others do not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.cluster import each
from scstore.heads.fusion import Judged
from scstore.heads.hierarchy import Hierarchy, label_cells
from scstore.heads.rejection import Thresholds
from scstore.progress import Track
from scstore.store.reader import Store

# Status of a cell whose finest label is unsure while a coarser one stands.
COARSE = "coarse"

UNASSIGNED = "unassigned"

BLOCK = 4096  # cells labelled at a time

Array = NDArray[Any]
Judge = Callable[[NDArray[np.int64]], Judged]  # from rows of a store to what a head says; NaN of empty cells
Seen = Callable[[NDArray[np.int64], Judged], None]


@dataclass(frozen=True, eq=False)
class LabelRule:
    """How probabilities become labels."""

    classes: NDArray[Any]  # (n_classes,)
    thresholds: Thresholds  # for the finest label
    hierarchy: Hierarchy | None = None  # coarser levels, if the head has any
    coarse: tuple[float, ...] = ()  # least confidence of each coarser level
    proba: bool = False  # whether the table holds the probabilities

    @property
    def reasons(self) -> dict[str, str]:
        """Why a cell has its status, in words."""
        confidence, novelty = self.thresholds.confidence, self.thresholds.novelty
        return {
            "ok": "",
            "empty": "expresses none of the genes that are read",
            "unsure": f"confidence below {confidence:.2f}",
            "far": f"far from the training cells: novelty above {novelty:.2f}",
            COARSE: f"confidence of the finest label below {confidence:.2f}",
        }

    @property
    def labels(self) -> list[str]:
        """Every label that a table can hold: the classes, then those of coarser levels."""
        levels = () if self.hierarchy is None else self.hierarchy.levels
        return [str(name) for names in (self.classes, *(level.labels for level in levels)) for name in names]


def prediction_frames(
    store: Store, rule: LabelRule, judge: Judge, usable: NDArray[np.int64], *, seen: Seen, track: Track
) -> Iterator[pd.DataFrame]:
    """Yield tables of all committed cells block by block; cells that are not ``usable`` ``(m,)`` are empty."""
    ids, committed = store.obs.index.astype(str), np.flatnonzero(store.committed)
    can = np.isin(committed, usable)
    spans = [slice(start, start + BLOCK) for start in range(0, max(1, len(committed)), BLOCK)]
    judged = each(judge, (committed[span][can[span]] for span in spans if can[span].any()))
    for span in spans:
        places = np.flatnonzero(can[span])
        said = next(judged) if len(places) else Judged(np.empty((0, len(rule.classes))))
        seen(committed[span][places], said)
        yield _frame(rule, ids[committed[span]], places, said)
        track.advance(len(places))


def _frame(rule: LabelRule, ids: pd.Index, places: Array, said: Judged) -> pd.DataFrame:
    """Return the table of one block, whose cells at ``places`` have predictions and whose others are empty."""
    some = ~np.isnan(said.proba).any(axis=1)
    places, proba = places[some], said.proba[some]
    novelty = None if said.novelty is None else said.novelty[some]
    chosen = None if rule.hierarchy is None else rule.hierarchy.choose(proba)
    cells = label_cells(proba, rule.classes, chosen=chosen)
    best = cells.label.astype(object)
    status = np.full(len(places), "ok", dtype=object)
    status[cells.confidence < rule.thresholds.confidence] = "unsure"
    if novelty is not None:
        status[novelty > rule.thresholds.novelty] = "far"  # the stronger reason of the two
    label = np.where(status == "ok", best, UNASSIGNED)
    levels: dict[str, tuple[Any, Any]] = {}
    if rule.hierarchy is not None and chosen is not None:
        levels = _levels(rule, rule.hierarchy, chosen, proba, cells.confidence, label, status)
    values: dict[str, tuple[Any, Any]] = {
        "label": (UNASSIGNED, label),
        "confidence": (0.0, cells.confidence),
        "status": ("empty", status),
        "reason": (rule.reasons["empty"], [rule.reasons[one] for one in status]),
        "best_label": (UNASSIGNED, best),
        "second_label": (UNASSIGNED, cells.second.astype(object)),
        "margin": (0.0, cells.margin),
        "novelty": (np.nan, np.nan if novelty is None else novelty),
        **levels,
    }
    if rule.proba:
        values |= {f"p({name})": (0.0, proba[:, code]) for code, name in enumerate(rule.classes)}
    columns = {}
    for name, (of_empty, found) in values.items():
        columns[name] = np.full(len(ids), of_empty, dtype=object if isinstance(of_empty, str) else np.float64)
        columns[name][places] = found
    return pd.DataFrame(columns, index=pd.Index(ids, name="cell_id"))


def with_categories(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its text as categories: those that occur, the same in all columns of labels."""
    texts = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name].dtype)]
    named = [name for name in texts if "label" in name]
    labels = sorted({label for name in named for label in frame[name].unique()})
    return frame.astype({name: pd.CategoricalDtype(labels) if name in named else "category" for name in texts})


def _levels(
    rule: LabelRule, hierarchy: Hierarchy, chosen: Array, proba: Array, finest: Array, label: Array, status: Array
) -> dict[str, tuple[Any, Any]]:
    """Return label and confidence of each level, coarse to fine; unsure cells of ``label`` fall back in place.

    A label that stands implies those of the coarser levels, whatever their own confidence.
    """
    stands = status == "ok"
    levels = [(hierarchy.column, np.where(stands, label, UNASSIGNED), finest)]
    for level, threshold in zip(hierarchy.levels[::-1], rule.coarse[::-1], strict=True):
        mine = level.parents[chosen]
        confidence = level.sums(proba)[np.arange(len(proba)), mine]
        falls_back = (status == "unsure") & (confidence >= threshold)
        label[falls_back], status[falls_back] = level.labels[mine[falls_back]], COARSE
        stands = stands | falls_back
        levels.append((level.column, np.where(stands, level.labels[mine].astype(object), UNASSIGNED), confidence))
    columns: dict[str, tuple[Any, Any]] = {}
    for name, labels, confidence in levels[::-1]:
        columns |= {f"label:{name}": (UNASSIGNED, labels), f"confidence:{name}": (0.0, confidence)}
    return columns
