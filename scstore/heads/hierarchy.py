"""Labels read off probabilities, on one level or several: a coarse label sums the probabilities of its fine ones."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from scstore.heads.base import State, loading, require, take_arrays
from scstore.heads.rejection import max_rejected
from scstore.heads.rows import Array


@dataclass(frozen=True, eq=False)
class LabelledCells:
    """Label, probability, best other label and lead over that, ``(n,)`` each: negative if a coarser one overruled."""

    label: Array
    confidence: Array
    second: Array
    margin: Array


def label_cells(proba: Array, classes: Array, *, chosen: Array | None = None) -> LabelledCells:
    """Label cells by probabilities ``(n, n_classes)``: as ``chosen`` ``(n,)``, else the most probable class."""
    best = proba.argmax(axis=1) if chosen is None else chosen
    rows = np.arange(len(proba))
    others = proba.copy()
    others[rows, best] = -np.inf
    first, names = proba[rows, best], np.asarray(classes)
    return LabelledCells(names[best], first, names[others.argmax(axis=1)], first - others.max(axis=1, initial=-np.inf))


@dataclass(frozen=True, eq=False)
class Level:
    """A label column: sorted ``labels``, the one over each class, ascending confidence of held-out cells got right."""

    column: str
    labels: Array
    parents: Array
    confidence: Array

    def sums(self, proba: Array) -> Array:
        """Return the labels' probabilities ``(n, n_labels)`` from those of the classes ``(n, n_classes)``."""
        member = np.zeros((len(self.parents), len(self.labels)))
        member[np.arange(len(self.parents)), self.parents] = 1
        return proba @ member

    def threshold(self, keep: float) -> float:
        """Return the confidence that this fraction of the correctly labelled held-out cells reaches; else infinity."""
        n = len(self.confidence)
        return float(self.confidence[max_rejected(n, keep)]) if n else np.inf


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """The levels above a head's classes, coarse to fine and nested, and the ``column`` of the classes."""

    column: str
    levels: tuple[Level, ...]

    @classmethod
    def fit(
        cls, column: str, parents: Mapping[str, Mapping[str, str]], *, classes: Array, proba: Array, truth: Array
    ) -> Self:
        """Make it from the label over each class by column, coarse to fine, and from held-out cells."""
        levels = []
        for name, of_class in parents.items():
            labels, codes = np.unique([of_class[str(label)] for label in classes], return_inverse=True)
            level = Level(name, labels, codes.astype(np.int64), np.empty(0))
            sums = level.sums(proba)
            right = sums.argmax(axis=1) == level.parents[truth]
            levels.append(replace(level, confidence=np.sort(sums[right].max(axis=1, initial=0))))
        return cls(column, tuple(levels))

    def choose(self, proba: Array) -> Array:
        """Return the class of each cell, ``(n,)``: inside the best label of the coarsest level, then of the next."""
        # Nearly always the most probable class. Where classes share their coarse label's mass, that label is the safer.
        left = np.array(proba, dtype=np.float64)
        for level in self.levels:
            best = level.sums(left).argmax(axis=1)
            left[level.parents[None, :] != best[:, None]] = -1  # a class of probability 0 may still be chosen
        return np.asarray(left.argmax(axis=1))

    def to_state(self) -> State:
        """Return nested JSON values and arrays; :meth:`from_state` takes them back."""
        levels = [{**vars(level), "labels": level.labels.tolist()} for level in self.levels]
        return {"column": self.column, "levels": levels}

    @classmethod
    @loading()
    def from_state(cls, state: Mapping[str, Any], *, n_classes: int) -> Self:
        """Return the hierarchy; :class:`DamagedError` where the parts do not fit together."""
        levels = []
        for saved in state["levels"]:
            labels = np.array([str(label) for label in saved["labels"]])
            arrays = take_arrays(saved, {"parents": "c", "confidence": "m"}, integers=("parents",), c=n_classes)
            require((np.diff(arrays["confidence"]) >= 0).all(), "hierarchy: its confidences are not sorted.")
            every = np.array_equal(np.unique(arrays["parents"]), np.arange(len(labels)))
            require(every, "hierarchy: its classes lie in other labels than it names.")
            levels.append(Level(str(saved["column"]), labels, **arrays))
        finer = [*(level.parents for level in levels[1:]), np.arange(n_classes)]
        nested = bool(levels) and all(
            len({*zip(fine.tolist(), level.parents.tolist(), strict=True)}) == len(np.unique(fine))
            for level, fine in zip(levels, finer, strict=True)
        )
        require(nested, "hierarchy: its levels are missing or not nested.")
        return cls(str(state["column"]), tuple(levels))
