"""Scores of genes from one pass over each input, and the one order that several rankings give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore.cells.anova import ClassSums
from scstore.cells.variability import GroupMoments, excess_dropout
from scstore.panels.comparison import Comparisons, Design
from scstore.panels.inputs import PanelInput
from scstore.panels.joined_genes import JoinedGenes
from scstore.progress import Reporter

__all__ = ["GeneScore", "ScoredGenes", "score_genes", "take_in_turn"]

Scores = NDArray[np.float64]

SUMS_BYTES = 1 << 30
"""Memory for sums per class and gene; where they need more, the cells are read several times, some genes at a time."""

WITHOUT_LABELS = "without labels"
"""Name of a ranking that has no label column."""


class GeneScore:
    """Score of each gene, block by block: high for genes that should be in a panel.

    With labels, the F of :meth:`ClassSums.grouped_f_values`. Without (``by_labels=False``), excess dropout, the mean
    over the groups; in a group that does not score a gene it counts as average (0).
    """

    def __init__(self, design: Design, n_genes: int, *, by_labels: bool) -> None:
        self._design = design
        self._sums = ClassSums(design.n_classes, n_genes) if by_labels else GroupMoments(design.n_classes, n_genes)

    def add(self, start: int, block: csr_matrix) -> None:
        """Add cells ``start`` and following: ``(b, n_genes)`` log-normalised expression."""
        codes = self._design.codes[start : start + block.shape[0]]
        known = np.flatnonzero(codes >= 0)
        self._sums.add(block[known], codes[known])

    def values(self) -> Scores:
        """Return ``(n_genes,)`` scores; NaN for a gene that no compared cell expresses, or that no group scores."""
        sums = self._sums
        if isinstance(sums, ClassSums):
            return np.where(sums.sums.any(axis=0), sums.grouped_f_values(self._design.classes), np.nan)
        scores = np.array(
            [
                excess_dropout(sums.mean(group), sums.variance(group), sums.detection(group))
                for group in range(self._design.n_classes)
            ]
        )
        scored = np.isfinite(scores)
        return np.where(scored.any(axis=0), np.where(scored, scores, 0).mean(axis=0), np.nan)


@dataclass(frozen=True, eq=False)
class ScoredGenes:
    """Scores of the genes of all inputs.

    Attributes
    ----------
    rankings
        By name ``(n_genes,)`` scores, NaN for a gene that is not ranked.
    origins
        Input, label column and groups of each ranking, as JSON.
    ranks
        ``(n_rankings, n_genes)``: 1 for the best gene of a ranking, NaN for one that it does not rank.
    order
        Numbers of the genes that have a rank, best first.
    """

    rankings: Mapping[str, Scores]
    origins: tuple[Mapping[str, Any], ...]
    ranks: Scores
    order: NDArray[np.int64]


def score_genes(
    inputs: Sequence[PanelInput], comparisons: Comparisons, genes: JoinedGenes, *, progress: Reporter
) -> ScoredGenes:
    """Read every input and score its genes for each of its designs."""
    rankings: dict[str, Scores] = {}
    origins: list[Mapping[str, Any]] = []
    for i, (one, designs) in enumerate(zip(inputs, comparisons, strict=True)):
        for label, values in _read(one, designs, progress).items():
            name = label or WITHOUT_LABELS
            key = _key(name if len(inputs) == 1 else f"{name} ({one.name})", rankings)
            rankings[key] = genes.spread(values, i)
            origins.append(
                {
                    "ranking": key,
                    "input": one.name,
                    "label": label or None,
                    "groups": len(designs[label].classes),
                    "groups_left_out": list(designs[label].left_out),
                }
            )
    names = list(genes.obs.index)
    ranks = np.array([rank_scores(scores, names) for scores in rankings.values()])
    return ScoredGenes(rankings, tuple(origins), ranks, take_in_turn(ranks, names))


def _read(one: PanelInput, designs: Mapping[str, Design], progress: Reporter) -> dict[str, Scores]:
    n_genes = width = len(one.names)
    if "" not in designs:
        width = max(1, SUMS_BYTES // (16 * sum(design.n_classes for design in designs.values())))
    spans = [slice(first, min(first + width, n_genes)) for first in range(0, n_genes, width)]
    found: dict[str, list[Scores]] = {label: [] for label in designs}
    with progress.track(f"reading {one.name}", one.cells.n_cells * len(spans), "cells") as track:
        for span in spans:
            scores = {
                label: GeneScore(design, span.stop - span.start, by_labels=bool(label))
                for label, design in designs.items()
            }
            for start, block in one.expression():
                for score in scores.values():
                    score.add(start, block if len(spans) == 1 else block[:, span])
                track.advance(block.shape[0])
            for label, score in scores.items():
                found[label].append(score.values())
    return {label: np.concatenate(parts) for label, parts in found.items()}


def _key(name: str, taken: Mapping[str, Scores]) -> str:
    """Return a column name for a ranking; HDF5 takes / for a folder."""
    begin = name.replace("/", "|")
    key, number = begin, 1
    while key in taken:
        number += 1
        key = f"{begin} {number}"
    return key


def rank_scores(scores: Scores, names: Sequence[str]) -> Scores:
    """Return ranks ``(n_genes,)``: 1 for the best gene, NaN where the score is; ties in the order of unique names."""
    order = np.lexsort((np.asarray(names, dtype=str), -np.where(np.isnan(scores), -np.inf, scores)))
    order = order[~np.isnan(scores[order])]
    ranks = np.full(len(scores), np.nan)
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks


def take_in_turn(ranks: Scores, names: Sequence[str]) -> NDArray[np.int64]:
    """Return the genes of several rankings in one order: by the best rank that a gene has in any of them.

    Ties by the mean rank over the rankings that have the gene, then by name. The first n genes hold the first ⌊n / k⌋
    of each of the k rankings; the order of the rankings does not matter. ``ranks`` is ``(k, n_genes)``.
    """
    has: NDArray[np.bool_] = ~np.isnan(ranks)
    best = np.where(has, ranks, np.inf).min(axis=0)
    mean = np.where(has, ranks, 0).sum(axis=0) / np.maximum(has.sum(axis=0), 1)
    order = np.lexsort((np.asarray(names, dtype=str), mean, best))
    ranked = np.asarray(has.any(axis=0))
    return order[ranked[order]].astype(np.int64)
