"""Which genes and which cells missing genes should be estimated from: as `scstore fit` does, balanced, or more genes.

    python benchmarks/gene_covariance.py ../shared/data/cells [--pairs NAME …] [--json FILE] [--quick]

Pairs of lab_pairs.py, up to 400 cells a side, one draw. The rows: the default head; its covariance from as many cells
of each label (drawn with replacement); and a head of 2,048 genes (fewer where fewer vary). Of each head's genes a share
is taken from the test cells. A comparison without goals.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is fetched

import numpy as np
from lab_pairs import PAIRS, Cut, cut, mean_over
from measuring import Findings, parser, table
from missing_genes import COLUMNS, KEEP, Scores, masks, said

from scstore.heads.fusion import FusedHead
from scstore.heads.training import one_blas_thread

ROWS = ("default", "balanced covariance", "2,048 genes")
MANY = 2048


def fitted(row: str, one: Cut) -> FusedHead:
    """The head of a row."""
    head = FusedHead(n_genes=MANY if row == ROWS[2] else None)
    background = None
    if row == ROWS[1]:
        rng, codes = np.random.default_rng(0), np.unique(one.labels, return_inverse=True)[1]
        each = int(np.bincount(codes).max())
        background = one.train[np.concatenate([rng.choice(np.flatnonzero(codes == c), each) for c in np.unique(codes)])]
    how = {"gene_names": one.genes, "keep": KEEP, "groups": one.groups, "background": background}
    return head.fit({"X": one.train}, one.labels, **how)


def measure(one: Cut) -> dict[str, dict[str, Scores]]:
    """Scores of each row, by the case's name."""
    found: dict[str, dict[str, Scores]] = {}
    place, mean = {name: column for column, name in enumerate(one.genes)}, one.train.mean(axis=0)
    none = np.zeros(0, dtype=np.int64)
    for row in ROWS:
        head = fitted(row, one)
        genes = np.array([place[name] for name in head.genes_ or ()])
        for name, taken in {"0%": none, **masks(genes, none, mean, 0)}.items():
            able, estimate, _ = head.for_genes(~np.isin(genes, taken))
            test = one.test.copy()
            test[:, taken] = 0
            rows = test[:, genes] if estimate is None else estimate.complete(test[:, genes])
            found.setdefault(name, {})[row] = said(able, rows).scores(one.truth)
    return found


def main() -> int:
    made = parser(__doc__.split("\n")[0])
    made.add_argument("folder", type=Path, help="folder of the cells")
    made.add_argument("--pairs", nargs="+", choices=[pair.name for pair in PAIRS], metavar="NAME")
    options: argparse.Namespace = made.parse_args()
    findings = Findings("benchmarks/gene_covariance.py")
    pairs = [pair for pair in PAIRS if options.pairs is None or pair.name in options.pairs]
    pairs = pairs[:1] if options.quick else pairs
    with one_blas_thread():
        runs = {pair.name: measure(cut(options.folder, pair, 0)) for pair in pairs}
    means: dict[str, dict[str, Scores]] = {}
    for case in runs[pairs[0].name]:
        print(f"\n{case} missing: means over {len(pairs)} pairs")
        for row in ROWS:
            values = mean_over([[run[case][row][key] for key in COLUMNS] for run in runs.values()])
            means.setdefault(case, {})[row] = dict(zip(COLUMNS, values, strict=True))
        lines = [[row, *(f"{means[case][row][key]:.3f}" for key in COLUMNS)] for row in ROWS]
        table(["row", "macro-F1", "kept", "right among them", "ECE", "coverage"], lines)
    findings.figures = {"pairs": runs, "means": means}
    return findings.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
