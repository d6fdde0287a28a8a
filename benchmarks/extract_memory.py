"""Peak host memory of an extraction from a large ``.h5ad``, whatever the number of cells.

A process of its own runs ``scstore.extract`` with a tiny model and watches its resident memory phase by phase; half the
cells are run too, so that growth with their number shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scstore.progress import Reporter, Track

if TYPE_CHECKING:
    from measuring import Findings

LIMIT_GB = 2.0
N_GENES, PER_CELL, TOP_GENES, WIDTH = 2000, 100, 16, 32


def measure_memory(work: Path, n_cells: int, found: Findings) -> None:
    """Run both sizes, print the phases, note the goal."""
    from measuring import table
    from random_models import llama_config, write_llama
    from synthetic_cells import write_gene_table, write_many_cells

    shape = llama_config(width=WIDTH, inner=48, layers=1, heads=4, vocabulary=64)
    write_llama(work / "tiny", shape)
    write_gene_table(work / "tiny.h5ad", width=WIDTH, n_genes=N_GENES)
    runs = {}
    for cells in (n_cells // 2, n_cells):
        file = write_many_cells(work / "many.h5ad", cells, n_genes=N_GENES, per_cell=PER_CELL)
        command = [sys.executable, __file__, str(work)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        runs[cells] = json.loads(done.stdout.splitlines()[-1])
        file.unlink()
    phases = list(runs[n_cells]["peak_gb"])
    print("\npeak resident memory, GB, of scstore.extract with a tiny model (libraries and model included)")
    rows = [[phase, *(runs[cells]["peak_gb"].get(phase, 0.0) for cells in runs)] for phase in phases]
    table(["phase", *(f"{cells:,} cells" for cells in runs)], rows)
    peaks = {cells: max(run["peak_gb"].values()) for cells, run in runs.items()}
    growth = (peaks[n_cells] - peaks[n_cells // 2]) / (n_cells - n_cells // 2) * 1e6
    print(f"growth: {growth:.2f} GB a million cells; {runs[n_cells]['cells_per_second']:,.0f} cells/s")
    found.figures["memory"] = {"runs": runs, "growth_gb_per_million_cells": growth}
    found.at_most(f"peak memory, GB, {n_cells:,} cells", peaks[n_cells], LIMIT_GB)


def resident_gb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


class Watch(Reporter):
    """Keeps the highest resident memory of each phase."""

    def __init__(self) -> None:
        self.phase = "imports"
        self.peak: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            self.peak[self.phase] = max(self.peak.get(self.phase, 0.0), resident_gb())

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Track]:
        del total, unit
        self.phase = label
        yield Track()
        self.phase = f"after {label}"


def run_and_watch(work: Path) -> dict[str, Any]:
    """One extraction in this process."""
    import shutil

    import torch
    import transformers

    import scstore

    del transformers
    watch = Watch()
    time.sleep(0.1)
    watch.phase = "opening and planning"
    begun = time.perf_counter()
    store = scstore.extract(
        work / "many.h5ad",
        work / "many.zarr",
        model=str(work / "tiny"),
        genes=str(work / "tiny.h5ad"),
        top_genes=TOP_GENES,
        device="cpu",
        store_dtype="float16",
        progress=watch,
    )
    spent = time.perf_counter() - begun
    watch.end()
    n_cells = len(store.obs)
    shutil.rmtree(work / "many.zarr")
    return {"peak_gb": watch.peak, "cells_per_second": n_cells / spent, "torch_threads": torch.get_num_threads()}


if __name__ == "__main__":
    print(json.dumps(run_and_watch(Path(sys.argv[1]))))
