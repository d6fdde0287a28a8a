"""What held-out training cells show of a head, with all genes and where some are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from scstore.heads.base import State, require, take_arrays
from scstore.heads.calibration import TINY, Fusion
from scstore.heads.linear import ExpressionHead
from scstore.heads.preprocessing import EXPRESSION, GeneEstimate, Member, Views, selected_genes
from scstore.heads.rejection import fit_distances
from scstore.heads.rows import Array, Rows, RowSubset, materialise
from scstore.heads.scores import NOT_LEARNED, n_surest, widened

# Shares of the genes taken away, each at random and from the lowest expressed, which are the specific ones; at last all
# genes but one, so that no file knows less than what was measured.
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.0)
KEPT = 256  # correctly labelled held-out cells that a case keeps for its thresholds, at most
# Share of the labels that stand which is to be right on held-out cells: the more the less is known, since cells of
# another laboratory then differ more from them.
TRUSTED, TRUSTED_UNKNOWN = 0.95, 0.12
# Accuracy of held-out cells below which cells that lack as much are refused by default.
MIN_ACCURACY = 0.8
FIELDS = ("known", "accuracy", "temperature", "confidence", "novelty")


def measured_cases(mean: Array, rng: np.random.Generator, shares: Sequence[float] = SHARES) -> Iterator[Array]:
    """Yield which of the genes with these means are measured in each case, ``(g,) bool``; in the first all are."""
    n = len(mean)
    yield np.ones(n, dtype=bool)
    for share in shares:
        taken = min(round(share * n), n - 1)
        for order in (rng.permutation(n), np.argsort(mean, kind="stable")):
            measured = np.ones(n, dtype=bool)
            measured[order[:taken]] = False
            yield measured


def gene_importance(member: Member) -> Array:
    """Return how much labels depend on each gene, ``(g,)``: by weights, or by the variance that components hold."""
    reducer, head = member.reducer, member.head
    assert reducer is not None  # noqa: S101  # expression has one
    if isinstance(head, ExpressionHead):
        return head.importance(reducer.scale)
    return np.asarray((reducer.axes.T**2 @ reducer.spread).clip(TINY))


def share_known(estimate: GeneEstimate, importance: Array) -> float:
    """Return the share of the genes' importance ``(g,)`` that is measured, or explained by what is measured."""
    lost = importance[~estimate.measured] @ (1 - estimate.explained)
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
class HeldOut:
    """Of held-out cells ``(m,)`` the class, log-probabilities by view, distance from that class, and missing genes."""

    truth: Array
    log_probas: dict[str, Array]
    distances: Array
    cases: list[HeldOutCase]


def hold_out(
    views: Views,
    *,
    codes: Array,
    folds: Sequence[tuple[Array, Array]],
    fit: Callable[[Views, Array], Mapping[str, Member]],
    n_classes: int,
    with_distances: bool,
    seed: int,
) -> HeldOut:
    """Fit on the rows outside each fold, everything included, and predict the rows inside."""
    truth, distances = [np.zeros(0, dtype=np.int64)], [np.empty(0)]
    cases: list[list[HeldOutCase]] = []
    log_probas = {name: [np.empty((0, n_classes))] for name in views}
    for outside, inside in folds:
        learned = np.unique(codes[outside])
        sides = [{name: RowSubset(view, part) for name, view in views.items()} for part in (outside, inside)]
        members = fit(sides[0], codes[outside])
        known, left = (selected_genes(members, side) for side in sides)
        truth.append(codes[inside])
        for name, member in members.items():
            log_probas[name].append(widened(member.log_proba(left[name]), learned, n_classes, least=NOT_LEARNED))
        if not with_distances:
            continue
        own, mine = (np.searchsorted(learned, codes[part]) for part in (outside, inside))
        space = fit_distances(members, known, own, rng=np.random.default_rng(seed))
        distances.append(space.measure(members, left, mine))
        if EXPRESSION in members:
            cases.append([])
            for share, rows in _estimated(members[EXPRESSION], left[EXPRESSION], seed=seed):
                log_proba = widened(members[EXPRESSION].log_proba(rows), learned, n_classes, least=NOT_LEARNED)
                far = space.measure(members, {EXPRESSION: rows}, mine)
                cases[-1].append(HeldOutCase(share, log_proba, far))
    by_view = {name: np.concatenate(parts) for name, parts in log_probas.items()}
    joined = [HeldOutCase.join(parts) for parts in zip(*cases, strict=True)]
    return HeldOut(np.concatenate(truth), by_view, np.concatenate(distances), joined)


def _estimated(member: Member, rows: Rows, *, seed: int) -> Iterator[tuple[float, Rows]]:
    """Yield what is known in each case, and expression of which the missing genes are estimated."""
    reducer = member.reducer
    assert reducer is not None  # noqa: S101  # expression has one
    values, importance = materialise(rows), gene_importance(member)
    for measured in measured_cases(reducer.mean, np.random.default_rng(seed)):
        estimate = reducer.estimate(measured)
        yield share_known(estimate, importance), estimate.over(values)


@dataclass(frozen=True, eq=False)
class MissingCase:
    """What held-out cells showed at about one share of known expression; ``(m,)`` are of those labelled correctly."""

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
        accuracy, temperature = float(self.accuracy[row]), float(self.temperature[row])
        return MissingCase(known, accuracy, temperature, self.confidence[row], self.novelty[row])

    @classmethod
    def fit(cls, cases: Sequence[HeldOutCase], truth: Array, fusion: Fusion, *, units: Array) -> Self | None:
        """Measure the cases on held-out cells, each with a temperature of its own; None where none is ever right."""
        rows = []
        for case in cases:
            mine = fusion.calibrated([case.log_proba], truth)
            proba = mine.proba([case.log_proba])
            said = proba.argmax(axis=1) == truth
            right = np.flatnonzero(said)
            if not len(right):
                continue
            # the same number of each case, evenly spaced over the cells: quantiles stay about what they are
            kept = right[np.linspace(0, len(right) - 1, KEPT).round().astype(np.int64)]
            surest = proba.max(axis=1)
            n_trusted = n_surest(surest, said, right=min(0.99, TRUSTED + TRUSTED_UNKNOWN * (1 - case.known)))
            trusted = np.sort(surest)[-n_trusted] if n_trusted else 1.0
            confidence = np.maximum(surest[kept], trusted)
            novelty = case.distances[kept] / units[truth[kept]]
            rows.append((case.known, len(right) / len(truth), mine.temperature, confidence, novelty))
        if not rows:
            return None
        rows.sort(key=lambda row: row[0])
        parts = {name: np.array(part) for name, part in zip(FIELDS, zip(*rows, strict=True), strict=True)}
        # no better than where more is known: of two cases that know about as much, the worse counts
        parts["accuracy"] = np.minimum.accumulate(parts["accuracy"][::-1])[::-1].copy()
        return cls(**parts)

    def to_state(self) -> State:
        """Return the cases as arrays; :meth:`from_state` takes them back."""
        return dict(vars(self))

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the cases; :class:`DamagedError` where they do not fit together."""
        shapes = dict(zip(FIELDS, ("r", "r", "r", "rm", "rm"), strict=True))
        cases = cls(**take_arrays(state, shapes))
        sound = len(cases.known) and (np.diff(cases.known) >= 0).all() and (cases.temperature > 0).all()
        sound = sound and cases.known[-1] <= 1 and ((cases.accuracy >= 0) & (cases.accuracy <= 1)).all()
        require(sound, "missing: its cases are not in order.")
        return cases
