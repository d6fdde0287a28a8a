"""A plan in frozen steps: the cells, their genes in a gene table and a panel, and the model that reads them."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore import fsio
from scstore.cells.expression import ExpressionSlot, find_expression, lognorm_block
from scstore.cells.gene_names import ENSEMBL_ID
from scstore.cells.opening import CellFile, CellSource
from scstore.errors import CellsError, FeatureSpaceError, OptionError
from scstore.extraction.auto_panel import kept_panel
from scstore.extraction.options import AUTO_PANEL, CONTROL_SEED, GENEPT_W, RENAMED, SequenceOptions
from scstore.gene_tables.encoding import cached_table
from scstore.genes.matching import OTHER_TABLE, GeneMatch, common_name, match_genes, organisms_of
from scstore.genes.ncbi import TAXA
from scstore.genes.orthologs import Translation, describe_cells, match_cells, needed_translation
from scstore.genes.table import DescribedGenes, GeneTable, describe_by_symbol, load_gene_table, unique_names
from scstore.model.flops import tokens_that_fit
from scstore.model.gguf_files import SMOLLM2
from scstore.model.loading import (
    DEFAULT_MODEL,
    MINILM,
    ModelFiles,
    load_tokenizer,
    locate_model,
    pick_device,
)
from scstore.model.prompt import PROMPT, Layout, make_layout, write_symbols
from scstore.panels.panel import Panel, load_panel
from scstore.progress import Reporter
from scstore.sealed import canonical_json
from scstore.store.layout import file_beside
from scstore.store.ledger import ids_digest
from scstore.tokens.sequences import GeneSlots, RankedCells, count_genes, cut_genes, rank_genes, renamed

DEFAULT_TOP_GENES = 2048

LIKE_CURE = (
    "The reference's table has the genes of its own cells: extract both with one table that has the genes of either "
    "(genes=, without like=)"
)

# Padded positions of a batch at the most; on a GPU fewer where its memory asks for it.
TOKENS_PER_BATCH = {"cpu": 4096, "mps": 8192, "cuda": 32768}

READ_ROWS = 1024  # cells read at a time: blocks small enough to be read while the last one is written


@dataclass(frozen=True)
class CellInput:
    """Cells as given and opened, the slot of their expression, and size and time of their files, if they are files."""

    source: CellSource
    cells: CellFile
    slot: ExpressionSlot
    stamp: tuple[int, int] | None

    @property
    def var(self) -> pd.DataFrame:
        return self.cells.var(self.slot.slot)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the files, or over ids, genes and values in memory."""
        if not isinstance(self.source, anndata.AnnData):
            return fsio.digest_tree(self.source)
        names = "\0".join([*map(str, self.cells.obs.index), *map(str, self.var.index)])
        digest = hashlib.sha256(names.encode())
        matrix = self.cells.slots[self.slot.slot]
        for start in range(0, matrix.shape[0], 4096):
            rows = matrix.rows(start, min(start + 4096, matrix.shape[0]))
            for array in (rows.indptr, rows.indices, rows.data):
                digest.update(np.ascontiguousarray(array).data)
        return "sha256:" + digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raise CellsError if the files changed since they were opened."""
        if self.stamp is not None and _stamp(Path(self.cells.source)) != self.stamp:
            raise CellsError(f"{self.cells.source} changed while it was read. Run again once nobody writes to it.")


def find_cells(source: CellSource, cells: CellFile, options: SequenceOptions, progress: Reporter) -> CellInput:
    """Find the slot that holds the expression."""
    slot = find_expression(
        cells, expression=options.expression, slot=options.slot, allow_fractional=options.allow_fractional
    )
    stamp = None if isinstance(source, anndata.AnnData) else _stamp(Path(source))
    found = CellInput(source, cells, slot, stamp)
    slot.report(cells.source, cells, progress)
    return found


def _stamp(path: Path) -> tuple[int, int]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files), max(file.stat().st_mtime_ns for file in files)


@dataclass(frozen=True)
class MatchedGenes:
    """The cells' genes in the rows of a gene table, and those of them that may enter."""

    described: DescribedGenes
    match: GeneMatch
    panel: Panel | None
    panel_file: str | None
    enter: NDArray[np.bool_] | None  # (n_described,): the genes that may enter a sequence; all if None
    translation: Translation | None
    named: GeneTable | None

    @property
    def admitted(self) -> NDArray[np.bool_] | None:
        """``(n_matched,)``: which of the matched genes may enter; all if ``None``."""
        return None if self.enter is None else self.enter[self.match.genes]

    @property
    def symbols(self) -> list[str]:
        """``(n_matched,)`` symbols of the matched genes."""
        return [str(symbol) for symbol in self.described.obs["symbol"].iloc[self.match.genes]]

    @property
    def digest(self) -> str:
        """SHA-256 of the symbols of all genes that may enter, in the order of the table."""
        symbols = self.described.obs["symbol"].astype(str)
        return fsio.digest_bytes(
            canonical_json((symbols if self.enter is None else symbols[self.enter]).tolist()).encode()
        )

    def written(self, *, rename: bool) -> list[str]:
        """``(n_matched,)`` symbols that the model reads; to ``rename`` deals those anew that may enter."""
        symbols = self.described.obs["symbol"].astype(str).to_numpy(dtype=object, copy=True)
        if rename:
            enter = slice(None) if self.enter is None else self.enter
            symbols[enter] = renamed(symbols[enter].tolist(), seed=CONTROL_SEED)
        return [str(symbol) for symbol in symbols[self.match.genes]]

    @property
    def n_panel(self) -> int | None:
        return None if self.panel is None else len(self.panel)


