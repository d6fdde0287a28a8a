"""Cells through the model of an extraction's plan: readouts, and embeddings of sentences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scstore.extraction.plan import ExtractionPlan
from scstore.model.readout import Readout
from scstore.model.sentence_encoder import SentenceEncoder
from scstore.progress import Track
from scstore.tokens.batches import assemble, plan_batches
from scstore.tokens.ranking import RankedCells, reordered

__all__ = ["read_cells"]


def read_cells(
    plan: ExtractionPlan,
    ranked: RankedCells,
    readout: Readout | None,
    sentences: SentenceEncoder | None,
    track: Track,
) -> tuple[dict[str, NDArray[np.float32]], int]:
    """Run cells in batches of similar length.

    Parameters
    ----------
    plan
        Of the extraction.
    ranked
        Their genes in descending expression.
    readout, sentences
        What reads them; ``None`` for what is not wanted.
    track
        Told how many cells are through.

    Returns
    -------
    views, halved
        ``(n_cells, width) float32`` by view; how many batches of the readout did not fit the memory and were halved.
    """
    views: dict[str, NDArray[np.float32]] = {}
    halved = 0
    track.advance(len(ranked) if readout is None and sentences is None else int((ranked.lengths == 0).sum()))
    if readout is not None:
        views, halved = _readouts(plan, ranked, readout, track)
    if sentences is not None:
        views["genept_s"], _ = sentences.rows(ranked, advance=track.advance if readout is None else None)
    return views, halved


def _readouts(
    plan: ExtractionPlan, ranked: RankedCells, readout: Readout, track: Track
) -> tuple[dict[str, NDArray[np.float32]], int]:
    frame, poolings = plan.settled.layout.frame, plan.options.poolings
    if plan.places is not None:
        ranked = reordered(ranked, plan.places)
    lengths = np.where(ranked.lengths > 0, ranked.lengths + frame.overhead, 0)
    gathered = readout.gather(len(ranked), len(poolings))
    for cells in plan_batches(lengths, tokens=plan.tokens_per_batch):
        gathered.add(cells, lambda some: assemble(ranked, some, frame=frame, poolings=poolings))
        track.advance(len(cells))
    hidden = gathered.rows()
    readouts = {
        f"readout_{pool}_l{layer}": hidden[i, j]
        for i, layer in enumerate(plan.settled.layers)
        for j, pool in enumerate(poolings)
    }
    return readouts, gathered.halved
