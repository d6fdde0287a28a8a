"""Reading the data sets of a panel, once: every gene's score for each label column, medians, a sample of the cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scstore.panels.gene_scores import Design, GeneScore, LabelScore, VariationScore
from scstore.panels.inputs import Comparison, PanelInput
from scstore.panels.joined_genes import JoinedGenes
from scstore.panels.size import Sample, draw_cells
from scstore.progress import Reporter
from scstore.tokens.medians import ExpressedMedians

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
    medians, n_cells
        ``(n_genes,)``: of each gene's expression above zero, over the cells of all inputs that express it, and how
        many these are.
    samples
        Labelled cells of each input, where a size is to be chosen.
    """

    rankings: Mapping[str, Scores]
    origins: tuple[Mapping[str, Any], ...]
    medians: Scores
    n_cells: NDArray[np.int64]
    samples: tuple[Sample, ...]


def score_inputs(
    inputs: Sequence[PanelInput],
    comparison: Comparison,
    genes: JoinedGenes,
    *,
    label_free: str | None,
    n_sampled: int,
    seed: int,
    progress: Reporter,
) -> ScoredGenes:
    """Read every input and score its genes.

    Parameters
    ----------
    inputs, comparison, genes
        The data sets, who is compared with whom, and their genes.
    label_free
        Score without labels, one of :data:`scstore.panels.gene_scores.LABEL_FREE`.
    n_sampled
        Labelled cells to keep of each input.
    seed
        Of their choice.
    progress
        Told how far it is.
    """
    medians = ExpressedMedians(len(genes))
    rankings: dict[str, Scores] = {}
    origins: list[Mapping[str, Any]] = []
    samples: list[Sample] = []
    for i, one in enumerate(inputs):
        labels, groups, designs = comparison.labels[i], comparison.groups[i], comparison.designs[i]
        rows = np.zeros(0, dtype=np.int64)
        if n_sampled:
            rows = draw_cells(designs, groups, labels, size=n_sampled, seed=seed)
        scores, kept = _read(one, designs, genes.rows[i], medians, rows, label_free, progress)
        samples.append(
            Sample(
                number=i,
                rows=kept,
                labels={name: [column[row] for row in rows] for name, column in labels.items()},
                groups=None if groups is None else [groups[row] for row in rows],
            )
        )
        for name, values in scores.items():
            what = name or str(label_free)
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
    return ScoredGenes(rankings, tuple(origins), medians.values(), medians.n_cells, tuple(samples))


def _read(
    one: PanelInput,
    designs: Mapping[str, Design],
    rows: NDArray[np.int64],
    medians: ExpressedMedians,
    wanted: NDArray[np.int64],
    label_free: str | None,
    progress: Reporter,
) -> tuple[dict[str, Scores], sparse.csr_matrix]:
    """Score an input's genes by each design, add to the medians, and keep the wanted cells' expression."""
    n_genes = len(one.names)
    width = n_genes
    if label_free is None:
        width = max(1, SUMS_BYTES // (16 * sum(own.n_classes for own in designs.values())))
    spans = [slice(first, min(first + width, n_genes)) for first in range(0, n_genes, width)]
    found: dict[str, list[Scores]] = {name: [] for name in designs}
    kept = []
    with progress.track(f"reading {one.name}", one.cells.n_cells * len(spans), "cells") as track:
        for span in spans:
            scores: dict[str, GeneScore] = {
                name: LabelScore(own, span.stop - span.start)
                if label_free is None
                else VariationScore(own, n_genes, kind=label_free)
                for name, own in designs.items()
            }
            for start, block in one.expression():
                for score in scores.values():
                    score.add(start, block if len(spans) == 1 else block[:, span])
                if span is spans[0]:
                    medians.add(block, rows)
                    first, last = np.searchsorted(wanted, [start, start + block.shape[0]])
                    kept.append(block[wanted[first:last] - start])
                track.advance(block.shape[0])
            for name, score in scores.items():
                found[name].append(score.values())
    return {name: np.concatenate(parts) for name, parts in found.items()}, sparse.vstack(kept, format="csr")


def _key(name: str, taken: Mapping[str, Scores]) -> str:
    """What a ranking is called in a column: HDF5 takes / for a folder."""
    begin = name.replace("/", "|")
    key, number = begin, 1
    while key in taken:
        number += 1
        key = f"{begin} {number}"
    return key
