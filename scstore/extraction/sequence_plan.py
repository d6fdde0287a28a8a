"""A plan in frozen steps: the cells, their genes, and the model that reads them."""

import importlib.util
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore.cells.expression import lognorm_block
from scstore.cells.opening import CellFile, CellSource
from scstore.errors import OptionError
from scstore.extraction.cell_input import CellInput, MatchedGenes, find_cells, find_genes
from scstore.extraction.options import GENEPT_W, RENAMED, SequenceOptions
from scstore.gene_tables.encoding import cached_table
from scstore.genes.table import GeneTable
from scstore.model.loading import (
    DEFAULT_MODEL,
    FLOAT8,
    MINILM,
    SMOLLM2,
    ModelFiles,
    load_tokenizer,
    locate_model,
    pick_device,
)
from scstore.model.prompt import PROMPT, Layout, make_layout, write_symbols
from scstore.model.shapes import tokens_that_fit
from scstore.progress import Reporter
from scstore.store.ledger import file_beside, ids_digest
from scstore.tokens.sequences import GeneSlots, RankedCells, count_genes, cut_genes, rank_genes

DEFAULT_TOP_GENES = 2048

# Layers of the embedded models that did best (benchmarks/features.py, decoder.py); of others the last is read.
USUAL_LAYERS: dict[str, tuple[int, ...]] = {MINILM: (1, 6), SMOLLM2: (4, 8)}

# Padded positions of a batch at the most; on a GPU fewer where its memory asks for it.
TOKENS_PER_BATCH = {"cpu": 4096, "mps": 8192, "cuda": 32768}

READ_ROWS = 1024  # cells read at a time: blocks small enough to be read while the last one is written


@dataclass(frozen=True)
class ReadoutPlan:
    """Which layers (1 is the first) of which model are read, with what around the genes."""

    files: ModelFiles
    layout: Layout
    layers: tuple[int, ...]
    gene_slots: GeneSlots  # of the matched genes

    @property
    def room(self) -> int:
        """Positions for genes."""
        return self.files.context - self.layout.frame.overhead


@dataclass(frozen=True)
class RunSettings:
    """Where, in which precision and in which batches (padded positions) the model runs."""

    device: str | None = None
    dtype: str | None = None
    tokens_per_batch: int = 1


@dataclass(frozen=True)
class SequencePlan:
    """Which cells become which sequences, and what reads them: what extract and align share."""

    options: SequenceOptions
    source: CellInput
    genes: MatchedGenes
    table: GeneTable
    table_file: str
    files: ModelFiles | None  # the model that reads the cells in any way, if one does
    readout: ReadoutPlan | None
    top_genes: int  # of a cell, ranked and counted
    run: RunSettings

    @property
    def needed_readout(self) -> ReadoutPlan:
        """The readout; OptionError where none is wanted."""
        if self.readout is None:
            raise OptionError("pool=(): no model reads the genes. Name a pooling: last, mean, wmean.")
        return self.readout

    @property
    def model_record(self) -> dict[str, Any] | None:
        """The model that reads the cells, as a store's record holds it."""
        files = self.files
        return None if files is None else {"name": files.name, "digest": files.digest, "n_layers": files.n_layers}

    @property
    def input_record(self) -> dict[str, Any]:
        """What identifies the cells, as a store's record holds it."""
        cells, slot, translation = self.source.cells, self.source.slot, self.genes.translation
        return {
            "name": Path(cells.source).name,
            "digest": self.source.digest,
            "slot": slot.slot,
            "kind": slot.kind,
            "fractional": slot.fractional,
            **({} if slot.scale is None else {"scale": slot.scale}),
            "ids": ids_digest([str(name) for name in cells.obs.index]),
            **({} if translation is None else {"orthologs": translation.record}),
        }

    @cached_property
    def most_positions(self) -> int:
        """What the genes of a cell take at the most, whether or not there is room for them."""
        admitted = self.genes.admitted
        lengths = self.needed_readout.gene_slots.lengths[slice(None) if admitted is None else admitted]
        return int(np.sort(lengths)[-self.top_genes :].sum())

    def rank(self, rows: csr_matrix) -> RankedCells:
        """The genes of each cell that are read, in descending expression."""
        ranked = rank_genes(rows, top_genes=self.top_genes, admitted=self.genes.admitted)
        if self.readout is None or self.most_positions <= self.readout.room:
            return ranked
        return cut_genes(ranked, self.readout.gene_slots, room=self.readout.room)

    def count(self, rows: csr_matrix) -> NDArray[np.int64]:
        """How many genes of each cell are read, ``(n_cells,) int64``; ranked only where some may not fit."""
        if self.readout is None or self.most_positions <= self.readout.room:
            return count_genes(rows, top_genes=self.top_genes, admitted=self.genes.admitted)
        return self.rank(rows).lengths

    def expression(self, start: int, stop: int) -> csr_matrix:
        """Expression of the matched genes in cells ``start`` to ``stop``."""
        match = self.genes.match
        return match.apply(lognorm_block(self.source.cells, self.source.slot, start, stop, groups=match.groups))

    def expression_blocks(
        self, progress: Reporter, lengths: list[NDArray[np.int64]] | None = None
    ) -> Iterator[csr_matrix]:
        """Expression of the matched genes, block by block; each cell's number of genes is added to ``lengths``."""
        n_cells = self.source.cells.n_cells
        with progress.track("reading cells", n_cells, "cells") as track:
            for start in range(0, n_cells, READ_ROWS):
                matched = self.expression(start, start + READ_ROWS)
                if lengths is not None:
                    lengths.append(self.count(matched))
                yield matched
                track.advance(matched.shape[0])
        self.source.check_unchanged()


