"""Labels for another laboratory's cells: the default head beside plain regressions, CellTypist and PCA.

    python benchmarks/transfer.py ../shared/data/cells [--pairs NAME …] [--cuts 0 1 2] [--few 2 5 10] [--all-cells]
        [--genes FOLDER] [--celltypist PYTHON] [--json FILE] [--quick]

Pairs of lab_pairs.py, up to 400 cells a side (with --all-cells also all of them). ``default`` is what `scstore fit`
makes of expression; donors, where the training side has several, are its groups. With --genes (NCBI's gene files) each
first cut is also extracted with the embedded model and a label-free panel, as a user would, and the default there
chooses among expression, gene vectors and readout; each is a row of its own as well. Single regressions are
class-balanced, on the genes of highest ANOVA F; two of them are fused by their mean log-probability. Every setting was
chosen beforehand.

Every cell is labelled for macro-F1, ECE and coverage (the largest share of cells, most confident first, of which 95 %
are right); kept and right are of the labels that stand with the default thresholds. --few: so many labelled training
cells a label, the others without; means over the cuts.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is fetched

import anndata
import numpy as np
from lab_pairs import PAIRS, Cut, cut, few, mean_over
from measuring import Findings, parser, table
from plain_rivals import FUSED, OTHERS, SINGLE, TWO_FUSED, Said, celltypist, certain, fused

import scstore
from scstore.heads.fusion import FusedHead
from scstore.heads.training import one_blas_thread

DEFAULT, CELLTYPIST, KEEP = "default", "CellTypist", 0.95
COLUMNS = ("macro_f1", "kept", "right", "ece", "coverage")
DRAWS = 2000
Scores = dict[str, float]


def default(one: Cut, labelled: np.ndarray | None = None) -> Said:
    """What a head of expression says, fitted on all training cells or on the labelled rows of them."""
    rows = np.arange(len(one.labels)) if labelled is None else labelled
    groups = None if one.groups is None or len(set(one.groups[rows])) < 2 else one.groups[rows]
    head = FusedHead().fit(
        {"X": one.train[rows]},
        one.labels[rows],
        gene_names=one.genes,
        keep=KEEP,
        groups=groups,
        background=None if labelled is None else one.train,
    )
    place = {name: column for column, name in enumerate(one.genes)}
    proba = head.predict_proba({"X": one.test[:, [place[name] for name in head.genes_ or ()]]})
    rejection = head.rejection_
    threshold = 0.0 if rejection is None else rejection.thresholds("confidence").confidence
    return Said(head.classes_, proba, proba.max(axis=1) >= threshold)


def plain(one: Cut) -> dict[str, Said]:
    """All rows of scikit-learn."""
    found = {name: run(one) for name, run in {**SINGLE, **OTHERS}.items()}
    return found | {TWO_FUSED: fused(*(found[name] for name in FUSED))}


def with_model(folder: Path, pair: Any, one: Cut, genes: Path, work: Path) -> dict[str, Said]:
    """The default among expression, gene vectors and readout, and each alone, through stores as a user makes them."""
    sides = []
    for side, rows in zip((pair.train, pair.test), one.rows, strict=True):
        cells = anndata.read_h5ad(folder / f"{side.file}.h5ad")[rows].copy()
        sides.append(cells[:, np.isin(cells.var_names, one.genes)].copy())
    sides[0].obs["transfer_label"], sides[1].obs["transfer_label"] = one.labels, one.truth
    if one.groups is not None:
        sides[0].obs["transfer_group"] = one.groups
    panel, reference, new = work / "panel.h5ad", work / "reference.zarr", work / "new.zarr"
    scstore.panel(sides[0], panel, label_free=True, overwrite=True)
    scstore.extract(sides[0], reference, genes=genes, panel=panel, model="minilm", overwrite=True)
    scstore.extract(sides[1], new, like=reference, overwrite=True)
    found, store = {}, scstore.open(reference)
    rows: dict[str, list[str] | None] = {f"{DEFAULT}, with a model": None}
    rows |= {view: [view] for view in store.default_views if view != "X"}
    for name, views in rows.items():
        head = scstore.fit(
            reference, label="transfer_label", views=views, group=None if one.groups is None else "transfer_group"
        )
        frame = scstore.predict(new, head, proba=True, unassigned="confidence", min_accuracy=0)
        proba = frame[[f"p({label})" for label in head.classes_]].to_numpy()
        found[name] = Said(head.classes_, proba, (frame["status"] == "ok").to_numpy())
    return found


def difference(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Mean over pairs of one row less another, and a 95 % interval from drawing pairs."""
    gap = np.array(first) - np.array(second)
    drawn = np.random.default_rng(0).integers(0, len(gap), (DRAWS, len(gap)))
    low, high = np.quantile(gap[drawn].mean(axis=1), (0.025, 0.975))
    return float(gap.mean()), float(low), float(high)


def summary(runs: dict[str, list[dict[str, Scores]]], key: str) -> dict[str, list[float]]:
    """By row its mean over the cuts of each pair."""
    rows = list(dict.fromkeys(row for of_pair in runs.values() for run in of_pair for row in run))
    return {
        row: [mean_over([[run[row][key]] for run in of_pair if row in run])[0] for of_pair in runs.values()]
        for row in rows
    }


