"""What a head can still tell where genes are missing, measured on its held-out training cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from scstore.heads.base import State, require, take_arrays
from scstore.heads.calibration import Fusion, fit_temperature
from scstore.heads.linear import LinearHead
from scstore.heads.member import Member
from scstore.heads.preprocessing import ExpressionReducer
from scstore.heads.rows import Array

# Shares of the genes taken away, each at random and from the lowest expressed, which are the specific ones.
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
N_CASES = 1 + 2 * len(SHARES)
# Correctly labelled held-out cells that a case keeps for its thresholds, at most.
KEPT = 256
TINY = float(np.finfo(np.float64).tiny)


def measured_cases(mean: Array, rng: np.random.Generator) -> Iterator[Array]:
    """Yield which of the genes with these means are measured in each case, ``(g,) bool``; in the first all are."""
    n = len(mean)
    yield np.ones(n, dtype=bool)
    for share in SHARES:
        taken = min(round(share * n), n - 1)
        for order in (rng.permutation(n), np.argsort(mean, kind="stable")):
            measured = np.ones(n, dtype=bool)
            measured[order[:taken]] = False
            yield measured


def gene_importance(member: Member) -> Array:
    """Return how much the labels of a member on expression depend on each of its genes, ``(g,) float64``.

    For a regression the mean absolute weight over the classes times the gene's spread; for other heads the share of
    its variance that the components hold.
    """
    reducer, head = member.reducer, member.head
    assert reducer is not None  # noqa: S101  # expression has one
    if isinstance(head, LinearHead) and not reducer.n_components:
        return np.asarray(np.abs(head.coef_).mean(axis=0) * reducer.scale)
    return np.asarray((reducer.axes.T**2 @ reducer.spread).clip(TINY))


def share_known(reducer: ExpressionReducer, importance: Array, measured: Array) -> float:
    """Return the share of the genes' importance ``(g,)`` that is measured, or explained by what is measured."""
    if measured.all():
        return 1.0
    lost = importance[~measured] @ (1 - reducer.estimate(measured).explained)
    return float(1 - lost / max(importance.sum(), TINY))


@dataclass(frozen=True, eq=False)
class HeldOutCase:
    """Share known; of held-out cells log-probabilities ``(m, n_classes)`` of expression and distances ``(m,)``."""

    known: float
    log_proba: Array
    distances: Array

    @classmethod
    def join(cls, parts: Sequence[HeldOutCase]) -> Self:
        """Return the case over several folds."""
        sizes = [len(part.distances) for part in parts]
        known = float(np.average([part.known for part in parts], weights=sizes))
        return cls(known, np.concatenate([p.log_proba for p in parts]), np.concatenate([p.distances for p in parts]))


@dataclass(frozen=True, eq=False)
class MissingCase:
    """What held-out cells showed at about one share of known expression.

    ``confidence`` and ``novelty`` ``(m,)`` are those of correctly labelled cells.
    """

    known: float
    accuracy: float
    temperature: float
    confidence: Array
    novelty: Array


@dataclass(frozen=True, eq=False)
class MissingGenes:
    """Cases ordered by what is known ``(r,)``, ascending; ``confidence`` and ``novelty`` are ``(r, m)``."""

    known: Array
    accuracy: Array
    temperature: Array
    confidence: Array
    novelty: Array

    def at(self, known: float) -> MissingCase:
        """Return the case of the largest share that is not above ``known``, or the first."""
        row = max(0, int(np.searchsorted(self.known, known + 1e-9, side="right")) - 1)
        values = (self.accuracy[row], self.temperature[row])
        return MissingCase(known, *map(float, values), self.confidence[row], self.novelty[row])

    @classmethod
    def fit(cls, cases: Sequence[HeldOutCase], truth: Array, fusion: Fusion, *, units: Array) -> Self | None:
        """Measure the cases on held-out cells of the classes ``truth`` ``(n,)``; None where none is ever right.

        ``fusion`` is that of expression alone; each case gets a temperature of its own in its place. ``units`` are the
        distances that count as a novelty of 1.
        """
        rows = []
        for case in cases:
            uncalibrated = replace(fusion, temperature=1.0).proba([case.log_proba])
            temperature = fit_temperature(np.log(np.maximum(uncalibrated, TINY)), truth)
            proba = replace(fusion, temperature=temperature).proba([case.log_proba])
            right = np.flatnonzero(proba.argmax(axis=1) == truth)
            if not len(right):
                continue
            # the same number of each case, evenly spaced over the cells: quantiles stay about what they are
            kept = right[np.linspace(0, len(right) - 1, KEPT).round().astype(np.int64)]
            novelty = case.distances[kept] / units[truth[kept]]
            rows.append((case.known, len(right) / len(truth), temperature, proba[kept].max(axis=1), novelty))
        if not rows:
            return None
        rows.sort(key=lambda row: row[0])
        known, accuracy, temperature, confidence, novelty = (np.array(part) for part in zip(*rows, strict=True))
        # no better than where more is known: of two cases that know about as much, the worse counts
        return cls(known, np.minimum.accumulate(accuracy[::-1])[::-1].copy(), temperature, confidence, novelty)

    def to_state(self) -> State:
        """Return the cases as arrays; :meth:`from_state` takes them back."""
        return dict(vars(self))

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the cases; :class:`DamagedError` where they do not fit together."""
        shapes = {"known": "r", "accuracy": "r", "temperature": "r", "confidence": "rm", "novelty": "rm"}
        cases = cls(**take_arrays(state, shapes))
        sound = len(cases.known) and (np.diff(cases.known) >= 0).all() and (cases.temperature > 0).all()
        require(sound, "missing: its cases are not in order.")
        return cases