def find_genes(source: CellInput, target: Path, options: SequenceOptions, progress: Reporter) -> MatchedGenes:
    """Match the cells' genes with the gene table, or describe them by their symbols; no model is looked for."""
    named = load_gene_table(options.genes) if options.genes else None
    if options.organism:
        known = sorted({*TAXA, *([] if named is None else organisms_of(named.obs))})
        if common_name(options.organism) not in known:
            raise OptionError(f"organism={options.organism!r}: give one of {', '.join(known)}.")
    panel_file = options.panel_file
    if options.panel == AUTO_PANEL:
        panel_file = str(kept_panel(source.source, target, options, source.cells, progress))
    panel = load_panel(panel_file) if panel_file else None
    translation = needed_translation(
        options.orthologs,
        source.var,
        organism=options.organism,
        table=None if named is None else named.obs,
        panel=None if panel is None else panel.obs,
        source=source.cells.source,
        progress=progress,
    )
    if named is None:
        described = describe_cells(source.var, translation, organism=options.organism, source=source.cells.source)
        described = described if panel is None else _with_panel(described, panel, first=options.reads_symbols)
        if n := int(described.obs["symbol"].str.fullmatch(ENSEMBL_ID.pattern).sum()):
            progress.note(
                f"{n:,} genes have no symbol and are called by their id, which tells a language model nothing"
            )
    else:
        described = DescribedGenes(named.obs, named.template)
    match = match_cells(
        source.var,
        described.obs,
        translation,
        min_match=options.min_match,
        sum_duplicates=options.sum_duplicate_genes,
        source=source.cells.source,
        cure=LIKE_CURE if getattr(options, "like", None) else OTHER_TABLE,
    )
    enter = named.encoded if named is not None and options.needs_vectors and not named.encoded.all() else None
    if panel is not None:
        enter = _of_panel(panel, str(panel_file), described.obs, enter, match, progress)
    progress.note(match.report)
    if panel is None:
        progress.note(
            "genes that may enter: all. A panel makes sequences 10 to 30 times shorter and did better in every test."
        )
    return MatchedGenes(described, match, panel, panel_file, enter, translation, named)


def _with_panel(described: DescribedGenes, panel: Panel, *, first: bool) -> DescribedGenes:
    """The cells' genes, and behind them the panel's that they lack: cells like these may have measured them.

    Or ``first`` all of the panel's, by its own symbols and in its order, so that these are the same for all cells.
    """
    here = match_genes(panel.obs, described.obs, min_match=0.0, source="the panel").table_rows
    taken = (panel.obs["symbol"] != "").to_numpy() & (first | (here < 0))
    theirs = panel.obs[taken]
    own = describe_by_symbol(
        theirs["symbol"], ensembl_ids=theirs["ensembl_id"], organism=str(described.obs["organism"].iloc[0])
    )
    others = described.obs.drop(described.obs.index[here[taken & (here >= 0)]])
    obs = pd.concat([own.obs, others] if first else [others, own.obs])
    return described._replace(obs=obs.set_axis(unique_names(obs["symbol"])))


def _of_panel(
    panel: Panel,
    path: str,
    obs: pd.DataFrame,
    encoded: NDArray[np.bool_] | None,
    match: GeneMatch,
    progress: Reporter,
) -> NDArray[np.bool_]:
    """Return which genes of the table are in the panel, and have a vector if others have none."""
    enter = np.zeros(len(obs), dtype=bool)
    enter[match_genes(panel.obs, obs, min_match=0.0, source="the panel").genes] = True
    measured = f"{int(enter[match.genes].sum()):,} of its {len(panel):,} are measured here"
    if encoded is not None:
        enter &= encoded
        measured += f", {int(enter[match.genes].sum()):,} of these have a vector"
    progress.note(f"genes that may enter: the panel's, {measured}")
    if not enter[match.genes].any():
        msg = f"{path}: none of the panel's genes is among the cells' genes. Fit a panel on such cells."
        raise FeatureSpaceError(msg)
    return enter


