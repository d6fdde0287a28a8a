"""The most expressed genes of each cell, in order, and the batches of sequences that they become.

Source: scInterpreter (arXiv 2402.12405). A sequence is ``prefix | genes | suffix | padding``: *slots* of one table of
input vectors, gathered on the device. Where a gene is one vector, slot 0 is padding, then prefix, suffix and genes;
where it is written as its symbol, the table is that of the model's token embeddings, and slots are tokens.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class RankedCells:
    """Genes of a run of cells, each cell's in descending order."""

    offsets: Ints  # (n_cells + 1,): cell i owns entries offsets[i]:offsets[i + 1]
    genes: Ints  # (n_entries,): column of the expression matrix
    values: NDArray[np.float32]  # (n_entries,): log-normalised expression, always above zero

    @property
    def lengths(self) -> Ints:
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1


def rank_genes(rows: csr_matrix, *, top_genes: int, admitted: Mask | None = None) -> RankedCells:
    """Rank each cell's expressed, admitted genes, ties in gene-table order, and keep the first ``top_genes``."""
    every = expressed_genes(rows, admitted=admitted)
    top = np.arange(len(every.values)) - np.repeat(every.offsets[:-1], every.lengths) < top_genes
    chosen = _descending(every.values, every.offsets)[top]
    return RankedCells(_offsets(np.minimum(every.lengths, top_genes)), every.genes[chosen], every.values[chosen])


def expressed_genes(rows: csr_matrix, *, admitted: Mask | None = None) -> RankedCells:
    """Return all admitted genes that a cell expresses, in gene-table order: for sums, which need no ranking."""
    keep, kept = _entering(rows, admitted)
    genes, values = np.asarray(rows.indices, dtype=np.int64), np.asarray(rows.data, dtype=np.float32)
    return RankedCells(kept.astype(np.int64), genes[keep], values[keep])


def count_genes(rows: csr_matrix, *, top_genes: int, admitted: Mask | None = None) -> Ints:
    """Return how many genes :func:`rank_genes` would keep of each cell, ``(n_cells,) int64``, without ranking them."""
    return np.minimum(np.diff(_entering(rows, admitted)[1]), top_genes)


def take_cells(ranked: RankedCells, cells: Ints) -> RankedCells:
    lengths = ranked.lengths[cells]
    offsets = _offsets(lengths)
    entries = np.repeat(ranked.offsets[cells], lengths) + _within(lengths)
    return RankedCells(offsets=offsets, genes=ranked.genes[entries], values=ranked.values[entries])


def join_cells(parts: Sequence[RankedCells]) -> RankedCells:
    return RankedCells(
        offsets=_offsets(np.concatenate([np.zeros(0, dtype=np.int64), *(part.lengths for part in parts)])),
        genes=np.concatenate([np.zeros(0, dtype=np.int64), *(part.genes for part in parts)]),
        values=np.concatenate([np.zeros(0, dtype=np.float32), *(part.values for part in parts)]),
    )


def drop_genes(ranked: RankedCells, *, rate: float, rng: np.random.Generator) -> RankedCells:
    """Leave each gene of each cell out with the chance ``rate``, as in a shallower run, but for a cell's first."""
    keep = rng.random(len(ranked.genes)) >= rate
    keep[ranked.offsets[:-1][ranked.lengths > 0]] = True
    return _keep(ranked, keep)


def _keep(ranked: RankedCells, keep: Mask) -> RankedCells:
    offsets = np.concatenate([[0], np.cumsum(keep)])[ranked.offsets].astype(np.int64)
    return RankedCells(offsets=offsets, genes=ranked.genes[keep], values=ranked.values[keep])


def shuffled_order(symbols: Sequence[str], *, seed: int) -> Ints:
    """Return a place ``(n_genes,)`` for every gene, drawn by its symbol: the same in every cell, run and gene table."""
    drawn = [hashlib.sha256(f"{seed}\0{symbol}".encode()).digest() for symbol in symbols]
    places = np.empty(len(drawn), dtype=np.int64)
    places[sorted(range(len(drawn)), key=lambda gene: (drawn[gene], gene))] = np.arange(len(drawn))
    return places


