"""Several rankings of genes made into one: each gets its share of a panel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["rank_scores", "take_in_turn"]


def rank_scores(scores: NDArray[np.float64], names: Sequence[str]) -> NDArray[np.float64]:
    """Ranks of genes by score.

    Parameters
    ----------
    scores
        ``(n_genes,)``; NaN for a gene that is not ranked.
    names
        ``(n_genes,)`` unique; of equal scores the first name comes first.

    Returns
    -------
    ``(n_genes,) float64``: 1 for the best gene, NaN for one that is not ranked.
    """
    ranked: NDArray[np.bool_] = ~np.isnan(scores)
    order = np.lexsort((np.asarray(names, dtype=str), -np.where(ranked, scores, -np.inf)))
    order = order[ranked[order]]
    ranks = np.full(len(scores), np.nan)
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks


def take_in_turn(ranks: NDArray[np.float64], names: Sequence[str]) -> NDArray[np.int64]:
    """All genes of several rankings in one order: by the best rank that a gene has in any of them.

    Equal ones by their mean rank over the rankings that have them, then by name. The first n of k rankings hold the
    first ⌊n / k⌋ of each; the order of the rankings does not matter.

    Parameters
    ----------
    ranks
        ``(k, n_genes)`` from :func:`rank_scores`.
    names
        ``(n_genes,)`` unique.

    Returns
    -------
    Numbers of the genes that have a rank, best first, ``int64``.
    """
    has: NDArray[np.bool_] = ~np.isnan(ranks)
    best = np.where(has, ranks, np.inf).min(axis=0)
    mean = np.where(has, ranks, 0).sum(axis=0) / np.maximum(has.sum(axis=0), 1)
    order = np.lexsort((np.asarray(names, dtype=str), mean, best))
    ranked = np.asarray(has.any(axis=0))
    return order[ranked[order]].astype(np.int64)
