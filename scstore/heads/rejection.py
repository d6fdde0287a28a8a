"""When not to answer: thresholds on confidence and on novelty, fitted on held-out cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from scstore.errors import DamagedError, OptionError
from scstore.heads.base import JSON, take_array
from scstore.heads.distances import Distances, fit_distances
from scstore.heads.member import Member, arrays_under
from scstore.heads.rows import Array, Rows
from scstore.options import did_you_mean

__all__ = ["KEEP", "RULES", "Rejection", "Thresholds", "check_keep", "check_rule", "fit_rejection", "max_rejected"]

RULES = ("none", "confidence", "distance", "both")
"""Reasons that turn a label into ``unassigned``."""

KEEP = 0.95
"""Fraction of correctly labelled held-out cells that keep their label by default."""

UNIT = 0.95
"""Quantile of a class's held-out distances that is a novelty of 1."""

SHRINK = 20
"""Held-out cells of a class at which its own quantile weighs as much as that of all classes."""


@dataclass(frozen=True)
class Thresholds:
    """A label stands where confidence is at least the one and novelty at most the other; by default all stand."""

    confidence: float = 0.0
    novelty: float = np.inf


@dataclass(frozen=True, eq=False)
class Rejection:
    """Thresholds of a head, and the reference cells from which novelty is measured.

    Novelty is the distance of a cell from the training cells of its label, where 1 is the 95 % quantile of the
    held-out cells: of all labels together where the space was whitened by the spread inside labels, else of that
    label (drawn towards that of all where its cells are few). It is the mean of two such ratios: distance to the 5
    nearest reference cells of the label, and to the mean of all.

    Attributes
    ----------
    distances
        Reference cells of the whole head.
    units
        ``(n_classes, 2) float64`` distances that count as 1.
    confidence, novelty
        ``(m,) float64`` each, of the held-out cells that were labelled correctly; the thresholds are their quantiles.
    keep
        Fraction of them that keep their label by default.
    """

    distances: Distances
    units: Array
    confidence: Array
    novelty: Array
    keep: float

    def novelty_of(
        self, members: Sequence[Member], views: Mapping[str, Rows], codes: Array, *, selected: bool = True
    ) -> Array:
        """Return the novelty ``(n,) float64`` of cells that got the labels ``codes``; views as for ``measure``."""
        measured = self.distances.measure(members, views, codes, selected=selected)
        result: Array = (measured / self.units[codes]).mean(axis=1)
        return result

    def thresholds(self, rule: str, keep: float | None = None) -> Thresholds:
        """Return thresholds that the fraction ``keep`` of the correctly labelled held-out cells passes.

        With ``"both"`` a cell must pass both, and the two are equally strict: each alone would reject the same share.

        Raises
        ------
        OptionError
            If the rule is unknown or the fraction out of range.
        """
        check_rule(rule)
        keep = self.keep if keep is None else check_keep(keep)
        allowed = max_rejected(len(self.confidence), keep)
        confidence, novelty = np.sort(self.confidence), np.sort(self.novelty)[::-1]
        if rule == "none":
            return Thresholds()
        if rule == "confidence":
            return Thresholds(confidence=float(confidence[allowed]))
        if rule == "distance":
            return Thresholds(novelty=float(novelty[allowed]))
        # The strictest pair that rejects no more than allowed: the rejected cells only grow with the rank.
        low, high = 0, allowed
        while low < high:
            rank = (low + high + 1) // 2
            rejected = ((self.confidence < confidence[rank]) | (self.novelty > novelty[rank])).sum()
            low, high = (rank, high) if rejected <= allowed else (low, rank - 1)
        return Thresholds(float(confidence[low]), float(novelty[low]))

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, JSON]]:
        """Return named arrays and a JSON object; :meth:`from_arrays` takes them back."""
        arrays = {name: getattr(self, name) for name in ("units", "confidence", "novelty")}
        fitted = {rule: asdict(self.thresholds(rule)) for rule in RULES if rule != "none"}
        del fitted["confidence"]["novelty"], fitted["distance"]["confidence"]  # they reject nothing
        state = {"keep": self.keep, "views": list(self.distances.views), "thresholds": fitted}
        return {**arrays, **{f"distances.{name}": a for name, a in self.distances.to_arrays().items()}}, state

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], state: Mapping[str, Any], *, n_classes: int) -> Self:
        """Return the thresholds; :class:`DamagedError` where the arrays do not fit together."""
        inner = arrays_under(arrays, "distances.")
        distances = Distances.from_arrays(inner, views=[str(v) for v in state["views"]], n_classes=n_classes)
        confidence = take_array(arrays, "confidence", shape=(-1,))
        novelty = take_array(arrays, "novelty", shape=confidence.shape)
        units = take_array(arrays, "units", shape=(n_classes, 2))
        keep = state["keep"]
        if not len(confidence) or not (units > 0).all() or not isinstance(keep, float) or not 0 < keep <= 1:
            msg = "rejection: no held-out cells, units that are not positive, or an impossible keep. It is damaged."
            raise DamagedError(msg)
        return cls(distances, units, confidence, novelty, keep)


