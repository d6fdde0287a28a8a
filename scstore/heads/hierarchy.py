"""Labels of several levels, coarse to fine: a coarse label is as probable as the fine ones in it together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from scstore.errors import DamagedError
from scstore.heads.base import JSON, take_array
from scstore.heads.rejection import may_fail
from scstore.heads.rows import Array

__all__ = ["Hierarchy", "Level"]


@dataclass(frozen=True, eq=False)
class Level:
    """A level above the classes.

    Attributes
    ----------
    column
        Its name.
    labels
        ``(n_labels,)`` sorted text.
    parents
        ``(n_classes,) int64``: the label that each class lies in.
    confidence
        ``(m,) float64``, ascending: probabilities of the held-out cells that got the right label of this level.
    """

    column: str
    labels: Array
    parents: Array
    confidence: Array

    def sums(self, proba: Array) -> Array:
        """Probabilities of this level's labels ``(n, n_labels)`` from those of the classes ``(n, n_classes)``."""
        member = np.zeros((len(self.parents), len(self.labels)))
        member[np.arange(len(self.parents)), self.parents] = 1
        result: Array = proba @ member
        return result

    def threshold(self, keep: float) -> float:
        """The confidence that this share of the rightly labelled held-out cells reaches; infinity without any."""
        n = len(self.confidence)
        return float(self.confidence[may_fail(n, keep)]) if n else np.inf


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """The levels above a head's classes. Every label lies in one label of each coarser level.

    Attributes
    ----------
    column
        Name of the classes' own level, the finest.
    levels
        Those above, coarse to fine; at least one.
    """

    column: str
    levels: tuple[Level, ...]

    @classmethod
    def fit(
        cls, column: str, parents: Mapping[str, Mapping[str, str]], *, classes: Array, proba: Array, truth: Array
    ) -> Self:
        """The hierarchy of a trained head.

        Parameters
        ----------
        column
            Of the classes.
        parents
            For each coarser column, coarse to fine, the label that each class lies in.
        classes
            ``(n_classes,)`` labels.
        proba, truth
            ``(m, n_classes)`` calibrated probabilities of held-out cells and their true classes ``(m,)``.
        """
        levels = []
        for name, of_class in parents.items():
            labels, codes = np.unique([of_class[str(label)] for label in classes], return_inverse=True)
            bare = Level(name, labels, codes.astype(np.int64), np.empty(0))
            sums = bare.sums(proba)
            right = sums.argmax(axis=1) == bare.parents[truth] if len(truth) else np.zeros(0, dtype=bool)
            levels.append(Level(name, labels, bare.parents, np.sort(sums[right].max(axis=1, initial=0))))
        return cls(column, tuple(levels))

    def choose(self, proba: Array) -> Array:
        """The class of each cell, ``(n,) int64``: inside the best label of the coarsest level, of the next, and so on.

        It is nearly always the most probable class. Where several classes of one coarse label share what a single
        class of another has, the coarse label is the safer answer, and the class follows it.
        """
        left = np.array(proba, dtype=np.float64)
        for level in self.levels:
            best = level.sums(left).argmax(axis=1) if len(left) else np.zeros(0, dtype=np.int64)
            left[level.parents[None, :] != best[:, None]] = -1  # a class of probability 0 may still be chosen
        result: Array = left.argmax(axis=1) if len(left) else np.zeros(0, dtype=np.int64)
        return result

    def to_arrays(self, classes: Array) -> tuple[dict[str, Array], JSON]:
        """Named arrays and a JSON object; :meth:`from_arrays` takes them back."""
        arrays = {f"confidence.{place}": level.confidence for place, level in enumerate(self.levels)}
        names = [str(name) for name in classes]
        levels = [
            {
                "column": level.column,
                "parents": dict(zip(names, [str(level.labels[code]) for code in level.parents], strict=True)),
            }
            for level in self.levels
        ]
        return arrays, {"column": self.column, "levels": levels}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], state: Mapping[str, Any], *, classes: Array) -> Self:
        """What :meth:`to_arrays` gave; :class:`DamagedError` where the two do not fit."""
        levels = []
        for place, described in enumerate(state["levels"]):
            parents = [str(described["parents"][str(name)]) for name in classes]
            labels, codes = np.unique(np.array(parents, dtype=str), return_inverse=True)
            confidence = take_array(arrays, f"confidence.{place}", shape=(-1,))
            levels.append(Level(str(described["column"]), labels, codes.astype(np.int64), confidence))
        finer = [*(level.parents for level in levels[1:]), np.arange(len(classes))]
        nested = bool(levels) and all(
            len({*zip(fine.tolist(), level.parents.tolist(), strict=True)}) == len(np.unique(fine))
            for level, fine in zip(levels, finer, strict=True)
        )
        if not nested or any((np.diff(level.confidence) < 0).any() for level in levels):
            msg = "hierarchy: its levels are none, not nested, or their confidences not in order. The head is damaged."
            raise DamagedError(msg)
        return cls(str(state["column"]), tuple(levels))
