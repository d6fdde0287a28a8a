"""``scstore annotate`` from file to file: seconds and peak memory, beside CellTypist on the same cells.

    python benchmarks/annotate.py [--celltypist PYTHON] [--threads 2] [--json FILE] [--quick]

Synthetic counts (synthetic_cells.py) of 10,000 cells x 20,000 genes, about 1,600 of them expressed in a cell, and gene
vectors of width 384. Two heads are fitted on 5,000 other cells: of expression alone, and of expression with gene
vectors, which the cells to label do not have and which are computed for them. Each ``scstore annotate`` is a process of
its own, without UMAP, its start included; the X of what it writes is compared with the X of its input. The same with
100,000 cells shows how memory grows with their number.

CellTypist is trained on the same 5,000 cells and labels (its training is not counted; with SGD, which makes a model of
the same size sooner). Its process does what its users write: it reads the file, normalises it, calls
``celltypist.annotate`` without majority voting, and writes the AnnData with the labels.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import Findings, parser, table
from own_process import in_own_process, run_and_watch

VIEWS = {"expression": ("X",), "expression and gene vectors": ("X", "genept_w")}
WIDTH, N_GENES, N_TYPES = 384, 20_000, 10
CELLS, REFERENCE, MANY = 10_000, 5_000, 100_000
QUICK = {"n_genes": 1_500, "cells": 300, "reference": 200, "many": 600}
RIVAL = Path(__file__).with_name("celltypist_annotate.py")
MOST_SECONDS, MOST_GB, MOST_BYTES = 60, 2, 2_000
"""The last: of memory that each further cell costs."""


def prepare(folder: Path, sizes: dict[str, int]) -> dict[str, Any]:
    """Write cells, reference, gene vectors, and the heads, in this process."""
    from synthetic_cells import write_gene_table, write_typed_cells

    import scstore

    n_genes = sizes["n_genes"]
    for seed, name in enumerate(("reference", "cells", "many")):
        write_typed_cells(folder / f"{name}.h5ad", sizes[name], n_types=N_TYPES, n_genes=n_genes, seed=seed)
    genes = write_gene_table(folder / "genes.h5ad", width=WIDTH, n_genes=n_genes)
    store = folder / "reference.zarr"
    scstore.extract(folder / "reference.h5ad", store, genes=genes, pool=(), companions=("genept_w",))
    for name, views in VIEWS.items():
        scstore.fit(store, folder / name, label="cell_type", views=list(views))
    return {}


def same_matrix(one: Path, other: Path) -> bool:
    """Whether the X of two files holds the same numbers, read piece by piece."""
    import h5py
    import numpy as np

    with h5py.File(one, "r") as a, h5py.File(other, "r") as b:
        for name in ("X/data", "X/indices", "X/indptr"):
            if a[name].shape != b[name].shape or a[name].dtype != b[name].dtype:
                return False
            for start in range(0, len(a[name]), 1 << 22):
                part = slice(start, start + (1 << 22))
                if not np.array_equal(a[name][part], b[name][part]):
                    return False
    return True


def accuracy(file: Path, column: str) -> float:
    """Share of cells whose label is the true one."""
    import anndata

    obs = anndata.read_h5ad(file, backed="r").obs
    return float((obs[column].astype(str) == obs["cell_type"].astype(str)).mean())


def annotate(folder: Path, cells: str, head: str, *, threads: int) -> dict[str, Any]:
    """Label a file by the command line; figures of its process, and whether the matrix came back."""
    source, output = folder / f"{cells}.h5ad", folder / "annotated.h5ad"
    words = ["-m", "scstore", "-q", "annotate", source, "--head", folder / head, "-o", output, "--no-umap"]
    _, figures = run_and_watch([sys.executable, *words], threads=threads)
    found = {**figures, "same_x": same_matrix(source, output), "accuracy": accuracy(output, "scstore_best_label")}
    output.unlink()
    return found


def celltypist(folder: Path, python: str, *, threads: int) -> dict[str, Any]:
    """The same figures of CellTypist."""
    model, output = folder / "celltypist.pkl", folder / "celltypist.h5ad"
    run_and_watch([python, RIVAL, "train", folder / "reference.h5ad", "cell_type", model], threads=threads)
    said, figures = run_and_watch([python, RIVAL, "annotate", folder / "cells.h5ad", model, output], threads=threads)
    alone = json.loads(said.splitlines()[-1])
    return {**figures, **alone, "accuracy": accuracy(output, "predicted_labels")}


def arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--celltypist", metavar="PYTHON", help="Python of an environment that has CellTypist")
    made.add_argument("--threads", type=int, default=2)
    return made.parse_args()


def main() -> int:
    options = arguments()
    findings = Findings("benchmarks/annotate.py")
    full = {"n_genes": N_GENES, "cells": CELLS, "reference": REFERENCE, "many": MANY}
    sizes = QUICK if options.quick else full
    threads = options.threads
    n, many = sizes["cells"], sizes["many"]
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        in_own_process(prepare, folder, sizes, threads=threads)
        for cells in ("cells", "many"):
            for head in VIEWS:
                rows[f"{sizes[cells]:,} cells, {head}"] = annotate(folder, cells, head, threads=threads)
        if options.celltypist:
            rows[f"{n:,} cells, CellTypist"] = celltypist(folder, options.celltypist, threads=threads)
    findings.figures = {"sizes": sizes, "width": WIDTH, "threads": threads, "rows": rows}
    print(f"\nfrom file to file, {sizes['n_genes']:,} genes, {threads} threads")
    shown = [[name, f["seconds"], f["cpu_seconds"], f["peak_gb"], f"{f['accuracy']:.4f}"] for name, f in rows.items()]
    table(["", "seconds", "CPU seconds", "peak GB", "accuracy"], shown)
    for head in VIEWS:
        goals(findings, head, rows[f"{n:,} cells, {head}"], rows[f"{many:,} cells, {head}"], check=not options.quick)
    if options.celltypist:
        beside_celltypist(findings, rows, n)
    return findings.finish(options.json)


def goals(findings: Findings, head: str, few: dict[str, Any], many: dict[str, Any], *, check: bool) -> None:
    """Time and memory of the usual size, growth towards the large one, and that nothing was lost."""
    sizes = findings.figures["sizes"]
    findings.at_most(f"{head}: seconds", few["seconds"], MOST_SECONDS, check=check)
    findings.at_most(f"{head}: peak GB", few["peak_gb"], MOST_GB, check=check)
    growth = (many["peak_gb"] - few["peak_gb"]) * 1e9 / (sizes["many"] - sizes["cells"])
    findings.figures.setdefault("bytes_for_each_further_cell", {})[head] = growth
    findings.at_most(f"{head}: bytes of memory for each further cell", growth, MOST_BYTES, check=check)
    findings.at_least(f"{head}: X comes back", float(few["same_x"] and many["same_x"]), 1)


def beside_celltypist(findings: Findings, rows: dict[str, dict[str, Any]], n: int) -> None:
    """Print and keep how many times CellTypist's time and memory ours are."""
    theirs, ratios = rows[f"{n:,} cells, CellTypist"], {}
    for head in VIEWS:
        ours = rows[f"{n:,} cells, {head}"]
        ratios[head] = {
            "seconds": ours["seconds"] / theirs["seconds"],
            "cpu_seconds": ours["cpu_seconds"] / theirs["cpu_seconds"],
            "peak_gb": ours["peak_gb"] / theirs["peak_gb"],
            "seconds, over celltypist.annotate alone": ours["seconds"] / theirs["annotate_seconds"],
        }
        words = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios[head].items())
        print(f"times CellTypist's, {head}: {words}")
    findings.figures["times_celltypist"] = ratios


if __name__ == "__main__":
    sys.exit(main())
