"""Scores of genes from one pass over each input, and the one order that several rankings give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore.cells.gene_statistics import ClassSums, GroupMoments
from scstore.panels.comparison import Design
from scstore.panels.inputs import PanelInput
from scstore.panels.joined_genes import JoinedGenes
from scstore.progress import Reporter

Scores = NDArray[np.float64]

# Memory for sums per class and gene; where they need more, the cells are read several times, some genes at a time.
SUMS_BYTES = 1 << 30


class GeneScore:
    """Score of each gene, block by block: the F of labels within groups, or excess dropout, its mean over groups."""

    def __init__(self, design: Design, n_genes: int) -> None:
        self._design = design
        make = ClassSums if design.by_labels else GroupMoments
        self._sums = make(design.n_classes, n_genes)

    def add(self, start: int, block: csr_matrix) -> None:
        """Add cells ``start`` and following: ``(b, n_genes)`` log-normalised expression."""
        codes = self._design.codes[start : start + block.shape[0]]
        known = np.flatnonzero(codes >= 0)
        self._sums.add(block[known], codes[known])

    def values(self) -> Scores:
        """Return ``(n_genes,)`` scores; NaN for a gene that no compared cell expresses, or that no group scores."""
        sums = self._sums
        if not isinstance(sums, GroupMoments):
            return np.where(sums.sums.any(axis=0), sums.grouped_f_values(self._design.classes), np.nan)
        scores = sums.dropout()
        scored = np.isfinite(scores)
        return np.where(scored.any(axis=0), np.where(scored, scores, 0).mean(axis=0), np.nan)


@dataclass(frozen=True, eq=False)
class ScoredGenes:
    """Scores and ranks (1 is best) ``(n_inputs, n_genes)``, NaN for a gene without a rank; ranked genes in order."""

    scores: Scores
    ranks: Scores
    order: NDArray[np.int64]


def score_genes(
    inputs: Sequence[PanelInput], designs: Sequence[Design], genes: JoinedGenes, *, progress: Reporter
) -> ScoredGenes:
    names = list(genes.obs.index)
    scores = np.array([genes.spread(_score(inputs[i], own, progress), i) for i, own in enumerate(designs)])
    ranks = np.array([rank_scores(own, names) for own in scores])
    return ScoredGenes(scores, ranks, take_in_turn(ranks, names))


def _score(one: PanelInput, design: Design, progress: Reporter) -> Scores:
    n_genes = len(one.names)
    # excess dropout compares each gene with all others
    width = max(1, SUMS_BYTES // (16 * design.n_classes)) if design.by_labels else n_genes
    spans = [slice(first, min(first + width, n_genes)) for first in range(0, n_genes, width)]
    found: list[Scores] = []
    with progress.track(f"reading {one.name}", one.cells.n_cells * len(spans), "cells") as track:
        for span in spans:
            score = GeneScore(design, span.stop - span.start)
            for start, block in one.expression():
                score.add(start, block if len(spans) == 1 else block[:, span])
                track.advance(block.shape[0])
            found.append(score.values())
    return np.concatenate(found)


def rank_scores(scores: Scores, names: Sequence[str]) -> Scores:
    """Return ranks ``(n_genes,)``: 1 for the best gene, NaN where the score is; ties in the order of unique names."""
    order = np.lexsort((np.asarray(names, dtype=str), -scores))[: np.count_nonzero(~np.isnan(scores))]
    ranks = np.full(len(scores), np.nan)
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks


def take_in_turn(ranks: Scores, names: Sequence[str]) -> NDArray[np.int64]:
    """Return the genes of several rankings ``(k, n_genes)`` in one order: by the best rank in any of them.

    Ties by the mean rank over the rankings that have the gene, then by name.
    """
    has: NDArray[np.bool_] = ~np.isnan(ranks)
    best = np.where(has, ranks, np.inf).min(axis=0)
    mean = np.where(has, ranks, 0).sum(axis=0) / np.maximum(has.sum(axis=0), 1)
    order = np.lexsort((np.asarray(names, dtype=str), mean, best))
    return order[: np.count_nonzero(has.any(axis=0))].astype(np.int64)
