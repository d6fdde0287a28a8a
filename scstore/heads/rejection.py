"""When not to answer: thresholds on confidence and on distance, fitted on held-out cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from scstore.errors import DamagedError, OptionError
from scstore.heads.base import JSON, take_array
from scstore.heads.distances import Distances, fit_distances
from scstore.heads.member import Branch, below
from scstore.heads.rows import Array, Rows

__all__ = ["KEEP", "RULES", "Rejection", "Thresholds", "check_keep", "fit_rejection", "may_fail"]

RULES = ("none", "confidence", "distance", "both")
"""What may turn a label into ``unassigned``."""

KEEP = 0.95
"""Share of the rightly labelled held-out cells that keep their label, unless told otherwise."""

UNIT = 0.95
"""Quantile of a class's held-out distances that is a novelty of 1."""

SHRINK = 20
"""Held-out cells of a class at which its own quantile weighs as much as that of all classes."""


class Thresholds(NamedTuple):
    """A label stands where confidence is at least the one and novelty at most the other.

    Attributes
    ----------
    confidence
        Calibrated probability; 0 rejects nothing.
    novelty
        Infinity rejects nothing.
    """

    confidence: float
    novelty: float


@dataclass(frozen=True, eq=False)
class Rejection:
    """What a head needs to say that it does not know a cell.

    Novelty is the distance of a cell from the training cells of its label, where 1 is the 95 % quantile of the
    held-out cells: of all labels together where the space was whitened by the spread inside labels, else of that
    label (drawn towards that of all where its cells are few). It is the mean of two such ratios: distance to the 5
    nearest reference cells of the label, and to the mean of all.

    Attributes
    ----------
    distances
        Reference cells of the whole head.
    units
        ``(n_classes, 2) float64`` the distances that count as 1.
    confidence, novelty
        ``(m,) float64`` each, of the held-out cells that were labelled rightly; what thresholds are read off.
    keep
        Share of them that keep their label, unless another one is asked for.
    """

    distances: Distances
    units: Array
    confidence: Array
    novelty: Array
    keep: float

    def novelty_of(
        self, branches: Sequence[Branch], views: Mapping[str, Rows], codes: Array, *, selected: bool = True
    ) -> Array:
        """Novelty ``(n,) float64`` of cells that got the labels ``codes``; the rest as :meth:`Distances.measure`."""
        measured = self.distances.measure(branches, views, codes, selected=selected)
        result: Array = (measured / self.units[codes]).mean(axis=1)
        return result

    def thresholds(self, rule: str, keep: float | None = None) -> Thresholds:
        """Thresholds that the wanted share of the rightly labelled held-out cells passes.

        With ``"both"`` a cell must pass both, and the two are equally strict: each alone would reject the same share.

        Parameters
        ----------
        rule
            One of :data:`RULES`.
        keep
            Share to keep, more than 0 and at most 1; the head's own by default.

        Raises
        ------
        OptionError
            If the rule or the share is none.
        """
        if rule not in RULES:
            msg = f"--unassigned {rule}: must be one of {', '.join(RULES)}."
            raise OptionError(msg)
        keep = self.keep if keep is None else check_keep(keep)
        failing_at_most = may_fail(len(self.confidence), keep)
        sure, near = np.sort(self.confidence), np.sort(self.novelty)[::-1]
        if rule == "none":
            return Thresholds(0.0, np.inf)
        if rule == "confidence":
            return Thresholds(float(sure[failing_at_most]), np.inf)
        if rule == "distance":
            return Thresholds(0.0, float(near[failing_at_most]))
        # the strictest pair that fails no more: rejected cells only grow with the rank
        low, high = 0, failing_at_most
        while low < high:
            rank = (low + high + 1) // 2
            failing = ((self.confidence < sure[rank]) | (self.novelty > near[rank])).sum()
            low, high = (rank, high) if failing <= failing_at_most else (low, rank - 1)
        return Thresholds(float(sure[low]), float(near[low]))

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, JSON]]:
        """Named arrays and a JSON object; :meth:`from_arrays` takes them back."""
        own = {name: getattr(self, name) for name in ("units", "confidence", "novelty")}
        fitted = {rule: self.thresholds(rule) for rule in RULES if rule != "none"}
        state = {
            "keep": self.keep,
            "views": list(self.distances.views),
            "thresholds": {
                "confidence": {"confidence": fitted["confidence"].confidence},
                "distance": {"novelty": fitted["distance"].novelty},
                "both": fitted["both"]._asdict(),
            },
        }
        return {**own, **{f"distances.{name}": a for name, a in self.distances.to_arrays().items()}}, state

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], state: Mapping[str, Any], *, n_classes: int) -> Self:
        """What :meth:`to_arrays` gave; :class:`DamagedError` where the two do not fit."""
        inner = below(arrays, "distances.")
        distances = Distances.from_arrays(inner, views=[str(v) for v in state["views"]], n_classes=n_classes)
        confidence = take_array(arrays, "confidence", shape=(-1,))
        novelty = take_array(arrays, "novelty", shape=confidence.shape)
        units = take_array(arrays, "units", shape=(n_classes, 2))
        keep = state["keep"]
        if not len(confidence) or not (units > 0).all() or not isinstance(keep, float) or not 0 < keep <= 1:
            msg = "rejection: no held-out cells, units that are not positive, or a share to keep that is none."
            raise DamagedError(msg)
        return cls(distances, units, confidence, novelty, keep)