def renamed(symbols: Sequence[str], *, seed: int) -> list[str]:
    """Return the symbols dealt anew, each to another gene: one round through all of them, in an order that is drawn."""
    order = np.argsort(shuffled_order(symbols, seed=seed))
    dealt = np.array(symbols, dtype=object)
    dealt[order] = dealt[np.roll(order, 1)]
    return [str(symbol) for symbol in dealt]


def reordered(ranked: RankedCells, places: Ints) -> RankedCells:
    """Return the same genes and values in every cell, in the order of their places instead of their expression."""
    cell = np.repeat(np.arange(len(ranked)), ranked.lengths)
    order = np.lexsort((places[ranked.genes], cell))
    return replace(ranked, genes=ranked.genes[order], values=ranked.values[order])


def _offsets(lengths: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _within(lengths: Ints) -> Ints:
    """Return the place of every entry in its own run, for runs of these lengths."""
    return np.arange(int(lengths.sum())) - np.repeat(_offsets(lengths)[:-1], lengths)


def _entering(rows: csr_matrix, admitted: Mask | None) -> tuple[Mask, Ints]:
    """Return which stored values are expressed genes that are admitted, and how many of them lie before each cell."""
    keep: Mask = np.asarray(rows.data) > 0
    if admitted is not None:
        keep &= admitted[rows.indices]
    return keep, np.concatenate([[0], np.cumsum(keep)])[rows.indptr]


def _descending(keys: NDArray[np.float32], starts: Ints) -> Ints:
    """Return the order of the entries of each cell by descending key; ties keep their order."""
    # bits of positive floats sort as they do: with its place a key is one integer, sorted 20 times faster than lexsort
    places = np.arange(int(np.diff(starts).max(initial=0)), dtype=np.uint64)
    packed = (~keys.astype(np.float32).view(np.uint32)).astype(np.uint64) << np.uint64(32)
    order = np.empty(len(keys), dtype=np.int64)
    for start, stop in itertools.pairwise(starts.tolist()):
        cell = packed[start:stop] | places[: stop - start]
        cell.sort()
        order[start:stop] = (cell & np.uint64(0xFFFFFFFF)).astype(np.int64) + start
    return order


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
        return 1 + self.overhead


@dataclass(frozen=True)
class GeneSlots:
    """The slots of each gene: one vector's, or those of the tokens that its symbol and a separator are written with."""

    slots: Ints  # (n_slots,): gene i has slots[offsets[i]:offsets[i + 1]]
    offsets: Ints  # (n_genes + 1,)
    read: Ints  # (n_genes,): which of a gene's slots is pooled, the last of its symbol
    around: Ints  # (n_prefix + n_suffix,): slots of prefix and suffix

    @property
    def lengths(self) -> Ints:
        return np.diff(self.offsets)

    @classmethod
    def of_vectors(cls, frame: Frame, n_genes: int) -> Self:
        genes = np.arange(n_genes)
        around = 1 + np.arange(frame.overhead)
        return cls(frame.first_gene_slot + genes, np.arange(n_genes + 1), np.zeros_like(genes), around)


def count_slots(ranked: RankedCells, genes: GeneSlots) -> Ints:
    return np.diff(_offsets(genes.lengths[ranked.genes])[ranked.offsets])


def cut_genes(ranked: RankedCells, genes: GeneSlots, *, room: int) -> RankedCells:
    """Return as many first genes of each cell as ``room`` positions hold."""
    spent = _offsets(genes.lengths[ranked.genes])
    before = np.repeat(spent[ranked.offsets[:-1]], ranked.lengths)
    return _keep(ranked, spent[1:] - before <= room)


@dataclass(frozen=True)
class Batch:
    cells: Ints  # (B,): row of each cell in the run of cells it was assembled from
    slots: Ints  # (B, T): slot of the table of input vectors at each position; 0 is padding
    lengths: Ints  # (B,): positions that are not padding
    scale: NDArray[np.float32]  # (B, T): log-normalised expression at the gene positions, 0 elsewhere
    pooling: NDArray[np.float32]  # (B, P, T): weights over the positions, a row a pooling, each summing to one


def batch_unit(longest: int, tokens: int) -> int:
    """Return the run of cells that batches are formed in, however a store is cut: 32 batches of the ``longest``."""
    return 1 << min(12, (max(1, 32 * (tokens // longest))).bit_length() - 1)


def plan_batches(lengths: Ints, *, tokens: int, unit: int | None = None) -> list[Ints]:
    """Group cells of similar length into batches of at most ``tokens`` padded positions, in each ``unit`` anew."""
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


def assemble(
    ranked: RankedCells, cells: Ints, *, frame: Frame, poolings: tuple[str, ...], gene_slots: GeneSlots | None = None
) -> Batch:
    """Lay out the sequences of some cells, ``(B,)`` rows of ``ranked`` with at least one gene each."""
    some = take_cells(ranked, cells)
    written = gene_slots or GeneSlots.of_vectors(frame, int(some.genes.max()) + 1)
    n_genes, n_slots, first = some.lengths, written.lengths[some.genes], frame.n_prefix
    n_positions = count_slots(some, written)
    lengths = n_positions + frame.overhead
    shape = (len(cells), int(lengths.max()))
    each = np.arange(len(cells))

    slots = np.zeros(shape, dtype=np.int64)
    slots[:, :first] = written.around[:first]
    places = np.repeat(written.offsets[some.genes], n_slots) + _within(n_slots)
    slots[np.repeat(each, n_positions), first + _within(n_positions)] = written.slots[places]
    slots[each[:, None], first + n_positions[:, None] + np.arange(frame.n_suffix)] = written.around[first:]

    row = np.repeat(each, n_genes)
    starts = _offsets(n_slots)[:-1] - np.repeat(_offsets(n_positions)[:-1], n_genes)
    read = first + starts + written.read[some.genes]
    scale = np.zeros(shape, dtype=np.float32)
    scale[row, read] = some.values

    pooling = np.zeros((len(cells), len(poolings), shape[1]), dtype=np.float32)
    for p, name in enumerate(poolings):
        if name == "last":
            pooling[each, p, lengths - 1 if frame.readout_at_end else 0] = 1
        elif name == "mean":
            pooling[row, p, read] = np.repeat(1 / n_genes, n_genes)
        else:
            pooling[:, p] = scale / scale.sum(axis=1, keepdims=True, dtype=np.float64)
    return Batch(cells=cells, slots=slots, lengths=lengths, scale=scale, pooling=pooling)


def write_sentences(
    ranked: RankedCells, symbols: Sequence[str], *, tokenizer: Any, max_tokens: int, places: Ints | None = None
) -> tuple[list[str], Ints]:
    """Write sentences of whole symbols, empty without genes, cut and then sorted by ``places``; count their tokens."""
    texts = [""] * len(ranked)
    lengths = np.zeros(len(ranked), dtype=np.int64)
    for cell, (start, stop) in enumerate(pairwise(ranked.offsets)):
        genes = ranked.genes[start : min(stop, start + max_tokens)]  # a symbol is one token or more
        if not len(genes):
            continue
        words = [symbols[gene] for gene in genes]
        read = tokenizer(" ".join(words), truncation=True, max_length=max_tokens, return_offsets_mapping=True)
        reached = max(end for _, end in read["offset_mapping"])
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        whole = max(1, int(np.searchsorted(ends, reached, side="right")))
        if places is not None:
            words = [words[i] for i in np.argsort(places[genes[:whole]], kind="stable")]
        texts[cell] = " ".join(words[:whole])
        lengths[cell] = len(read["input_ids"])
    return texts, lengths