def show(runs: dict[str, list[dict[str, Scores]]], title: str) -> dict[str, Scores]:
    """Print one table, best first, and return its means."""
    print(f"\n{title}")
    by_row = {key: summary(runs, key) for key in COLUMNS}
    means = {row: {key: mean_over([[v] for v in by_row[key][row]])[0] for key in COLUMNS} for row in by_row["macro_f1"]}
    ordered = sorted(means, key=lambda row: -means[row]["macro_f1"])
    lines = [[row, *(f"{v:.3f}" if v == v else "-" for v in means[row].values())] for row in ordered]
    table(["row", "macro-F1", "kept", "right among them", "ECE", "coverage"], lines)
    return means


def goals(findings: Findings, runs: dict[str, list[dict[str, Scores]]], *, check: bool) -> None:
    """Compare the default with the best single regression and with the fusion of two."""
    f1, covered = summary(runs, "macro_f1"), summary(runs, "coverage")
    best = max(SINGLE, key=lambda row: np.mean(f1[row]))
    gap, low, high = difference(f1[DEFAULT], f1[best])
    print(f"\ndefault less the best single regression ({best}): {gap:+.3f} [{low:+.3f}, {high:+.3f}] over pairs")
    findings.at_least(f"macro-F1 over the best single regression's ({best})", gap, 0.01, check=check)
    findings.at_least("macro-F1 over two fused", difference(f1[DEFAULT], f1[TWO_FUSED])[0], -0.002, check=check)
    findings.at_least("coverage over two fused", difference(covered[DEFAULT], covered[TWO_FUSED])[0], 0.0, check=check)
    lines, worst = [], {}
    for place, name in enumerate(runs):
        own = max(SINGLE, key=lambda row: f1[row][place])
        worst[name] = sum(over_cuts(runs[name], best))
        gap, spread = over_cuts(runs[name], own)
        lines.append([name, f"{f1[DEFAULT][place]:.3f}", own, f"{f1[own][place]:.3f}", f"{gap:+.3f} ± {spread:.3f}"])
    print("\nby pair, beside the regression that turned out best there; ± over cuts")
    table(["pair", "default", "best regression", "macro-F1", "default less it"], lines)
    where = min(worst, key=lambda name: worst[name])
    findings.at_least(f"worst pair ({where}), plus its interval", worst[where], 0.0, check=check)


def over_cuts(of_pair: list[dict[str, Scores]], row: str) -> tuple[float, float]:
    """Mean and 95 % half-width, over the cuts, of the default's macro-F1 less that of a row."""
    gaps = [run[DEFAULT]["macro_f1"] - run[row]["macro_f1"] for run in of_pair]
    spread = float(np.std(gaps, ddof=1)) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    return float(np.mean(gaps)), 1.96 * spread


def main() -> int:
    made = parser(__doc__.split("\n")[0])
    made.add_argument("folder", type=Path, help="folder of the cells")
    made.add_argument("--pairs", nargs="+", choices=[pair.name for pair in PAIRS], metavar="NAME")
    made.add_argument("--cuts", nargs="+", type=int, default=[0, 1, 2])
    made.add_argument("--few", nargs="*", type=int, default=[2, 5, 10], help="labelled cells a label")
    made.add_argument("--all-cells", action="store_true", help="also with all cells of both sides")
    made.add_argument("--genes", type=Path, help="folder of NCBI's gene files: also the rows with a model")
    made.add_argument("--celltypist", metavar="PYTHON", help="Python of an environment that has CellTypist")
    options: argparse.Namespace = made.parse_args()
    findings = Findings("benchmarks/transfer.py")
    pairs = [pair for pair in PAIRS if options.pairs is None or pair.name in options.pairs]
    pairs, cuts = (pairs[:1], [0]) if options.quick else (pairs, options.cuts)
    tables: dict[str, dict[str, list[dict[str, Scores]]]] = {"all labels": {}}
    tables |= {f"{n} labelled cells a label": {} for n in options.few}
    tables |= {"all cells": {}} if options.all_cells else {}

    def scored(one: Cut, answers: dict[str, Said]) -> dict[str, Scores]:
        return {row: answer.scores(one.truth) for row, answer in answers.items()}

    with one_blas_thread(), tempfile.TemporaryDirectory() as work:
        for pair in pairs:
            for seed in cuts:
                one = cut(options.folder, pair, seed)
                answers = {DEFAULT: default(one), **plain(one)}
                if options.celltypist:
                    answers[CELLTYPIST] = certain(celltypist(options.celltypist, one), np.unique(one.labels))
                if options.genes and seed == cuts[0]:
                    answers |= with_model(options.folder, pair, one, options.genes, Path(work))
                found = scored(one, answers)
                if CELLTYPIST in found:
                    found[CELLTYPIST] |= {"ece": np.nan, "coverage": np.nan}  # labels alone
                tables["all labels"].setdefault(pair.name, []).append(found)
                for n in options.few:
                    labelled = few(one.labels, n, np.random.default_rng(seed))
                    known = Cut(
                        one.name,
                        one.train[labelled],
                        one.test,
                        one.labels[labelled],
                        one.truth,
                        one.genes,
                        None,
                        one.rows,
                    )
                    said = {DEFAULT: default(one, labelled), **{name: run(known) for name, run in SINGLE.items()}}
                    tables[f"{n} labelled cells a label"].setdefault(pair.name, []).append(scored(one, said))
            if options.all_cells:
                one = cut(options.folder, pair, 0, cells=sys.maxsize)
                tables["all cells"][pair.name] = [scored(one, {DEFAULT: default(one), **plain(one)})]
            print(f"  {pair.name}", flush=True)
    findings.figures = {"runs": tables}
    findings.figures["means"] = {
        name: show(runs, f"{name}: means over {len(runs)} pairs") for name, runs in tables.items()
    }
    goals(findings, tables["all labels"], check=not options.quick)
    return findings.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