def check_keep(keep: float) -> float:
    """A share to keep, checked.

    Raises
    ------
    OptionError
        If it is not more than 0 and at most 1.
    """
    if not 0 < keep <= 1:
        msg = f"--keep {keep}: must be more than 0 and at most 1, such as 0.95 to reject one known cell in twenty."
        raise OptionError(msg)
    return float(keep)


def may_fail(n: int, keep: float) -> int:
    """How many of n cells may fail so that this share passes."""
    return int(np.floor((1 - keep) * n + 1e-9))  # a hair for 0.95 * 20 being 19.000000000000004


def fit_rejection(
    branches: Sequence[Branch],
    views: Mapping[str, Rows],
    codes: Array,
    *,
    proba: Array,
    truth: Array,
    measured: Array,
    keep: float,
    rng: np.random.Generator,
) -> Rejection | None:
    """Thresholds from held-out cells, and reference cells from all.

    Parameters
    ----------
    branches, views, codes, rng
        As for :func:`~scstore.heads.distances.fit_distances`.
    proba
        ``(m, n_classes)`` calibrated probabilities of the held-out cells.
    truth
        ``(m,)`` their true classes.
    measured
        ``(m, 2)`` their distances from the training cells of their true class, by branches that had not seen them.
    keep
        Share that keeps its label by default.

    Returns
    -------
    ``None`` where no held-out cell was labelled rightly: there is nothing to read thresholds off.
    """
    right = proba.argmax(axis=1) == truth if len(truth) else np.zeros(0, dtype=bool)
    if not right.any():
        return None
    classes, distances = truth[right], measured[right]
    final = fit_distances(branches, views, codes, rng=rng)

    def units(chosen: Array) -> Array:
        return _units(distances[chosen], classes[chosen], n_classes=proba.shape[1], pooled=final.whitened)

    # units of one half are for the other: a quantile never lies among the cells that it was read off
    halves = np.array_split(rng.permutation(len(classes)), 2)
    novelty = np.empty(len(classes))
    for mine, others in (halves, halves[::-1]):
        novelty[mine] = (distances[mine] / units(others if len(others) else mine)[classes[mine]]).mean(axis=1)
    every = units(np.arange(len(classes)))
    return Rejection(final, every, proba[right].max(axis=1), novelty, check_keep(keep))


def _units(distances: Array, classes: Array, *, n_classes: int, pooled: bool) -> Array:
    """Distances ``(n_classes, 2)`` that count as 1."""
    units: Array = np.tile(np.quantile(distances, UNIT, axis=0), (n_classes, 1))
    for code in np.unique(classes).tolist() if not pooled else ():
        mine = distances[classes == code]
        weight = len(mine) / (len(mine) + SHRINK)
        units[code] = weight * np.quantile(mine, UNIT, axis=0) + (1 - weight) * units[code]
    result: Array = np.maximum(units, np.finfo(np.float32).tiny)
    return result
