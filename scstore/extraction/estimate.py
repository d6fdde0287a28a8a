"""What an extraction would take: cells, tokens, arithmetic, time, space. Nothing is written."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, vstack

from scstore.cells.opening import open_cells
from scstore.extraction.model_loading import load_readout, load_sentence_encoder
from scstore.extraction.options import Cells, ExtractOptions, Output, complete_options
from scstore.extraction.plan import ExtractionPlan, expression_blocks, make_plan
from scstore.extraction.reading import read_cells
from scstore.model.flops import cell_flop, weight_bytes
from scstore.model.loading import ModelFiles, load_tokenizer, pick_device
from scstore.options import with_options
from scstore.progress import Reporter, Track
from scstore.tokens.genept import companion_vectors, weighted_means
from scstore.tokens.ranking import expressed_genes
from scstore.tokens.sentences import write_sentences

__all__ = ["Estimate", "estimate"]

SAMPLE = 64
"""Cells that are run to measure the speed."""


@dataclass(frozen=True)
class Estimate:
    """What an extraction would take.

    Attributes
    ----------
    n_cells, n_empty
        Cells of the input, and those without a gene to read.
    tokens
        Positions over all cells, padding not counted; of sentences estimated on a sample.
    flop
        Floating-point operations of the forward pass over them.
    store_bytes
        Of the views; the expression comes on top.
    weight_bytes
        Of the layers that are loaded.
    cells_per_second
        Measured here on a sample of cells; ``None`` where the device is a CPU and the model large.
    seconds
        At that speed.
    device
        Where it was measured.
    """

    n_cells: int
    n_empty: int
    tokens: int
    flop: float
    store_bytes: int
    weight_bytes: int
    cells_per_second: float | None
    seconds: float | None
    device: str

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same for a person."""
        per_cell = self.tokens / max(1, self.n_cells - self.n_empty)
        lines = [
            f"cells: {self.n_cells:,}, of which {self.n_empty:,} empty",
            f"tokens: {self.tokens:,}, {per_cell:,.0f} a cell",
            f"arithmetic: {self.flop:.3g} FLOP, {self.flop / max(1, self.n_cells - self.n_empty):.3g} a cell",
            f"store: {self.store_bytes / 1e9:,.3f} GB of views; weights in memory: {self.weight_bytes / 1e9:,.2f} GB",
        ]
        if self.seconds is None or self.cells_per_second is None:
            lines.append(
                f"time: not measured on {self.device}; on a GPU at 600 TFLOP/s {self.flop / 6e14 / 3600:,.3g} h"
            )
        else:
            lines.append(
                f"time: {self.seconds / 3600:,.3g} h on {self.device}, at {self.cells_per_second:,.1f} cells/s "
                f"measured on {SAMPLE} cells"
            )
        return lines


MEASURABLE = 2e12
"""FLOP of the sample above which a CPU is not asked: it would take minutes."""


@with_options(ExtractOptions)
def estimate(cells: Cells, output: Output, options: ExtractOptions) -> Estimate:
    """Estimate what :func:`scstore.extract` would take with the same arguments; nothing is written to ``output``.

    Reads the cells once, as extraction does, and runs 64 of them through the model to measure its speed, unless that
    alone would take minutes.
    """
    progress = options.progress or Reporter()
    settings = complete_options(options)
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_cells(cells, scratch=Path(scratch), id_prefix_from=settings.id_prefix_from) as opened,
    ):
        # a gene table made from symbols, or a panel fitted, is kept beside the store: here, in the scratch folder
        plan = make_plan(cells, opened, Path(scratch) / Path(output).name, settings, progress)
        lengths, sample = _lengths(plan, progress)
        return _estimate(plan, lengths, sample, progress)


