"""What genes that new cells do not have cost, and what the head says of it.

    python benchmarks/missing_genes.py ../shared/data/cells [--pairs NAME …] [--cuts 0 1 2] [--celltypist PYTHON]
        [--json FILE] [--quick]

Pairs of lab_pairs.py: another donor, assay, species, tissue or laboratory; up to 400 cells a side. Genes are taken from
the test side, at random or the lowest expressed of the training cells first: the same share of the 200 genes of highest
ANOVA F (the panel) and of all others that the head reads. Rows: the head with zeros or with training means in the
place of what is missing, a class-balanced regression refitted on the panel genes that are left (standardised, C .05),
CellTypist trained on all genes that are left (first cut alone), and scstore: `predict` on the cells as they are.
Macro-F1 and coverage (the largest share of cells, most confident first, of which 95 % are right) count every cell; kept
and right are of the labels that stand with the default thresholds: none where `predict` refuses.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from lab_pairs import PAIRS, Cut, cut, mean_over
from measuring import Findings, parser, table
from plain_rivals import Said, best_genes, celltypist, certain
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scstore.heads.fusion import FusedHead
from scstore.heads.training import one_blas_thread

PANEL, KEEP, MIN_ACCURACY = 200, 0.95, 0.8
RATES, ORDERS = (0.25, 0.5, 0.75), ("random", "lowest")
COLUMNS = ("macro_f1", "kept", "right", "ece", "coverage")
ZEROS, MEANS, REFIT, CELLTYPIST, OWN = "zeros", "training means", "refitted regression", "CellTypist", "scstore"
Scores = dict[str, float]


def masks(panel: np.ndarray, others: np.ndarray, mean: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Columns taken away, by the case's name."""
    rng, found = np.random.default_rng(seed), {}
    for rate in RATES:
        for order in ORDERS:
            taken = []
            for genes in (panel, others):
                ranked = rng.permutation(genes) if order == "random" else genes[np.argsort(mean[genes], kind="stable")]
                taken.append(ranked[: round(rate * len(genes))])
            found[f"{rate:.0%} {order}"] = np.concatenate(taken)
    return found


def said(head: FusedHead, rows: np.ndarray) -> Said:
    """What a head says of cells, and which labels stand."""
    proba, rejection = head.predict_proba({"X": rows}), head.rejection_
    threshold = 0.0 if rejection is None else rejection.thresholds("confidence").confidence
    return Said(head.classes_, proba, proba.max(axis=1) >= threshold)


def measure(one: Cut, seed: int, python: str | None) -> dict[str, dict[str, Scores]]:
    """Scores of each row, by the case's name."""
    head = FusedHead().fit({"X": one.train}, one.labels, gene_names=one.genes, keep=KEEP, groups=one.groups)
    place = {name: column for column, name in enumerate(one.genes)}
    genes = np.array([place[name] for name in head.genes_ or ()])
    panel = best_genes(one.train, one.labels, PANEL)
    mean = one.train.mean(axis=0)
    found: dict[str, dict[str, Scores]] = {}
    cases = {"0%": np.zeros(0, dtype=np.int64), **masks(panel, np.setdiff1d(genes, panel), mean, seed)}
    for name, taken in cases.items():
        test = one.test.copy()
        test[:, taken] = 0
        measured = ~np.isin(genes, taken)
        averaged = test.copy()
        averaged[:, taken] = mean[taken]
        able, estimate, case = head.for_genes(measured)
        rows = test[:, genes] if estimate is None else estimate.complete(test[:, genes])
        left = panel[~np.isin(panel, taken)]
        refit = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, class_weight="balanced", max_iter=2000))
        refit.fit(one.train[:, left], one.labels)
        answers = {
            ZEROS: said(head, test[:, genes]),
            MEANS: said(head, averaged[:, genes]),
            REFIT: Said(refit.classes_, refit.predict_proba(test[:, left])),
            OWN: said(able, rows),
        }
        if python is not None and not seed:
            every = np.setdiff1d(np.arange(len(one.genes)), taken)
            answers[CELLTYPIST] = certain(celltypist(python, one, every), head.classes_)
        found[name] = {row: answer.scores(one.truth) for row, answer in answers.items()}
        if CELLTYPIST in found[name]:
            found[name][CELLTYPIST] |= {"ece": np.nan, "coverage": np.nan}  # labels alone
        if case is not None:
            refused = case.accuracy < MIN_ACCURACY
            found[name][OWN] |= {"told": case.accuracy, "refused": float(refused)}
            if refused:
                found[name][OWN] |= {"kept": 0.0, "right": np.nan}
    return found


def main() -> int:
    made = parser(__doc__.split("\n")[0])
    made.add_argument("folder", type=Path, help="folder of the cells")
    made.add_argument("--pairs", nargs="+", choices=[pair.name for pair in PAIRS], metavar="NAME")
    made.add_argument("--cuts", nargs="+", type=int, default=[0, 1, 2])
    made.add_argument("--celltypist", metavar="PYTHON", help="Python of an environment that has CellTypist")
    options: argparse.Namespace = made.parse_args()
    findings = Findings("benchmarks/missing_genes.py")
    pairs = [pair for pair in PAIRS if options.pairs is None or pair.name in options.pairs]
    pairs, cuts = (pairs[:1], [0]) if options.quick else (pairs, options.cuts)
    runs: dict[str, list[dict[str, dict[str, Scores]]]] = {}
    with one_blas_thread():
        for pair in pairs:
            runs[pair.name] = [measure(cut(options.folder, pair, seed), seed, options.celltypist) for seed in cuts]
            print(f"  {pair.name}", flush=True)
    cases = list(runs[pairs[0].name][0])
    means: dict[str, dict[str, Scores]] = {}
    for case in cases:
        print(f"\n{case} missing: means over {len(pairs)} pairs and {len(cuts)} cuts")
        lines = []
        for row in (ZEROS, MEANS, REFIT, CELLTYPIST, OWN):
            found = [run[case][row] for of_pair in runs.values() for run in of_pair if row in run[case]]
            if not found:
                continue
            values = dict(zip(COLUMNS, mean_over([[one[key] for key in COLUMNS] for one in found]), strict=True))
            means.setdefault(case, {})[row] = values
            lines.append([row, *(f"{values[key]:.3f}" if values[key] == values[key] else "-" for key in COLUMNS)])
        table(["row", "macro-F1", "kept", "right among them", "ECE", "coverage"], lines)
    findings.figures = {"pairs": runs, "means": means}
    check = not options.quick
    for case in cases:
        own, refit, rate = means[case][OWN], means[case][REFIT], float(case.split("%")[0])
        for key in ("macro_f1", "coverage"):
            name = f"{case}: {key} over the refitted regression's"
            findings.at_least(name, own[key] - refit[key], 0.0, check=check)
        if rate <= 50:
            findings.at_most(f"{case}: ECE", own["ece"], 0.08 if rate <= 25 else 0.1, check=check)
        findings.at_least(f"{case}: right among the kept", own["right"], 0.92, check=check)
    return findings.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
