"""What a cluster leaves behind, put together, and what it does with it: parts merged, and stage 2 on Dask workers.

    python benchmarks/cluster.py [--only merge|dask] [--parts 50] [--cells 20480] [--width 512] [--expressed 100]
        [--rows 500000 5000000] [--workers 4] [--worker-bytes 2000000000] [--threads 2] [--json FILE] [--quick]

Parts are extracted without a model (``pool=()``): companion rows of random gene vectors, half precision, and the
expression, from cells of 2,000 genes with so many expressed. They are merged twice, each in a process of its own, whose
peak of memory is its own: as they are, each ending on the bound of a shard, so that rows are linked; and with a first
part of 1,000 cells, which shifts all bounds, so that rows are written anew. The expression is written anew both times.
Then every row is compared with that of its part. Disk: a part's bytes twice.

Stage 2 (cluster_dask.py): ``fit`` of a linear head and ``predict`` of all cells, from stores of so many rows of 512
features in half precision, by one process and by so many workers on the same cores, each beside a client whose peak of
memory is its own. One process may hold 1 GB of rows, as is the default, and fits them exactly; it streams others
(Adam). Workers sum gradients over parts (L-BFGS), which they hold if they have the memory. On the smallest store a
worker is killed in the middle of each step. Disk: the largest store, 1 kB a row.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from cluster_dask import measure_dask
from measuring import Findings, parser, table
from own_process import in_own_process
from scipy.sparse import csr_matrix
from synthetic_cells import symbols, write_gene_table

N_GENES, SHARD_ROWS, SHIFT = 2_000, 4_096, 1_000
SECONDS, PEAK_GB = 60, 1.0


def make_part(cells: int, *, expressed: int, number: int) -> anndata.AnnData:
    """Counts with labels and a donor of their own; one gene out of every run of equal length is expressed."""
    rng = np.random.default_rng(number)
    step = N_GENES // expressed
    genes = np.arange(expressed) * step + rng.integers(0, step, (cells, expressed))
    counts = rng.geometric(0.4, cells * expressed).astype(np.float32)
    ends = np.arange(cells + 1) * expressed
    matrix = csr_matrix((counts, genes.ravel().astype(np.int32), ends), shape=(cells, N_GENES))
    kinds = pd.Categorical.from_codes(rng.integers(0, 20, cells), [f"type {i}" for i in range(20)])
    obs = pd.DataFrame({"cell_type": kinds, "donor": f"d{number}"}, index=[f"d{number}:{i}" for i in range(cells)])
    return anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=symbols(N_GENES)))


def extract_parts(folder: Path, sizes: list[int], *, expressed: int, shard_rows: int) -> list[Path]:
    """A store each, as jobs of an array leave them."""
    import scstore
    from scstore.progress import Silent

    paths = [folder / f"part{i}.zarr" for i in range(len(sizes))]
    how: dict[str, Any] = {"genes": str(folder / "genes.h5ad"), "pool": (), "companions": ("genept",)}
    for number, (path, cells) in enumerate(zip(paths, sizes, strict=True)):
        part = make_part(cells, expressed=expressed, number=number)
        scstore.extract(part, path, **how, shard_rows=shard_rows, progress=Silent())
    return paths


def merge(paths: list[Path], output: Path) -> dict[str, Any]:
    """Merge, in this process."""
    import scstore

    begun, spent = time.perf_counter(), time.process_time()
    scstore.merge(paths, output)
    return {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - spent}


def compared(paths: list[Path], output: Path) -> tuple[int, float]:
    """How many cells have another row than in their part, and the share of the chunks of views that are linked."""
    import scstore

    merged, start, wrong = scstore.open(output), 0, 0
    for path in paths:
        part = scstore.open(path)
        here = slice(start, start + part.n_obs)
        wrong += int((merged.view("genept")[here] != part.view("genept")[:]).any(axis=1).sum())
        wrong += (merged.view("X")[here] != part.view("X")[:]).nnz
        wrong += int((merged.obs.index[here] != part.obs.index).sum())
        start += part.n_obs
    chunks = [chunk.stat().st_nlink > 1 for chunk in output.glob("obsm/*/c/*/*")]
    return wrong + abs(merged.n_obs - start), sum(chunks) / len(chunks)


def gigabytes(folder: Path, inside: str) -> float:
    return sum(file.stat().st_size for file in folder.glob(f"{inside}/**/*") if file.is_file()) / 1e9


def measure_merge(findings: Findings, words: Any) -> None:
    """Parts of whole shards, and the same behind a small one."""
    n, cells, width, shard_rows = words.parts, words.cells, words.width, SHARD_ROWS
    if words.quick:
        n, cells, width, shard_rows = 5, 64, 16, 32
    with tempfile.TemporaryDirectory(dir=words.scratch) as scratch:
        folder, rows = Path(scratch), []
        write_gene_table(folder / "genes.h5ad", width=width, n_genes=N_GENES)
        shift = SHIFT if not words.quick else 10
        aligned = extract_parts(folder, [cells] * n, expressed=words.expressed, shard_rows=shard_rows)
        (folder / "small").mkdir()
        write_gene_table(folder / "small" / "genes.h5ad", width=width, n_genes=N_GENES)
        small = extract_parts(folder / "small", [shift], expressed=words.expressed, shard_rows=shard_rows)
        shifted = [*small, *aligned[1:]]
        for name, paths in {"parts end on bounds": aligned, "bounds are shifted": shifted}.items():
            output = folder / f"{'merged' if paths is aligned else 'shifted'}.zarr"
            found = in_own_process(merge, paths, output, threads=words.threads)
            wrong, linked = compared(paths, output)
            sizes = {"views_gb": gigabytes(output, "obsm"), "expression_gb": gigabytes(output, "X")}
            rows.append([name, n, found["seconds"], found["cpu_seconds"], found["peak_gb"], linked, *sizes.values()])
            told = {"parts": n, "cells": cells, "width": width, "expressed": words.expressed, "linked": linked}
            findings.figures[name] = {**told, **sizes, **found}
            findings.at_most(f"{name}: rows that differ from the parts'", wrong, 0)
            findings.at_most(f"{name}: seconds", found["seconds"], SECONDS, check=not words.quick)
            findings.at_most(f"{name}: peak GB", found["peak_gb"], PEAK_GB, check=not words.quick)
    print(f"\nmerge: {n} parts, {cells:,} cells each, {width} features, {words.expressed} genes expressed")
    table(["", "parts", "seconds", "CPU s", "peak GB", "chunks linked", "GB of views", "GB of X"], rows)


def main() -> int:
    options = parser("Stores of a job array's parts merged into one.")
    options.add_argument("--parts", type=int, default=50)
    options.add_argument("--cells", type=int, default=20_480, help="of a part")
    options.add_argument("--width", type=int, default=512)
    options.add_argument("--expressed", type=int, default=100, help="genes a cell")
    options.add_argument("--only", choices=("merge", "dask"), help="one of the two parts")
    options.add_argument("--rows", type=int, nargs="+", default=[500_000, 5_000_000], help="of the stores of stage 2")
    options.add_argument("--workers", type=int, default=4)
    options.add_argument("--worker-bytes", type=int, default=2_000_000_000, help="memory of each worker")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--scratch", type=Path, help="folder to work in")
    words = options.parse_args()
    findings = Findings("benchmarks/cluster.py")
    if words.only != "dask":
        measure_merge(findings, words)
    if words.only != "merge":
        with tempfile.TemporaryDirectory(dir=words.scratch) as scratch:
            measure_dask(findings, words, Path(scratch))
    return findings.finish(words.json)


if __name__ == "__main__":
    sys.exit(main())