def check_rule(rule: str) -> None:
    """Refuse an unknown rule."""
    if rule not in RULES:
        suggestion = did_you_mean(str(rule), RULES, form="unassigned='{}'")
        msg = f"unassigned={rule!r}: must be one of {', '.join(RULES)}.{suggestion}"
        raise OptionError(msg)


def check_keep(keep: float) -> float:
    """Return the fraction to keep as a float; refuse one that is not more than 0 and at most 1."""
    if not 0 < keep <= 1:
        msg = f"keep={keep}: must be more than 0 and at most 1, such as 0.95 to reject one known cell in twenty."
        raise OptionError(msg)
    return float(keep)


def max_rejected(n: int, keep: float) -> int:
    """Return how many of n cells may be rejected so that the fraction ``keep`` passes."""
    return int(np.floor((1 - keep) * n + 1e-9))  # a hair for 0.95 * 20 being 19.000000000000004


def fit_rejection(
    members: Sequence[Member],
    views: Mapping[str, Rows],
    codes: Array,
    *,
    proba: Array,
    truth: Array,
    measured: Array,
    keep: float,
    rng: np.random.Generator,
) -> Rejection | None:
    """Fit thresholds on held-out cells; None where none of them was labelled correctly.

    ``members``, ``views``, ``codes`` and ``rng`` are as for :func:`~scstore.heads.distances.fit_distances`. Of the
    held-out cells, ``proba`` ``(m, n_classes)`` are calibrated, ``truth`` ``(m,)`` are the true classes, and
    ``measured`` ``(m, 2)`` the distances from the training cells of these by members that had not seen them.
    """
    right = proba.argmax(axis=1) == truth if len(truth) else np.zeros(0, dtype=bool)
    if not right.any():
        return None
    classes, distances = truth[right], measured[right]
    final = fit_distances(members, views, codes, rng=rng)

    def units(chosen: Array) -> Array:
        return _units(distances[chosen], classes[chosen], n_classes=proba.shape[1], pooled=final.whitened)

    # The units of one half serve the other: a quantile never lies among the cells from which it was computed.
    halves = np.array_split(rng.permutation(len(classes)), 2)
    novelty = np.empty(len(classes))
    for mine, others in (halves, halves[::-1]):
        novelty[mine] = (distances[mine] / units(others if len(others) else mine)[classes[mine]]).mean(axis=1)
    return Rejection(final, units(np.arange(len(classes))), proba[right].max(axis=1), novelty, check_keep(keep))


def _units(distances: Array, classes: Array, *, n_classes: int, pooled: bool) -> Array:
    """Return the distances ``(n_classes, 2)`` that count as 1."""
    units: Array = np.tile(np.quantile(distances, UNIT, axis=0), (n_classes, 1))
    for code in np.unique(classes).tolist() if not pooled else ():
        mine = distances[classes == code]
        weight = len(mine) / (len(mine) + SHRINK)
        units[code] = weight * np.quantile(mine, UNIT, axis=0) + (1 - weight) * units[code]
    result: Array = np.maximum(units, np.finfo(np.float32).tiny)
    return result