@dataclass(frozen=True)
class ReadoutPlan:
    """Which layers (1 is the first) of which model are read, with what around the genes."""

    files: ModelFiles
    layout: Layout
    layers: tuple[int, ...]
    gene_slots: GeneSlots | None = None  # of the matched genes, where their symbols are read

    @property
    def room(self) -> int:
        """Positions for genes."""
        return self.files.context - self.layout.frame.overhead


@dataclass(frozen=True)
class RunSettings:
    """Where, in which precision and in which batches (padded positions) the model runs."""

    device: str | None = None
    dtype: str | None = None
    tokens_per_batch: int | None = None

    @property
    def tokens(self) -> int:
        return self.tokens_per_batch or 1


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

    @property
    def longest(self) -> int:
        """Positions of the longest sequence that may be."""
        readout, admitted = self.needed_readout, self.genes.admitted
        genes = self.top_genes
        if readout.gene_slots is not None:
            lengths = np.sort(readout.gene_slots.lengths[slice(None) if admitted is None else admitted])
            genes = min(readout.room, int(lengths[-self.top_genes :].sum()))
        return genes + readout.layout.frame.overhead

    def rank(self, rows: csr_matrix) -> RankedCells:
        """The genes of each cell that may be read, in descending expression."""
        ranked = rank_genes(rows, top_genes=self.top_genes, admitted=self.genes.admitted)
        if self.readout is None or self.readout.gene_slots is None:
            return ranked
        return cut_genes(ranked, self.readout.gene_slots, room=self.readout.room)

    def count(self, rows: csr_matrix) -> NDArray[np.int64]:
        """How many genes of each cell are read, ``(n_cells,) int64``; ranked only where some may not fit."""
        if (
            self.readout is not None
            and self.readout.gene_slots is not None
            and self.longest == self.readout.files.context
        ):
            return self.rank(rows).lengths
        return count_genes(rows, top_genes=self.top_genes, admitted=self.genes.admitted)

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
            dtype=options.dtype,
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
    if options.model is None and not _has_gpu():
        raise OptionError(
            f"There is no GPU here, and no model was named. The default, {DEFAULT_MODEL}, takes a GPU with 32 GB or "
            f"more, and 26 GB of weights. Use an embedded model here: model='{MINILM}' or model='{SMOLLM2}' (or "
            f"model='{DEFAULT_MODEL}' with device='cpu', at minutes a cell)."
        )
    return locate_model(options.model or DEFAULT_MODEL, revision=options.revision, progress=progress)


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _plan_readout(options: SequenceOptions, files: ModelFiles, genes: MatchedGenes) -> ReadoutPlan:
    """Choose what the options leave open, and check them against the model."""
    tokenizer, token = load_tokenizer(files), options.readout_token
    prompt = PROMPT if options.reads_symbols else ""
    layout = make_layout(files, tokenizer, instruction=options.words, readout_token=token, prompt=prompt)
    layers = layers_to_read(options, files)
    if options.reads_symbols:
        symbols = genes.written(rename=getattr(options, "control", None) == RENAMED)
        readout = ReadoutPlan(files, layout, layers, write_symbols(files, tokenizer, layout, symbols))
    else:
        readout = ReadoutPlan(files, layout, layers)
    lengths = np.ones(files.context) if readout.gene_slots is None else np.sort(readout.gene_slots.lengths)
    if readout.room < lengths[-1]:
        raise OptionError(f"instruction=: it fills the {files.context} positions of {files.name}. Shorten it.")
    fit = int((np.cumsum(lengths) <= readout.room).sum())  # the shortest
    if options.top_genes is not None and options.top_genes > fit < len(lengths):
        raise OptionError(
            f"top_genes={options.top_genes}: {files.name} has {files.context} positions and the instruction takes "
            f"{layout.frame.overhead}. At most {fit} genes fit."
        )
    return readout


def layers_to_read(options: SequenceOptions, files: ModelFiles) -> tuple[int, ...]:
    last = files.n_layers
    named = tuple(options.layers or ((1, last) if files.name == MINILM else (last,)))
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
        room = readout.files.context - readout.layout.frame.overhead
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
    return RunSettings(device.type, str(dtype).removeprefix("torch."), tokens)


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers, where they are installed."""
    found = {"python": platform.python_version()}
    for name in ("scstore", "torch", "transformers", "anndata", "zarr", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
