"""What an extraction would take: cells, tokens, arithmetic, time, space. Nothing is written."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from scstore.cells.opening import open_cells
from scstore.extraction.extract import companion_rows, companions_of
from scstore.extraction.model_reader import load_reader
from scstore.extraction.options import Cells, ExtractOptions, Output, complete_options
from scstore.extraction.plan import ExtractionPlan, make_plan
from scstore.model.flops import cell_flop, weight_bytes
from scstore.model.loading import load_tokenizer, pick_device
from scstore.options import with_options
from scstore.progress import Reporter, Track
from scstore.tokens.sentences import write_sentences

# Cells that are run to measure the speed.
SAMPLE = 64

# FLOP of the sample above which a CPU is not asked: it would take minutes.
MEASURABLE = 2e12


@dataclass(frozen=True)
class Estimate:
    """What an extraction would take."""

    n_cells: int
    n_empty: int  # cells without a gene to read
    tokens: int  # over all cells, padding not counted; of sentences estimated on a sample
    flop: float  # floating-point operations of the forward pass over them
    store_bytes: int  # of the views; the expression comes on top
    weight_bytes: int  # of the layers that are loaded
    cells_per_second: float | None  # measured on a sample; None where the device is a CPU and the model large
    seconds: float | None
    device: str

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same for a person."""
        n_read = max(1, self.n_cells - self.n_empty)
        if self.seconds is None or self.cells_per_second is None:
            took = f"not measured on {self.device}; on a GPU at 600 TFLOP/s {self.flop / 6e14 / 3600:,.3g} h"
        else:
            speed = f"{self.cells_per_second:,.1f} cells/s measured on {SAMPLE} cells"
            took = f"{self.seconds / 3600:,.3g} h on {self.device}, at {speed}"
        return [
            f"cells: {self.n_cells:,}, of which {self.n_empty:,} empty",
            f"tokens: {self.tokens:,}, {self.tokens / n_read:,.0f} a cell",
            f"arithmetic: {self.flop:.3g} FLOP, {self.flop / n_read:.3g} a cell",
            f"store: {self.store_bytes / 1e9:,.3f} GB of views; weights in memory: {self.weight_bytes / 1e9:,.2f} GB",
            f"time: {took}",
        ]


@with_options(ExtractOptions)
def estimate(cells: Cells, output: Output, options: ExtractOptions) -> Estimate:
    """Estimate what :func:`scstore.extract` would take with the same arguments; nothing is written to ``output``.

    Reads the cells once, as extraction does, and runs 64 of them through the model to measure its speed, unless that
    alone would take minutes.
    """
    progress = options.progress or Reporter()
    settings = complete_options(options)
    with tempfile.TemporaryDirectory() as scratch, open_cells(cells, id_prefix_from=settings.id_prefix_from) as opened:
        # a gene table made from symbols, or a panel fitted, is kept beside the store: here, in the scratch folder
        plan = make_plan(cells, opened, Path(scratch) / Path(output).name, settings, progress)
        n_genes, sample = _genes_and_sample(plan, progress)
        n_read = int((n_genes > 0).sum())
        tokens, flop, weights = _model_cost(plan, n_genes, sample)
        on_gpu = plan.sequences.run.device not in (None, "cpu")
        measurable = on_gpu or flop / max(1, n_read) * sample.shape[0] < MEASURABLE
        rate = _measured_rate(plan, sample, progress) if measurable else None
    views = plan.shape.views
    return Estimate(
        n_cells=plan.shape.n_obs,
        n_empty=len(n_genes) - n_read,
        tokens=tokens,
        flop=flop,
        store_bytes=sum(plan.shape.n_obs * view.width * np.dtype(view.dtype).itemsize for view in views),
        weight_bytes=weights,
        cells_per_second=rate,
        seconds=None if rate is None else n_read / rate,
        device=settings.device or plan.sequences.run.device or "cpu",
    )


def _genes_and_sample(plan: ExtractionPlan, progress: Reporter) -> tuple[NDArray[np.int64], csr_matrix]:
    """Return how many genes each cell has, and the expression of a sample of cells."""
    lengths: list[NDArray[np.int64]] = []
    sample: list[csr_matrix] = []
    wanted = np.unique(np.linspace(0, plan.shape.n_obs - 1, min(SAMPLE, plan.shape.n_obs)).astype(int))
    start = 0
    for block in plan.sequences.expression_blocks(progress, lengths):
        sample.append(block[wanted[(wanted >= start) & (wanted < start + block.shape[0])] - start])
        start += block.shape[0]
    return np.concatenate(lengths), csr_matrix(vstack(sample, format="csr"))


def _model_cost(plan: ExtractionPlan, n_genes: NDArray[np.int64], sample: csr_matrix) -> tuple[int, float, int]:
    """Return positions, FLOP and bytes of weights: exact for readouts, from the sample's tokens for sentences."""
    files = plan.sequences.files
    if files is None:
        return 0, 0.0, 0
    read = n_genes[n_genes > 0]
    tokens, flop, depth = 0, 0.0, 0
    if (readout := plan.sequences.readout) is not None:
        depth = max(readout.layers)
        lengths = read + readout.layout.frame.overhead
        tokens, flop = int(lengths.sum()), float(cell_flop(files.config, lengths, depth=depth).sum())
    if plan.options.writes_sentences:
        depth = files.n_layers
        written = write_sentences(
            plan.sequences.rank(sample),
            plan.sequences.genes.symbols,
            tokenizer=load_tokenizer(files),
            max_tokens=files.context,
        ).lengths
        written = written[written > 0]
        if len(written):
            tokens += round(float(written.mean()) * len(read))
            flop += float(cell_flop(files.config, written, depth=depth).mean()) * len(read)
    itemsize = pick_device(plan.options.device, plan.options.dtype)[1].itemsize
    return tokens, flop, weight_bytes(files.config, depth=depth, itemsize=itemsize)


def _measured_rate(plan: ExtractionPlan, sample: csr_matrix, progress: Reporter) -> float | None:
    """Cells per second on a sample; ``None`` where it has no gene to read."""
    ranked = plan.sequences.rank(sample)
    n_read = int((ranked.lengths > 0).sum())
    if not n_read:
        return None
    model, vectors = load_reader(plan, progress), companions_of(plan)
    for _ in range(2):  # the first pass warms up
        begun = time.perf_counter()
        model.read(ranked, Track())
        if not plan.options.runs_model:  # beside a model these cost nothing
            companion_rows(plan, vectors, sample, ranked)
    return n_read / (time.perf_counter() - begun)
