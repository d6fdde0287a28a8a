"""Timed passes on one device: matrix products alone, scstore's pipeline, the hand-written loop, and a profile."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from by_hand import BATCH, hidden_states_by_hand
from measuring import seconds
from numpy.typing import NDArray
from random_models import causal_lm
from scipy.sparse import csr_matrix

from scstore import fsio
from scstore.model.loading import Backbone
from scstore.model.prompt import Layout
from scstore.model.readout import Readout
from scstore.model.shapes import cell_flop
from scstore.tokens.sequences import GeneSlots, RankedCells, assemble, count_slots, plan_batches, rank_genes

POOLINGS = ("wmean", "last")


@dataclass(frozen=True)
class Regime:
    """Which genes enter.

    Attributes
    ----------
    name
        For tables.
    top_genes
        Genes a cell may have.
    admitted
        ``(n_genes,) bool``, or ``None`` for all.
    slots
        Tokens of the genes' symbols; ``None`` where a gene is one vector.
    """

    name: str
    top_genes: int
    admitted: NDArray[np.bool_] | None
    slots: GeneSlots | None = None

    def rank(self, rows: csr_matrix) -> RankedCells:
        """The genes of each cell that enter its sequence."""
        return rank_genes(rows, top_genes=self.top_genes, admitted=self.admitted)

    def lengths(self, ranked: RankedCells, layout: Layout) -> NDArray[np.int64]:
        """Positions of each cell."""
        positions = ranked.lengths if self.slots is None else count_slots(ranked, self.slots)
        return positions + layout.frame.overhead


def symbols_of(n_genes: int, layout: Layout, *, vocabulary: int) -> GeneSlots:
    """Three to five random tokens a gene, the last of them a separator, between the layout's."""
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(3, 6, n_genes))])
    tokens = rng.integers(0, vocabulary, offsets[-1])
    around = np.array([*layout.prefix, *layout.suffix])
    return GeneSlots(tokens, offsets, np.diff(offsets) - 2, around)


@dataclass(frozen=True)
class Pass:
    """What one timed pass took."""

    cells: int
    seconds: float
    tokens: int
    padded: int
    flop: float
    halved: int

    def figures(self, ceiling: float | None) -> dict[str, Any]:
        """As JSON; ``ceiling`` is in FLOP/s."""
        rate = self.flop / self.seconds
        return {
            "cells": self.cells,
            "seconds": self.seconds,
            "cells_per_second": self.cells / self.seconds,
            "tokens_per_cell": self.tokens / self.cells,
            "padded_over_real_tokens": self.padded / self.tokens,
            "tflop_per_second": rate / 1e12,
            "of_ceiling": None if ceiling is None else rate / ceiling,
            "batches_halved": self.halved,
        }


