"""Batches of cells for the model: which cells go together, and the sequences they become.

A sequence is ``prefix | genes | suffix | padding``. Positions hold *slots* of one table of input vectors, so that a
batch is built by a single gather on the device: slot 0 is padding, then the prefix, then the suffix, then the genes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scstore.tokens.ranking import RankedCells

# ``last``: hidden state at the readout token (the papers'); ``mean`` over the gene positions; ``wmean``: the same,
# weighted by expression.
POOLINGS = ("last", "mean", "wmean")


@dataclass(frozen=True)
class Frame:
    """Numbers of positions around the genes, and whether the readout is the last (decoders) or the first (encoders)."""

    n_prefix: int
    n_suffix: int
    readout_at_end: bool

    @property
    def overhead(self) -> int:
        return self.n_prefix + self.n_suffix

    @property
    def first_gene_slot(self) -> int:
        """Slot of gene 0 in the table of input vectors."""
        return 1 + self.overhead


@dataclass(frozen=True)
class Batch:
    """Sequences of equal padded length."""

    cells: NDArray[np.int64]  # (B,): row of each cell in the run of cells it was assembled from
    slots: NDArray[np.int64]  # (B, T): slot of the table of input vectors at each position; 0 is padding
    lengths: NDArray[np.int64]  # (B,): positions that are not padding
    scale: NDArray[np.float32]  # (B, T): log-normalised expression at the gene positions, 0 elsewhere
    pooling: NDArray[np.float32]  # (B, P, T): weights over the positions, a row a pooling, each summing to one


def batch_unit(longest: int, tokens: int) -> int:
    """Return the run of cells that batches are formed in, a power of two: 32 batches of the ``longest`` cells.

    Which cells share a batch moves the last digits of their rows, so it may not depend on how a store is cut.
    """
    return 1 << min(12, (max(1, 32 * (tokens // longest))).bit_length() - 1)


def plan_batches(lengths: NDArray[np.int64], *, tokens: int, unit: int | None = None) -> list[NDArray[np.int64]]:
    """Group cells of similar length into batches of at most ``tokens`` padded positions: row numbers ``(B,) int64``.

    Longest cells first, of each ``unit`` cells on their own. A cell of length 0 gets no batch.
    """
    if unit is not None:
        starts = range(0, len(lengths), unit)
        return [
            start + cells for start in starts for cells in plan_batches(lengths[start : start + unit], tokens=tokens)
        ]
    order = np.lexsort((np.arange(len(lengths)), -lengths))
    order = order[lengths[order] > 0]
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, tokens // int(lengths[order[start]]))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def assemble(ranked: RankedCells, cells: NDArray[np.int64], *, frame: Frame, poolings: tuple[str, ...]) -> Batch:
    """Lay out the sequences of some cells, ``(B,)`` rows of ``ranked`` with at least one gene each."""
    n_genes = ranked.lengths[cells]
    lengths = n_genes + frame.overhead
    shape = (len(cells), int(lengths.max()))
    first = frame.n_prefix
    row = np.repeat(np.arange(len(cells)), n_genes)
    within = np.arange(int(n_genes.sum())) - np.repeat(np.cumsum(n_genes) - n_genes, n_genes)
    entry = np.repeat(ranked.offsets[cells], n_genes) + within

    slots = np.zeros(shape, dtype=np.int64)
    scale = np.zeros(shape, dtype=np.float32)
    slots[:, :first] = 1 + np.arange(first)
    slots[row, first + within] = frame.first_gene_slot + ranked.genes[entry]
    scale[row, first + within] = ranked.values[entry]
    suffix = np.arange(frame.n_suffix)
    slots[np.arange(len(cells))[:, None], first + n_genes[:, None] + suffix] = 1 + first + suffix

    pooling = np.zeros((len(cells), len(poolings), shape[1]), dtype=np.float32)
    for p, name in enumerate(poolings):
        if name == "last":
            pooling[np.arange(len(cells)), p, lengths - 1 if frame.readout_at_end else 0] = 1
        elif name == "mean":
            pooling[row, p, first + within] = np.repeat(1 / n_genes, n_genes)
        else:
            pooling[:, p] = scale / scale.sum(axis=1, keepdims=True, dtype=np.float64)
    return Batch(cells=cells, slots=slots, lengths=lengths, scale=scale, pooling=pooling)
