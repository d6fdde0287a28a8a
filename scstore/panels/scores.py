"""Reading the data sets of a panel, once: every gene's score for each label column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.panels.gene_scores import Design, GeneScore, LabelScore, VariationScore
from scstore.panels.inputs import Comparison, PanelInput
from scstore.panels.joined_genes import JoinedGenes
from scstore.progress import Reporter

__all__ = ["ScoredGenes", "score_inputs"]

SUMS_BYTES = 1 << 30
"""Of the sums per label, group and gene; where they need more, the cells are read several times, some genes a time."""

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoredGenes:
    """What one pass over the inputs gives.

    Attributes
    ----------
    rankings
        By name ``(n_genes,)`` scores, NaN for a gene that is not ranked.
    origins
        What each ranking is of, as JSON.
    """

    rankings: Mapping[str, Scores]
    origins: tuple[Mapping[str, Any], ...]


def score_inputs(
    inputs: Sequence[PanelInput],
    comparison: Comparison,
    genes: JoinedGenes,
    *,
    progress: Reporter,
) -> ScoredGenes:
    """Read every input and score its genes.

    Parameters
    ----------
    inputs, comparison, genes
        The data sets, who is compared with whom, and their genes.
    progress
        Told how far it is.
    """
    rankings: dict[str, Scores] = {}
    origins: list[Mapping[str, Any]] = []
    for i, one in enumerate(inputs):
        designs = comparison.designs[i]
        for name, values in _read(one, designs, progress).items():
            what = name or "detection"
            key = _key(what if len(inputs) == 1 else f"{what} ({one.name})", rankings)
            rankings[key] = genes.spread(values, i)
            origins.append(
                {
                    "ranking": key,
                    "input": one.name,
                    "label": name or None,
                    "groups": len(designs[name].classes),
                    "groups_left_out": list(designs[name].left_out),
                }
            )
    return ScoredGenes(rankings, tuple(origins))


def _read(one: PanelInput, designs: Mapping[str, Design], progress: Reporter) -> dict[str, Scores]:
    """Score an input's genes by each design."""
    n_genes = len(one.names)
    width = n_genes
    if "" not in designs:
        width = max(1, SUMS_BYTES // (16 * sum(own.n_classes for own in designs.values())))
    spans = [slice(first, min(first + width, n_genes)) for first in range(0, n_genes, width)]
    found: dict[str, list[Scores]] = {name: [] for name in designs}
    with progress.track(f"reading {one.name}", one.cells.n_cells * len(spans), "cells") as track:
        for span in spans:
            scores: dict[str, GeneScore] = {
                name: LabelScore(own, span.stop - span.start) if name else VariationScore(own, n_genes)
                for name, own in designs.items()
            }
            for start, block in one.expression():
                for score in scores.values():
                    score.add(start, block if len(spans) == 1 else block[:, span])
                track.advance(block.shape[0])
            for name, score in scores.items():
                found[name].append(score.values())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _key(name: str, taken: Mapping[str, Scores]) -> str:
    """What a ranking is called in a column: HDF5 takes / for a folder."""
    begin = name.replace("/", "|")
    key, number = begin, 1
    while key in taken:
        number += 1
        key = f"{begin} {number}"
    return key