def plan_sequences(
    source: CellSource, cells: CellFile, target: Path, options: SequenceOptions, progress: Reporter
) -> SequencePlan:
    """Find the cells, their genes and their reader; a model is loaded only to encode symbols, without a gene table."""
    found = find_cells(source, cells, options, progress)
    genes = find_genes(found, target, options, progress)
    encodes = genes.named is None and options.needs_vectors
    files = _find_model(options, progress) if options.runs_model or encodes else None
    readout = _plan_readout(options, files, genes) if files is not None and options.poolings else None
    table_file = str(options.genes or file_beside(target, ".genes.h5ad"))
    table = genes.named
    if table is None:
        encoder = files if encodes else None
        table = cached_table(
            Path(table_file),
            genes.described,
            encoder,
            enter=genes.enter,
            device=options.device,
            dtype=None if options.dtype == FLOAT8 else options.dtype,  # whitening would enlarge the rounding
            progress=progress,
        )
    if options.needs_vectors and not table.width:
        raise OptionError(f"genes={table_file!r}: it holds symbols without vectors. Name another.")
    reads = files if options.runs_model else None  # else it had symbols to encode, and has no cell to read
    return SequencePlan(
        options=options,
        source=found,
        genes=genes,
        table=table,
        table_file=table_file,
        files=reads,
        readout=readout,
        top_genes=_ranked_genes(options, readout, reads, genes),
        run=RunSettings() if reads is None else run_settings(options, reads, readout),
    )


def _find_model(options: SequenceOptions, progress: Reporter) -> ModelFiles:
    """Find the model's files; the default, 13 billion parameters, is refused where there is no GPU."""
    has_gpu = importlib.util.find_spec("torch") is not None and pick_device(None, None)[0].type == "cuda"
    if options.model is None and not has_gpu:
        raise OptionError(
            f"There is no GPU here, and no model was named. The default, {DEFAULT_MODEL}, takes a GPU with 32 GB or "
            f"more, and 26 GB of weights. Use an embedded model here: model='{MINILM}' or model='{SMOLLM2}' (or "
            f"model='{DEFAULT_MODEL}' with device='cpu', at minutes a cell)."
        )
    return locate_model(options.model or DEFAULT_MODEL, revision=options.revision, progress=progress)


def _plan_readout(options: SequenceOptions, files: ModelFiles, genes: MatchedGenes) -> ReadoutPlan:
    """Choose what the options leave open, and check them against the model."""
    tokenizer, token = load_tokenizer(files), options.readout_token
    prompt = PROMPT if options.reads_symbols else ""
    layout = make_layout(files, tokenizer, instruction=options.words, readout_token=token, prompt=prompt)
    if options.reads_symbols:
        symbols = genes.symbols(rename=getattr(options, "control", None) == RENAMED)
        slots = write_symbols(files, tokenizer, layout, symbols)
    else:
        slots = GeneSlots.of_vectors(layout.frame, len(genes.match.genes))
    readout = ReadoutPlan(files, layout, layers_to_read(options, files), slots)
    if readout.room < slots.lengths.max():
        raise OptionError(f"instruction=: it fills the {files.context} positions of {files.name}. Shorten it.")
    fit = readout.room // int(slots.lengths.min())
    if options.top_genes is not None and options.top_genes > fit:
        raise OptionError(
            f"top_genes={options.top_genes}: {files.name} has {files.context} positions and the instruction takes "
            f"{layout.frame.overhead}. At most {fit} genes fit."
        )
    return readout


def layers_to_read(options: SequenceOptions, files: ModelFiles) -> tuple[int, ...]:
    last = files.n_layers
    named = tuple(options.layers or USUAL_LAYERS.get(files.name, (last,)))
    layers = tuple(last if layer == -1 else layer for layer in named)
    if len(set(layers)) < len(layers) or not all(1 <= layer <= last for layer in layers):
        raise OptionError(f"layers={list(named)}: {files.name} has layers 1 to {last}; name each once.")
    return layers


def fewest_genes(options: SequenceOptions, room: int | None, n_panel: int | None) -> int:
    """Return how many genes of a cell enter; ``room`` is that of the model's context."""
    return min(limit for limit in (options.top_genes or DEFAULT_TOP_GENES, room, n_panel) if limit is not None)


def _ranked_genes(
    options: SequenceOptions, readout: ReadoutPlan | None, files: ModelFiles | None, genes: MatchedGenes
) -> int:
    """Return how many genes of a cell are ranked: what the model reads, or all where only weighted means are wanted."""
    if readout is None and options.companion_views == (GENEPT_W,):
        return len(genes.match.genes)
    room = None
    if readout is not None:
        room = readout.room
    elif files is not None:  # a symbol is one token or more
        room = files.context - int(load_tokenizer(files).num_special_tokens_to_add(pair=False))
    return fewest_genes(options, room, genes.n_panel)


def run_settings(
    options: SequenceOptions, files: ModelFiles, readout: ReadoutPlan | None, *, backward: bool = False
) -> RunSettings:
    """Choose device, precision and batches, with ``backward`` for passes that also go back."""
    device, dtype = pick_device(options.device, options.dtype)
    tokens = options.tokens_per_batch or TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"])
    if options.tokens_per_batch is None and device.type == "cuda":
        import torch

        depth = files.n_layers if readout is None or options.writes_sentences else max(readout.layers)
        free, _ = torch.cuda.mem_get_info(device)
        tokens = tokens_that_fit(
            files.config, free, depth=depth, itemsize=dtype.itemsize, most=tokens, backward=backward
        )
    return RunSettings(device.type, str(dtype).removeprefix("torch.").removesuffix("_e4m3fn"), tokens)


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers, where they are installed."""
    found = {"python": platform.python_version()}
    for name in ("scstore", "torch", "transformers", "anndata", "zarr", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
