"""The linear head of expression: two logistic regressions on unlike forms of the same genes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np

from scstore.heads.base import RowClassifier, State, require
from scstore.heads.linear import LinearHead
from scstore.heads.preprocessing import marker_count
from scstore.heads.rows import MEMORY_LIMIT, Array, MappedRows, Rows, to_dense
from scstore.heads.training import log_softmax

EXPRESSION_C = 30.0
# C of the markers over that of all genes: 5, or scikit-learn's C of 0.05 on 100 standardised columns.
MARKER_C = 1 / 6
# Weight of the markers' log-probabilities; the rest is that of all genes.
MARKER_WEIGHT = 1 / 3


@dataclass(eq=False, repr=False)
class ExpressionHead(RowClassifier):
    """Logistic regression on all genes of each cell at unit length, and on the standardised markers, averaged.

    They err on different cells. Unit length takes out a cell's depth; standardising lends weight to the markers of
    rare classes. Of the log-probabilities a third is the markers': benchmarks/transfer.py.

    Parameters
    ----------
    C
        Inverse strength of the penalty of the first; a sixth of it is that of the second. Or ``"auto"`` for both.
    class_weight, solver, epochs, memory_limit, random_state
        As for :class:`~scstore.heads.linear.LinearHead`.

    Attributes
    ----------
    classes_, n_features_in_
        ``(n_classes,)`` labels, sorted; columns of the training rows.
    all_, markers_
        The two regressions.
    """

    C: float | str = EXPRESSION_C
    _: KW_ONLY
    class_weight: Any = None
    solver: str = "auto"
    epochs: int = 5
    memory_limit: int = MEMORY_LIMIT
    random_state: Any = 0

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Learn from log-normalised expression ``(n, d)`` and labels ``(n,)``; ``groups`` as for a linear head."""
        rows, _ = self._begin(X, y)
        options = {name: value for name, value in self.get_params().items() if name != "C"}
        fewer = self.C if isinstance(self.C, str) else self.C * MARKER_C
        self.all_ = LinearHead(self.C, standardize=False, **options).fit(_unit_rows(rows), y, groups)
        self.markers_ = LinearHead(fewer, **options).fit(self._marker_rows(rows), y, groups)
        return self

    def _marker_rows(self, rows: Rows) -> Rows:
        width = self._n_markers
        return MappedRows(rows, lambda block: to_dense(block)[:, :width], width=width)

    @property
    def _n_markers(self) -> int:
        return min(marker_count(len(self.classes_)), self.n_features_in_)

    def training_note(self) -> str:
        """Return one line that says how the head was trained."""
        parts = ((self.n_features_in_, "genes", self.all_), (self.markers_.n_features_in_, "markers", self.markers_))
        return "; ".join(f"{n} {what}: {head.training_note()}" for n, what, head in parts)

    def _log_proba(self, block: Array) -> Array:
        markers = self.markers_.predict_log_proba(block[:, : self.markers_.n_features_in_])
        every = self.all_.predict_log_proba(unit_length(block))
        return log_softmax((1 - MARKER_WEIGHT) * every + MARKER_WEIGHT * markers)

    def importance(self, scale: Array) -> Array:
        """Return how much labels depend on each gene, ``(d,)``: mean absolute weights times the spread ``scale``."""
        total = np.zeros(self.n_features_in_)
        for weight, head in ((1 - MARKER_WEIGHT, self.all_), (MARKER_WEIGHT, self.markers_)):
            mean = np.abs(head.coef_).mean(axis=0) * scale[: head.n_features_in_]
            total[: len(mean)] += weight * mean / max(float(mean.sum()), np.finfo(np.float64).tiny)
        return total

    def _learned(self) -> State:
        return {"all": self.all_.to_state(), "markers": self.markers_.to_state()}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.all_, self.markers_ = (LinearHead.from_state(state[part]) for part in ("all", "markers"))
        same = all(part.classes_.tolist() == self.classes_.tolist() for part in (self.all_, self.markers_))
        widths = (self.all_.n_features_in_, self.markers_.n_features_in_)
        fits = widths == (self.n_features_in_, self._n_markers)
        require(same and fits, "ExpressionHead: its two regressions have other classes or genes.")


def unit_length(values: Array) -> Array:
    """Return rows ``(b, d) float32`` divided by their lengths; rows of zeros as they are."""
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    return (values / np.where(lengths > 0, lengths, 1.0)[:, None]).astype(np.float32)


def _unit_rows(rows: Rows) -> MappedRows:
    return MappedRows(rows, lambda block: unit_length(to_dense(block)), width=rows.shape[1])
