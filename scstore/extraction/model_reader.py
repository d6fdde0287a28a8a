"""The models of a plan, loaded, and cells run through them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scstore.extraction.plan import ExtractionPlan
from scstore.extraction.sequence_plan import SequencePlan
from scstore.model.loading import Backbone, load_backbone, pick_device
from scstore.model.projector import project
from scstore.model.shapes import layer_parameters
from scstore.progress import Reporter, Track
from scstore.tokens.sequences import RankedCells, assemble, batch_unit, count_slots, plan_batches, reordered, take_cells

if TYPE_CHECKING:
    from scstore.model.readout import Readout
    from scstore.model.text_encoder import SentenceEncoder

# Weights of a model whose layers are compiled for a GPU: those of smaller ones take longer to compile than they save.
COMPILED_FROM = 1e9


class CellReader:
    """Reads the cells of a plan: readouts, and embeddings of sentences, where they are wanted."""

    def __init__(self, plan: ExtractionPlan, readout: Readout | None, sentences: SentenceEncoder | None) -> None:
        self.plan, self.readout, self.sentences = plan, readout, sentences

    def read(self, ranked: RankedCells, track: Track) -> tuple[dict[str, NDArray[np.float32]], int]:
        """``(n_cells, width) float32`` by view, and how many batches did not fit the memory and were halved."""
        reads = self.readout is not None or self.sentences is not None
        track.advance(int((ranked.lengths == 0).sum()) if reads else len(ranked))
        views: dict[str, NDArray[np.float32]] = {}
        halved = 0
        if self.readout is not None:
            views, halved = self._readouts(self.readout, ranked, track)
        if self.sentences is not None:
            advance = track.advance if self.readout is None else None
            views["genept_s"] = self.sentences.rows(ranked, advance=advance)
        return views, halved

    def _readouts(
        self, readout: Readout, ranked: RankedCells, track: Track
    ) -> tuple[dict[str, NDArray[np.float32]], int]:
        sequences, poolings = self.plan.sequences, self.plan.options.poolings
        planned = sequences.needed_readout
        frame, slots = planned.layout.frame, planned.gene_slots
        ordered = ranked if self.plan.places is None else reordered(ranked, self.plan.places)
        lengths = np.where(ordered.lengths > 0, count_slots(ordered, slots) + frame.overhead, 0)
        gathered = readout.gather(len(ordered), len(poolings))
        tokens = sequences.run.tokens_per_batch
        unit = batch_unit(frame.overhead + min(sequences.most_positions, planned.room), tokens)
        lay_out = partial(assemble, ordered, frame=frame, poolings=poolings, gene_slots=slots)
        for cells in plan_batches(lengths, tokens=tokens, unit=unit):
            gathered.add(cells, lay_out)
            track.advance(len(cells))
        hidden = gathered.rows()
        views = {
            f"readout_{pool}_l{layer}": hidden[i, j]
            for i, layer in enumerate(readout.layers)
            for j, pool in enumerate(poolings)
        }
        return views, gathered.halved


def load_reader(plan: ExtractionPlan, progress: Reporter) -> CellReader:
    """Load what a plan reads its cells with."""
    readout = None if plan.sequences.readout is None else _load_readout(plan, progress)
    sentences = _load_sentence_encoder(plan, readout, progress) if plan.options.writes_sentences else None
    return CellReader(plan, readout, sentences)


def cells_per_second(
    reader: CellReader, ranked: RankedCells, *, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Measure the speed on more and more of some cells, for half a second or so; infinite where none has a gene."""
    chosen, rate, spent = np.flatnonzero(ranked.lengths), 0.0, 0.0
    for n in (1 << power for power in range(len(chosen).bit_length())):
        begun = clock()
        reader.read(take_cells(ranked, chosen[:n]), Track())
        took = max(clock() - begun, 1e-9)
        rate = max(rate, n / took)
        # the first pass also warms up, so it counts only where it is long
        spent += took if n > 1 or took > 10 else 0
        if spent > 0.5:
            break
    return rate or inf


def load_model(plan: SequencePlan, progress: Reporter, *, random_seed: int | None = None) -> Backbone:
    """Load the model of a readout, as deep as it is read."""
    readout = plan.needed_readout
    device, dtype = pick_device(plan.options.device, plan.options.dtype)
    backbone = load_backbone(
        readout.files,
        device=device,
        dtype=dtype,
        depth=max(readout.layers),
        spread=plan.options.spread,
        random_seed=random_seed,
    )
    weights = "" if random_seed is None else " with random weights"
    layers = ", ".join(map(str, readout.layers))
    progress.note(
        f"model: {readout.files.name}{weights}, layers {layers} of {readout.files.n_layers}, "
        f"on {device} in {plan.run.dtype}; at most {plan.top_genes:,} genes a cell"
    )
    return backbone


def _load_readout(plan: ExtractionPlan, progress: Reporter) -> Readout:
    """Load the model, and project the gene vectors for it."""
    from scstore.model.readout import Readout

    options, genes = plan.options, plan.sequences.genes.match.genes
    readout = plan.sequences.needed_readout
    backbone = load_model(plan.sequences, progress, random_seed=plan.random_seed)
    depth, is_alone = max(readout.layers), backbone.device.type == "cuda" and not options.spread
    if is_alone and depth * layer_parameters(backbone.files.config) >= COMPILED_FROM:
        from scstore.model.gpu_layers import compile_layers

        compile_layers(backbone.model, backbone.layers, progress)
    inputs: NDArray[np.float32] | None
    if options.reads_symbols:
        inputs = None
    elif plan.projector is None:
        to_input = partial(
            project, token_embeddings=backbone.token_embeddings, kind=str(options.projector), seed=options.seed
        )
        inputs = plan.table.changed(to_input)[genes]
    else:
        inputs = plan.projector.build().project(plan.table.vectors[genes])
    return Readout(backbone, readout.layout, inputs, layers=readout.layers, multiply=options.multiplies)


def _load_sentence_encoder(plan: ExtractionPlan, readout: Readout | None, progress: Reporter) -> SentenceEncoder:
    """Return the encoder of sentences: the readout's model where that is whole, else loaded."""
    from scstore.model.text_encoder import SentenceEncoder

    files, run, options = plan.sequences.files, plan.sequences.run, plan.options
    assert files is not None  # noqa: S101  # sentences are wanted, so a model was found
    device, dtype = pick_device(options.device, options.dtype)
    if readout is not None and max(readout.layers) == files.n_layers and not options.spread:
        backbone = readout.backbone
    else:
        backbone = load_backbone(files, device=device, dtype=dtype, random_seed=plan.random_seed)
    progress.note(
        f"sentences: at most {plan.sequences.top_genes:,} symbols a cell, as many as {files.context:,} tokens hold, "
        f"encoded by {files.name} on {device} in {run.dtype}"
    )
    return SentenceEncoder(
        backbone, plan.sequences.genes.symbols(), tokens_per_batch=run.tokens_per_batch, places=plan.places
    )