def waiter(device: torch.device) -> Callable[[], None]:
    """What waits until the device is done."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def matmul_ceiling(device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...], *, seconds_each: float) -> dict[str, Any]:  # fmt: skip  # noqa: E501
    """Median FLOP/s of large square products of random matrices; the best size is the ceiling."""
    wait, rates = waiter(device), {}
    for n in sizes:
        left, right = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        for _ in range(3):
            left @ right
        ended = time.perf_counter() + seconds_each
        times = []
        while time.perf_counter() < ended or len(times) < 3:
            times.append(seconds(lambda a=left, b=right: [a @ b for _ in range(4)], wait=wait) / 4)
        rates[str(n)] = 2 * n**3 / statistics.median(times)
    return {"flop_per_second_by_size": rates, "flop_per_second": max(rates.values())}


def own_pass(
    readout: Readout,
    layout: Layout,
    cells: csr_matrix,
    regime: Regime,
    *,
    tokens: int,
    depth: int,
    scratch: Path,
) -> tuple[Pass, NDArray[np.float32]]:
    """Cells through scstore as one shard: ranked, batched by tokens, run, fetched and written.

    Returns
    -------
    The pass, and its rows ``(n_layers, n_poolings, n, width)``
    """
    wait = waiter(readout.backbone.device)
    wait()
    begun = time.perf_counter()
    ranked = regime.rank(cells)
    lengths = regime.lengths(ranked, layout)
    gathered = readout.gather(len(ranked), len(POOLINGS))
    lay_out = partial(assemble, ranked, frame=layout.frame, poolings=POOLINGS, gene_slots=regime.slots)
    padded = 0
    for batch in plan_batches(lengths, tokens=tokens):
        gathered.add(batch, lay_out)
        padded += int(lengths[batch].max()) * len(batch)
    rows = gathered.rows()
    fsio.write_bytes(scratch / "rows.bin", rows.astype(np.float16).reshape(-1).view(np.uint8).data)
    spent = time.perf_counter() - begun
    flop = float(cell_flop(readout.backbone.files.config, lengths, depth=depth).sum())
    return Pass(len(ranked), spent, int(lengths.sum()), padded, flop, gathered.halved), rows


def hand_pass(
    readout: Readout, layout: Layout, rows: csr_matrix, regime: Regime, *, layers: tuple[int, ...]
) -> tuple[Pass, NDArray[np.float32], int]:
    """The same cells by the hand-written loop; in smaller batches where memory does not hold 16 cells.

    Returns
    -------
    The pass, its rows ``(n_layers, 2, n, width)``, and the batch size it ended with.
    """
    backbone, frame = readout.backbone, layout.frame
    model, words = causal_lm(backbone), layout.embeddings(backbone)
    vectors = readout._inputs[frame.first_gene_slot :]
    ranked, wait, batch = regime.rank(rows), waiter(backbone.device), BATCH
    lengths = ranked.lengths + frame.overhead

    def run(some: RankedCells) -> torch.Tensor:
        return hidden_states_by_hand(
            model, vectors, words[: frame.n_prefix], words[frame.n_prefix :], some,
            layers=layers, readout_at_end=True, batch=batch,
        )  # fmt: skip

    while True:
        try:
            run(regime.rank(rows[:batch]))  # warms up, and shows whether a batch fits
            wait()
            begun = time.perf_counter()
            result = run(ranked)
            spent = time.perf_counter() - begun
            break
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
        torch.cuda.empty_cache()
    padded = sum(int(lengths[i : i + batch].max()) * len(lengths[i : i + batch]) for i in range(0, len(lengths), batch))
    flop = float(cell_flop(backbone.files.config, lengths, depth=backbone.files.n_layers).sum())
    return Pass(len(ranked), spent, int(lengths.sum()), padded, flop, 0), result.numpy(), batch


@contextmanager
def cut_to(backbone: Backbone, depth: int) -> Iterator[None]:
    """The model as if it had been loaded with its first layers alone."""
    model: Any = backbone.model
    whole = model.layers
    model.layers, model.config.num_hidden_layers = whole[:depth], depth
    try:
        yield
    finally:
        model.layers, model.config.num_hidden_layers = whole, len(whole)


KINDS = (
    ("attention", ("flash", "fmha", "attention", "sdpa")),
    ("matrix products", ("gemm", "nvjet", "cutlass", "xmma", "cublas", "splitk")),
    ("copies", ("memcpy", "memset")),
)


def profile(work: Callable[[], Any], scratch: Path) -> dict[str, Any]:
    """Where a CUDA device's time goes in one call: idle share, and seconds by kind of kernel."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    with torch_profile(activities=[ProfilerActivity.CUDA]) as trace:
        spent = seconds(work, wait=torch.cuda.synchronize)
    file = scratch / "trace.json"
    trace.export_chrome_trace(str(file))
    events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    file.unlink()
    return device_time(events, wall=spent)


def device_time(events: list[dict[str, Any]], *, wall: float) -> dict[str, Any]:
    """Sum up a trace's kernels and copies; times in a trace are microseconds."""
    kernels = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") and "dur" in e]
    kernels.sort(key=lambda event: event["ts"])
    busy, reached = 0.0, 0.0
    by_kind: dict[str, float] = {}
    by_name: dict[str, float] = {}
    for event in kernels:
        begun, ended = event["ts"], event["ts"] + event["dur"]
        busy += max(0.0, ended - max(begun, reached))  # kernels of several streams overlap
        reached = max(reached, ended)
        kind = next((k for k, words in KINDS if any(w in event["name"].lower() for w in words)), "everything else")
        by_kind[kind] = by_kind.get(kind, 0.0) + event["dur"] / 1e6
        by_name[event["name"][:120]] = by_name.get(event["name"][:120], 0.0) + event["dur"] / 1e6
    longest = dict(sorted(by_name.items(), key=lambda item: -item[1])[:12])
    return {
        "wall_seconds": wall,
        "idle_share": 1 - busy / 1e6 / wall,
        "seconds_by_kind": by_kind,
        "longest_kernels_seconds": longest,
    }


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of every row, over the last axis."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(axis=-1) / np.maximum(norms, 1e-300))
