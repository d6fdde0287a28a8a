"""Scoring the genes of one data set in one pass: how well they tell labels apart, or how much they vary unasked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore.cells.anova import ClassSums
from scstore.cells.variability import GroupMoments, excess_dropout
from scstore.errors import LabelsError

__all__ = [
    "Design",
    "GeneScore",
    "LabelScore",
    "VariationScore",
    "design_groups",
    "design_labels",
]

Array = NDArray[np.float64]

MIN_CELLS = 2
"""Of a label within a group: a gene of one cell alone would have an infinite F."""

MIN_GROUP_CELLS = 10
"""Of a group that votes without labels: fewer say nothing about variances."""


@dataclass(frozen=True, eq=False)
class Design:
    """Which cells of a data set are compared with which.

    Attributes
    ----------
    codes
        ``(n_cells,) int64``: number of the cell's class, a label within a group (or a group, without labels); -1 for a
        cell that is not compared.
    classes
        For each group that votes, the numbers of its classes.
    seen
        ``(n_cells,) bool``: whose labels were looked at.
    left_out
        Groups that cannot vote, sorted.
    """

    codes: NDArray[np.int64]
    classes: tuple[NDArray[np.int64], ...]
    seen: NDArray[np.bool_]
    left_out: tuple[str, ...]

    @property
    def n_classes(self) -> int:
        """How many classes there are."""
        return sum(map(len, self.classes))


def design_labels(
    labels: Sequence[str | None], groups: Sequence[str | None] | None = None, *, label: str, source: str
) -> Design:
    """Compare the labels of cells within each group.

    Parameters
    ----------
    labels
        ``(n_cells,)``; ``None`` where a cell has none.
    groups
        ``(n_cells,)`` donor or batch of each cell, ``None`` where unknown (the cell is left out); ``None`` for one
        group of all.
    label, source
        The column's and the data set's name, for messages.

    Raises
    ------
    LabelsError
        If no group has two labels of two cells each.
    """
    known = [value is not None for value in labels]
    of_group = [""] * len(labels) if groups is None else groups
    pairs = [
        (group, value) if present and group is not None else None
        for group, value, present in zip(of_group, labels, known, strict=True)
    ]
    enough = sorted(pair for pair, n in Counter(pairs).items() if pair is not None and n >= MIN_CELLS)
    n_labels = Counter(group for group, _ in enough)
    used = [pair for pair in enough if n_labels[pair[0]] > 1]
    everyone = {group for group in of_group if group is not None}
    voting = sorted({group for group, _ in used})
    if not used:
        most = max(n_labels.values(), default=0)
        within = "" if groups is None else " within one group"
        msg = (
            f"{source}: column {label!r} has {most} label(s) of two cells or more{within}. A panel tells at least two "
            "apart."
        )
        raise LabelsError(msg)
    number = {pair: i for i, pair in enumerate(used)}
    return Design(
        codes=np.array([-1 if pair is None else number.get(pair, -1) for pair in pairs], dtype=np.int64),
        classes=tuple(np.array([number[pair] for pair in used if pair[0] == group]) for group in voting),
        seen=np.array([pair is not None and pair[0] in voting for pair in pairs]),
        left_out=tuple(sorted(everyone - set(voting))),
    )


def design_groups(groups: Sequence[str | None] | None, *, n_cells: int, source: str) -> Design:
    """Let all cells vote without labels, each group by itself.

    Raises
    ------
    LabelsError
        If no group has ten cells.
    """
    of_group = [""] * n_cells if groups is None else groups
    n_members = Counter(group for group in of_group if group is not None)
    voting = sorted(group for group, n in n_members.items() if n >= MIN_GROUP_CELLS)
    if not voting:
        msg = f"{source}: no group of {MIN_GROUP_CELLS} cells or more. Genes cannot be judged without labels on so few."
        raise LabelsError(msg)
    number = {group: i for i, group in enumerate(voting)}
    return Design(
        codes=np.array([-1 if group is None else number.get(group, -1) for group in of_group], dtype=np.int64),
        classes=tuple(np.array([i]) for i in range(len(voting))),
        seen=np.zeros(n_cells, dtype=bool),
        left_out=tuple(sorted(set(n_members) - set(voting))),
    )


class GeneScore(Protocol):
    """A score of genes that is worked out block by block."""

    def add(self, start: int, block: csr_matrix) -> None:
        """Add cells ``start`` and following: ``(b, n_genes)`` log-normalised expression."""

    def values(self) -> Array:
        """``(n_genes,)``, high for genes that should be in a panel; NaN for those that must not be."""


class LabelScore:
    """One-way ANOVA F of the log-normalised expression; within groups, that of :meth:`ClassSums.grouped_f_values`.

    Parameters
    ----------
    design
        From :func:`design_labels`.
    n_genes
        Genes of every block.
    """

    def __init__(self, design: Design, n_genes: int) -> None:
        self._design = design
        self._sums = ClassSums(design.n_classes, n_genes)

    def add(self, start: int, block: csr_matrix) -> None:
        """Add cells ``start`` and following: ``(b, n_genes)`` log-normalised expression."""
        codes = self._design.codes[start : start + block.shape[0]]
        known = np.flatnonzero(codes >= 0)
        self._sums.add(block[known], codes[known])

    def values(self) -> Array:
        """F of each gene; NaN where no cell that was compared expresses it."""
        f_values = self._sums.grouped_f_values(self._design.classes)
        return np.where(self._sums.sums.any(axis=0), f_values, np.nan)


class VariationScore:
    """Excess dropout of each group's cells; the mean over the groups.

    In a group where a gene cannot be judged it counts as average (0).

    Parameters
    ----------
    design
        From :func:`design_groups`.
    n_genes
        Genes of every block.
    """

    def __init__(self, design: Design, n_genes: int) -> None:
        self._design = design
        self._moments = GroupMoments(design.n_classes, n_genes)

    def add(self, start: int, block: csr_matrix) -> None:
        """Add cells ``start`` and following: ``(b, n_genes)`` log-normalised expression."""
        codes = self._design.codes[start : start + block.shape[0]]
        known = np.flatnonzero(codes >= 0)
        self._moments.add(block[known], codes[known])

    def values(self) -> Array:
        """Score of each gene; NaN where no group can judge it."""
        moments = self._moments
        total, n_judges = np.zeros(len(moments.expressed)), np.zeros(len(moments.expressed), dtype=np.int64)
        for group in range(self._design.n_classes):
            mean, variance = moments.mean(group), moments.variance(group)
            score = excess_dropout(mean, variance, moments.detection(group))
            judged = np.isfinite(score)
            total[judged] += score[judged]
            n_judges += judged
        return np.where(n_judges > 0, total / self._design.n_classes, np.nan)
