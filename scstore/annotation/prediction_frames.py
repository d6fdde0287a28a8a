"""What a head says of cells, as tables: labels that stand, and why others do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.heads.hierarchy import Hierarchy, label_cells
from scstore.heads.rejection import Thresholds
from scstore.store.reader import Store

__all__ = ["COARSE", "Judge", "prediction_frames"]

COARSE = "coarse"
"""Status of a cell whose finest label does not stand, and a coarser one does."""

UNASSIGNED = "unassigned"


@dataclass(frozen=True, eq=False)
class Judge:
    """What turns probabilities into labels.

    Attributes
    ----------
    classes
        ``(n_classes,)``.
    thresholds
        Of the finest label.
    hierarchy
        Coarser levels, where the head has any.
    coarse
        Threshold on the confidence of each coarser level.
    proba
        Whether the probabilities are told as well.
    """

    classes: NDArray[Any]
    thresholds: Thresholds
    hierarchy: Hierarchy | None = None
    coarse: tuple[float, ...] = ()
    proba: bool = False

    @property
    def labels(self) -> list[str]:
        """Every label that may be told: the classes, then those of coarser levels."""
        levels = () if self.hierarchy is None else self.hierarchy.levels
        return [str(name) for names in (self.classes, *(level.labels for level in levels)) for name in names]


def prediction_frames(
    store: Store,
    judge: Judge,
    judged: Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64] | None]],
    usable: NDArray[np.int64],
) -> Iterator[tuple[pd.DataFrame, int]]:
    """Yield predictions block by block in the order of the cells, and how many of each block are not empty.

    Parameters
    ----------
    store
        The cells; all that are committed are told of.
    judge
        Turns probabilities into labels.
    judged
        First place in ``usable``, probabilities and novelty of each block.
    usable
        ``(m,)`` rows of the cells that are judged; the others are empty.
    """
    ids, committed, begin = store.obs.index.astype(str), store.committed, 0
    for start, chances, novelty in judged:
        rows = usable[start : start + len(chances)]
        end = int(rows[-1]) + 1
        span = begin + np.flatnonzero(committed[begin:end])
        places = np.searchsorted(span, rows)
        yield _frame(judge, ids[span], places, chances, novelty), len(rows)
        begin = end
    span = begin + np.flatnonzero(committed[begin:])
    if len(span) or not begin:
        none = np.empty((0, len(judge.classes)))
        yield _frame(judge, ids[span], np.empty(0, dtype=np.int64), none, None), 0


def _frame(
    judge: Judge,
    ids: pd.Index,
    places: NDArray[np.int64],
    chances: NDArray[np.float64],
    novelty: NDArray[np.float64] | None,
) -> pd.DataFrame:
    """One block: the cells at ``places`` were judged, the others are empty."""
    chosen = None if judge.hierarchy is None else judge.hierarchy.choose(chances)
    summary = label_cells(chances, judge.classes, chosen=chosen)
    best = summary.label.astype(object)
    status = np.full(len(places), "ok", dtype=object)
    status[summary.confidence < judge.thresholds.confidence] = "unsure"
    if novelty is not None:
        status[novelty > judge.thresholds.novelty] = "far"  # the stronger reason of the two
    label = np.where(status == "ok", best, UNASSIGNED)
    levels: dict[str, tuple[Any, Any]] = {}
    if judge.hierarchy is not None and chosen is not None:
        levels = _levels(judge, judge.hierarchy, chosen, chances, summary.confidence, label, status)
    judged: dict[str, tuple[Any, Any]] = {
        "label": (UNASSIGNED, label),
        "confidence": (0.0, summary.confidence),
        "margin": (0.0, summary.margin),
        "status": ("empty", status),
        "novelty": (np.nan, np.nan if novelty is None else novelty),
        "best_label": (UNASSIGNED, best),
        **levels,
    }
    if judge.proba:
        judged |= {f"p({name})": (0.0, chances[:, code]) for code, name in enumerate(judge.classes)}
    columns = {}
    for name, (without, values) in judged.items():
        columns[name] = np.full(len(ids), without, dtype=object if isinstance(without, str) else np.float64)
        columns[name][places] = values
    return pd.DataFrame(columns, index=pd.Index(ids, name="cell_id"))


def _levels(
    judge: Judge,
    hierarchy: Hierarchy,
    chosen: NDArray[np.int64],
    chances: NDArray[np.float64],
    confidence: NDArray[np.float64],
    label: NDArray[Any],
    status: NDArray[Any],
) -> dict[str, tuple[Any, Any]]:
    """Label and confidence of each level, coarse to fine; ``label`` and ``status`` back off in place.

    A label that stands carries those of the coarser levels with it, however unsure they are by their own measure.
    """
    stands = status == "ok"
    told = [(hierarchy.column, np.where(stands, label, UNASSIGNED), confidence)]
    for level, threshold in zip(hierarchy.levels[::-1], judge.coarse[::-1], strict=True):
        mine = level.parents[chosen]
        sure = level.sums(chances)[np.arange(len(chances)), mine]
        backs_off = (status == "unsure") & (sure >= threshold)
        label[backs_off], status[backs_off] = level.labels[mine[backs_off]], COARSE
        stands = stands | backs_off
        told.append((level.column, np.where(stands, level.labels[mine].astype(object), UNASSIGNED), sure))
    columns: dict[str, tuple[Any, Any]] = {}
    for name, labels, sure in told[::-1]:
        columns |= {f"label:{name}": (UNASSIGNED, labels), f"confidence:{name}": (0.0, sure)}
    return columns
