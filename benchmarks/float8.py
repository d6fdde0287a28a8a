"""What float8 changes: hidden states and labels of a trained model, beside float32 and bfloat16.

    python benchmarks/float8.py ../shared/data/cells [--cells 60] [--pairs NAME …] [--json FILE] [--quick]

SmolLM2-135M reads the symbols of both sides of pairs of lab_pairs.py (label-free panel) in each precision, on the CPU:
rounding is the same as on a GPU, speed is not. Cosines are to the rows in float32; macro-F1 is that of class-balanced
regressions on standardised columns, fitted on one side, of the other side's cells.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is fetched

import numpy as np
from decoder_rows import Known, Matrix, settings
from decoder_stores import sides
from device_passes import cosines
from lab_pairs import PAIRS
from measuring import Findings, parser, table

import scstore

PRECISIONS = ("float32", "bfloat16", "float8")
PAIRED = ("blood, donor 3pv1 left out", "pancreas, human to mouse")
LAYERS, POOLINGS, GENES, C = (4, 12), ("wmean", "last"), 64, 0.1
LOST = 0.01


def main() -> int:
    options_parser = parser(__doc__.splitlines()[0])
    options_parser.add_argument("data", type=Path)
    options_parser.add_argument("--cells", type=int, default=60, help="a side (default 60)")
    options_parser.add_argument("--pairs", nargs="+", default=PAIRED, choices=[pair.name for pair in PAIRS])
    options = options_parser.parse_args()
    n_cells, layers = (24, (1, 2)) if options.quick else (options.cells, LAYERS)
    found = Findings("benchmarks/float8.py")
    lines, lost = [], {pool: [] for pool in POOLINGS}
    with tempfile.TemporaryDirectory(prefix="bench-float8-") as scratch:
        for pair in (pair for pair in PAIRS if pair.name in options.pairs):
            one = sides(options.data, pair, Path(scratch), cells=n_cells, genes=GENES, seed=0)
            n, rows = len(one.read), {}
            for dtype in PRECISIONS:
                store = scstore.extract(
                    one.cells, one.folder / f"{dtype}.zarr", model="smollm2", input="symbols", layers=layers,
                    pool=POOLINGS, panel=one.folder / "panel.h5ad", store_dtype="float32", dtype=dtype, device="cpu",
                    keep_expression=False, min_match=0.0, progress=False,
                )  # fmt: skip
                rows[dtype] = {name: np.asarray(store.view(name)[:]) for name in store.views}
                print(f"{pair.name}: read in {dtype}", flush=True)
            known = Known(np.arange(n), one.cut.labels[one.read])
            for view, exact in rows["float32"].items():
                f1 = {}
                for dtype in PRECISIONS:
                    values = rows[dtype][view]
                    scaled = Matrix(values[:n], values[n:]).scaled()
                    said = settings({view: scaled}, (C / values.shape[1],), known)[0].said
                    f1[dtype] = said.scores(one.cut.truth[one.tested])["macro_f1"]
                near = {dtype: cosines(exact, rows[dtype][view]) for dtype in PRECISIONS[1:]}
                found.figures[f"{pair.name}, {view}"] = {
                    "macro_f1": f1,
                    "median_cosine_to_float32": {dtype: float(np.median(cosine)) for dtype, cosine in near.items()},
                }
                lost[view.split("_")[1]].append(f1["bfloat16"] - f1["float8"])
                cosine = [f"{np.median(c):.5f} ({c.min():.5f})" for c in near.values()]
                lines.append([pair.name, view, *cosine, *(f"{f1[dtype]:.3f}" for dtype in PRECISIONS)])
    print()
    table(
        ["pair", "readout", "cosine, bfloat16", "cosine, float8", *(f"macro-F1, {name}" for name in PRECISIONS)], lines
    )
    for pool, gaps in lost.items():
        found.at_most(
            f"macro-F1 lost by float8 to bfloat16, {pool}", float(np.mean(gaps)), LOST, check=not options.quick
        )
    return found.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