def _lengths(plan: ExtractionPlan, progress: Reporter) -> tuple[np.ndarray[Any, np.dtype[np.int64]], csr_matrix]:
    lengths: list[Any] = []
    sample: list[csr_matrix] = []
    wanted = set(np.linspace(0, plan.shape.n_obs - 1, min(SAMPLE, plan.shape.n_obs)).astype(int).tolist())
    start = 0
    for block in expression_blocks(plan, progress, lengths):
        here = [row - start for row in sorted(wanted) if start <= row < start + block.shape[0]]
        sample.append(block[here])
        start += block.shape[0]
    return np.concatenate(lengths), csr_matrix(vstack(sample, format="csr"))


def _estimate(plan: ExtractionPlan, n_genes: Any, sample: csr_matrix, progress: Reporter) -> Estimate:
    n_read = int((n_genes > 0).sum())
    model = _ModelCost() if plan.files is None else _model_cost(plan, plan.files, n_genes, sample)
    rate = None
    if plan.record["run"]["device"] not in (None, "cpu") or model.flop / max(1, n_read) * sample.shape[0] < MEASURABLE:
        rate = _measured_rate(plan, sample, progress)
    return Estimate(
        n_cells=plan.shape.n_obs,
        n_empty=int((n_genes == 0).sum()),
        tokens=model.tokens,
        flop=model.flop,
        store_bytes=sum(plan.shape.n_obs * view.width * np.dtype(view.dtype).itemsize for view in plan.shape.views),
        weight_bytes=model.weight_bytes,
        cells_per_second=rate,
        seconds=None if rate is None else n_read / rate,
        device=plan.options.device or plan.record["run"]["device"] or "cpu",
    )


@dataclass(frozen=True)
class _ModelCost:
    """Positions, arithmetic and weights of what a model reads: nothing where none does."""

    tokens: int = 0
    flop: float = 0.0
    weight_bytes: int = 0


def _model_cost(plan: ExtractionPlan, files: ModelFiles, n_genes: Any, sample: csr_matrix) -> _ModelCost:
    """The readouts' cost is exact; that of sentences is the sample's, whose symbols are counted in tokens."""
    config: Mapping[str, Any] = files.config
    read = n_genes[n_genes > 0]
    tokens, flop, depth = 0, 0.0, 0
    if plan.readout is not None:
        depth = max(plan.readout.layers)
        lengths = read + plan.readout.layout.frame.overhead
        tokens, flop = int(lengths.sum()), float(cell_flop(config, lengths, depth=depth).sum())
    if plan.options.writes_sentences:
        depth = files.n_layers
        written = write_sentences(
            plan.rank(sample), plan.symbols, tokenizer=load_tokenizer(files), max_tokens=files.context
        ).lengths
        written = written[written > 0]
        if len(written):
            tokens += round(float(written.mean()) * len(read))
            flop += float(cell_flop(config, written, depth=depth).mean()) * len(read)
    itemsize = pick_device(plan.options.device, plan.options.dtype)[1].itemsize
    return _ModelCost(tokens, flop, weight_bytes(config, depth=depth, itemsize=itemsize))


def _measured_rate(plan: ExtractionPlan, sample: csr_matrix, progress: Reporter) -> float | None:
    ranked = plan.rank(sample)
    n_read = int((ranked.lengths > 0).sum())
    if not n_read:
        return None
    readout = load_readout(plan, progress) if plan.readout is not None else None
    sentences = load_sentence_encoder(plan, readout, progress) if plan.options.writes_sentences else None
    vectors = companion_vectors(
        plan.table, plan.match.genes, admitted=plan.admitted, names=plan.options.companion_views
    )
    for repeat in range(2):  # the first pass warms up
        if repeat:
            begun = time.perf_counter()
        read_cells(plan, ranked, readout, sentences, Track())
        if not plan.options.runs_model:  # beside a model these cost nothing
            for companion in vectors.values():
                weighted_means(expressed_genes(sample, admitted=plan.admitted), companion)
    return n_read / (time.perf_counter() - begun)
