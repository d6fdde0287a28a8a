"""Which rule finds the genes of a panel best: cells of one group held out, no model.

    python benchmarks/panels.py CELLS.h5ad [--label cell_type] [--group donor] [--hold-out donor] [--json FILE]

For each group held out in turn, each rule fits a panel on the others; a linear head on the log-normalised expression of
its genes, scaled to length 1 a cell, labels the cells held out.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from measuring import Findings, parser, table
from scipy import sparse
from sklearn.metrics import f1_score

import scstore
from scstore.heads.linear import LinearHead

SIZES = (50, 100, 200)
SLACK = 0.02


def features(cells: anndata.AnnData, genes: list[str]) -> np.ndarray:
    """Counts per 10,000, log1p, the panel's genes, length 1."""
    counts = sparse.csr_matrix(cells.X, dtype=np.float64)
    per_cell = np.maximum(np.asarray(counts.sum(axis=1)), 1)
    rows = np.log1p(counts[:, cells.var_names.get_indexer(genes)].toarray() / per_cell * 1e4).astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-9))


def main() -> int:
    options = parser("Which rule finds the genes of a panel best.")
    options.add_argument("cells", type=Path, help="raw counts, .h5ad")
    options.add_argument("--label", default="cell_type")
    options.add_argument("--group", default="donor", help="groups of the grouped rules")
    options.add_argument("--hold-out", help="what is held out; the groups by default")
    words = options.parse_args()
    findings = Findings("panels")
    cells = anndata.read_h5ad(words.cells)
    labels = cells.obs[words.label].astype(str).to_numpy()
    sides = cells.obs[words.hold_out or words.group].astype(str).to_numpy()
    rules: dict[str, dict[str, Any]] = {
        "F": {"label": words.label},
        "F within groups": {"label": words.label, "group": words.group},
        "without labels": {"label_free": True},
        "without labels within groups": {"label_free": True, "group": words.group},
    }
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for rule, how in rules.items():
            for size in SIZES[: 1 if words.quick else None]:
                of_side = []
                for side in np.unique(sides):
                    inside, outside = np.flatnonzero(sides == side), np.flatnonzero(sides != side)
                    known = cells[outside].copy()
                    fitted = scstore.panel(known, Path(scratch) / "p.h5ad", n_genes=size, overwrite=True, **how)
                    genes = list(fitted.obs.index)
                    head = LinearHead().fit(features(known, genes), labels[outside])
                    guess, truth = head.predict(features(cells[inside], genes)), labels[inside]
                    of_side.append(f1_score(truth, guess, labels=np.unique(truth), average="macro", zero_division=0))
                found.setdefault(rule, {})[str(size)] = float(np.mean(of_side))
    table(
        ["macro-F1, mean over those held out", *found["F"]],
        [[rule, *(f"{score:.3f}" for score in row.values())] for rule, row in found.items()],
    )
    findings.figures = {"cells": words.cells.name, "label": words.label, "group": words.group, "macro_f1": found}
    largest = str(SIZES[-1])
    last = {rule: row.get(largest, float("nan")) for rule, row in found.items()}
    check = not words.quick
    findings.at_least("F within groups over F", last["F within groups"] - last["F"], -SLACK, check=check)
    return findings.finish(words.json)


if __name__ == "__main__":
    sys.exit(main())
