"""What an extraction would take: cells, tokens, arithmetic, time, space. Nothing is written."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from scipy.sparse import csr_matrix, vstack

from scstore.backbone.flops import cell_flop, weight_bytes
from scstore.backbone.model import pick_device
from scstore.cells.formats import open_cells
from scstore.progress import Reporter
from scstore.tokens.batches import assemble, plan_batches
from scstore.workflows.extraction_plan import ExtractionPlan, expression_blocks, make_plan
from scstore.workflows.loading import load_readout
from scstore.workflows.planning import ExtractOptions, options_like

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
        Positions over all cells, padding not counted.
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


def estimate(
    cells: str | os.PathLike[str] | anndata.AnnData,
    output: str | os.PathLike[str],
    *,
    like: str | os.PathLike[str] | None = None,
    progress: Reporter | None = None,
    **options: Any,
) -> Estimate:
    """Say what :func:`scstore.extract` would take with the same arguments.

    Reads the cells once, as extraction does, and runs 64 of them through the model to measure its speed, unless that
    alone would take minutes.

    Parameters
    ----------
    cells, output, like, progress, **options
        As for :func:`scstore.extract`. Nothing is written to ``output``.
    """
    progress = progress or Reporter()
    settings = ExtractOptions(**options)
    if like is not None:
        settings = options_like(like, settings)
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_cells(cells, scratch=Path(scratch), id_prefix_from=settings.id_prefix_from) as opened,
    ):
        # a gene table made from symbols is cached beside the store: here, in the scratch folder
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
    config: Mapping[str, Any] = plan.settled.files.config
    depth, frame = max(plan.settled.layers), plan.settled.layout.frame
    lengths = n_genes[n_genes > 0] + frame.overhead
    flop = float(cell_flop(config, lengths, depth=depth).sum())
    device, dtype = pick_device(plan.options.device, plan.options.dtype)
    rate = None
    cost = flop / max(1, len(lengths)) * sample.shape[0]
    if device.type != "cpu" or cost < MEASURABLE:
        rate = _measured_rate(plan, sample, progress)
    return Estimate(
        n_cells=plan.shape.n_obs,
        n_empty=int((n_genes == 0).sum()),
        tokens=int(lengths.sum()),
        flop=flop,
        store_bytes=sum(plan.shape.n_obs * view.width * np.dtype(view.dtype).itemsize for view in plan.shape.views),
        weight_bytes=weight_bytes(config, depth=depth, itemsize=dtype.itemsize),
        cells_per_second=rate,
        seconds=None if rate is None else len(lengths) / rate,
        device=str(device),
    )


def _measured_rate(plan: ExtractionPlan, sample: csr_matrix, progress: Reporter) -> float | None:
    readout = load_readout(plan, progress)
    frame, poolings = plan.settled.layout.frame, plan.options.pool
    ranked = plan.rank(sample)
    lengths = np.where(ranked.lengths > 0, ranked.lengths + frame.overhead, 0)
    batches = plan_batches(lengths, tokens=plan.tokens_per_batch)
    if not batches:
        return None
    gathered = readout.gather(len(ranked), len(poolings))
    for repeat in range(2):  # the first pass warms up
        if repeat:
            begun = time.perf_counter()
        for some in batches:
            gathered.add(some, lambda chosen: assemble(ranked, chosen, frame=frame, poolings=poolings))
        gathered.rows()
    return int((lengths > 0).sum()) / (time.perf_counter() - begun)
