"""How sure the across-genes head is, against how often it is right, where no gene is shared.

    scstore genes build -o genes.h5ad --gene-info Homo_sapiens.gene_info.gz --organism human \\
        --template "{symbol}: {name}." --only-genes-of pbmc_3donors.h5ad --only-genes-of pbmc_sorted.h5ad
    python benchmarks/other_genes.py ../shared/data/cells genes.h5ad [--json FILE] [--quick]

Blood donors in turn, on one half of the genes, labelled from the others on the other half; then cells of another
laboratory on 600 genes outside the reference, the most expressed ones or random ones. *One case* is what was measured
on held-out cells with all held-out genes, *looked up* what `predict` takes: the case of the genes at hand.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lab_pairs import BLOOD, COMMON, DONORS, LABEL, SORTED, read
from measuring import Findings, parser, table
from scipy.sparse import csr_matrix

from scstore.genes.table import load_gene_table
from scstore.heads.across_genes import AcrossGenesHead
from scstore.heads.training import one_blas_thread

N_GENES, MARGIN = 600, 0.15
COLUMNS = ("chance", "right", "told_one_case", "sure_one_case", "told", "sure", "kept", "right_kept")


@dataclass(frozen=True)
class Genes:
    """Vectors of genes by symbol, and the mean of all."""

    rows: dict[str, int]
    vectors: np.ndarray
    centre: np.ndarray

    def of(self, names: list[str]) -> np.ndarray:
        """``(n, width)``."""
        return self.vectors[[self.rows[name] for name in names]]


@dataclass(frozen=True)
class Cells:
    """Cells of a file."""

    expression: csr_matrix
    labels: np.ndarray
    genes: list[str]

    def on(self, names: list[str]) -> csr_matrix:
        """Their expression of some genes."""
        place = {name: column for column, name in enumerate(self.genes)}
        return self.expression[:, [place[name] for name in names]]


def measure(genes: Genes, train: Cells, test: Cells, groups: np.ndarray) -> dict[str, float]:
    """Fit on all genes of one side, label the other; groups are the training cells'."""
    known = np.isin(test.labels, train.labels)
    rows, truth = test.expression[known], test.labels[known]
    head = AcrossGenesHead()
    head.fit(train.expression, train.labels, vectors=genes.of(train.genes), centre=genes.centre, groups=groups)
    able, case = head.for_cells(rows, vectors=genes.of(test.genes))
    proba = able.predict_proba(rows, vectors=genes.of(test.genes))
    one_case = head.predict_proba(rows, vectors=genes.of(test.genes)).max(axis=1)
    right = able.classes_[proba.argmax(axis=1)] == truth
    rejection = able.rejection_
    kept = proba.max(axis=1) >= (0 if rejection is None else rejection.thresholds("confidence").confidence)
    return {
        "chance": 1 / len(head.classes_),
        "right": float(right.mean()),
        "told_one_case": head.held_out_["accuracy"],
        "sure_one_case": float(one_case.mean()),
        "told": 0.0 if case is None else case.accuracy,
        "sure": float(proba.max(axis=1).mean()),
        "kept": float(kept.mean()),
        "right_kept": float(right[kept].mean()) if kept.any() else np.nan,
    }


def cells(folder: Path, name: str, genes: Genes, *, common: bool) -> tuple[Cells, np.ndarray]:
    """All cells of a file on the genes that have vectors, and their donors."""
    file = read(folder / f"{name}.h5ad")
    labels = file.obs[LABEL].astype(str).to_numpy()
    if common:
        labels = np.array([COMMON[name].get(label, label) for label in labels])
    there = [column for column, gene in enumerate(file.genes) if gene in genes.rows]
    donors = file.obs["donor"].astype(str).to_numpy() if "donor" in file.obs else np.full(len(labels), "")
    return Cells(csr_matrix(file.expression[:, there]), labels, file.genes[there].tolist()), donors


def main() -> int:
    made = parser(__doc__.split("\n")[0])
    made.add_argument("folder", type=Path, help="folder of the cells")
    made.add_argument("genes", type=Path, help="gene table")
    options: argparse.Namespace = made.parse_args()
    gene_table, findings = load_gene_table(options.genes), Findings("benchmarks/other_genes.py")
    genes = Genes(
        {name: row for row, name in enumerate(gene_table.obs["symbol"])}, gene_table.vectors, gene_table.centre
    )
    found: dict[str, dict[str, float]] = {}
    with one_blas_thread():
        blood, donors = cells(options.folder, BLOOD, genes, common=False)
        dealt = np.random.default_rng(0).permutation(blood.genes).tolist()
        for donor in DONORS[:1] if options.quick else DONORS:
            sides = [
                Cells(blood.on(names)[rows], blood.labels[rows], names)
                for names, rows in ((sorted(dealt[::2]), donors != donor), (sorted(dealt[1::2]), donors == donor))
            ]
            found[f"donor {donor}"] = measure(genes, *sides, donors[donors != donor])
        if not options.quick:
            blood, donors = cells(options.folder, BLOOD, genes, common=True)
            other, _ = cells(options.folder, SORTED, genes, common=True)
            outside = sorted(set(other.genes) - set(blood.genes))
            mean = np.asarray(other.on(outside).mean(axis=0)).ravel()
            highest = [outside[i] for i in np.argsort(-mean, kind="stable")[:N_GENES]]
            drawn = np.random.default_rng(0).choice(outside, N_GENES, replace=False).tolist()
            for name, names in (("most expressed", highest), ("random", drawn)):
                side = Cells(other.on(names), other.labels, names)
                found[f"sorted blood, {N_GENES} {name}"] = measure(genes, blood, side, donors)
    table(["new cells", *COLUMNS], [[name, *(scores[key] for key in COLUMNS)] for name, scores in found.items()])
    findings.figures = {"cells": found}
    for name, scores in found.items():
        for key in ("told", "sure"):
            best = max(scores["right"], scores["chance"])
            findings.at_most(f"{name}: {key} above right, and above chance", scores[key] - best, MARGIN)
    return findings.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
