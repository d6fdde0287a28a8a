"""Whether a head's confidence means what it says, and whether it notices cells of a type that it never saw.

    python benchmarks/confidence.py ../shared/data/cells --genes ../shared/data/genes [--table FILE] [--work FOLDER]
        [--pairs FILE:COLUMN:VALUE …] [--sorted FILE.h5ad] [--promised TYPE …] [--seeds 0 1 2] [--json FILE] [--quick]

Calibration: each pair holds out the cells whose COLUMN is VALUE; panel, head and temperatures see the others alone
(``scstore evaluate --test-on``, the default views). The calibration error (ECE, 15 bins) of so few cells is above 0
even where every confidence is true: ``by chance`` is what it would be then on average, from labels drawn by the
confidences themselves. ``±`` is the standard deviation over draws of the test cells. Another species is another kind of
data: a row to know, no promise.

Rejection: in the sorted cells each type is left out of training in turn, and three tenths of each other type as well:
those are the known cells. The head is that of ``scstore fit`` (five folds, ``--keep 0.95``). The panel there saw no
labels. AUROC: known against unknown cells, by confidence and by novelty. Rejected: the share of the correctly labelled
known cells that each rule of ``scstore predict --unassigned`` would not label; 5 % are meant to be.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is fetched

import numpy as np
from feature_stores import DEFAULT, LABEL, Pair, Stores
from measuring import Findings, parser, table
from projector import PAIRS, gene_table
from sklearn.metrics import roc_auc_score

import scstore
from scstore.evaluation.runs import with_genes
from scstore.heads.fusion import FusedHead
from scstore.heads.rows import Array, RowSubset
from scstore.heads.scores import reliability
from scstore.heads.training import one_blas_thread

HEADS = ("linear", "mlp", "knn")
RULES = ("confidence", "distance", "both")
SORTED, PROMISED = "pbmc_sorted.h5ad", ("bcells", "monocytes", "nk")
SORTED_PANEL = 200
KNOWN, KEEP = 0.3, 0.95
ECE, AUROC = 0.05, 0.9
DRAWS = 500
WITHIN = "donor"
"""The column of the pairs that are of one kind of data."""


def calibration_error(confidence: Array, right: Array) -> float:
    """ECE from confidences and hits, as the product counts it."""
    bins = reliability_of(confidence, right)
    return float(sum(one["n"] * abs(one["confidence"] - one["accuracy"]) for one in bins) / len(right))


def reliability_of(confidence: Array, right: Array) -> list[dict[str, Any]]:
    """The product's reliability diagram, of confidences and hits alone."""
    proba = np.stack([confidence, np.full(len(confidence), -1.0)], axis=1)
    return reliability(np.where(right, 0, 1), proba)


def calibration_of(store: Path, pair: Pair, views: str, head: str, seeds: list[int]) -> dict[str, Any]:
    """Return the calibration of a head on the cells held out."""
    runs, rng = [], np.random.default_rng(0)
    for seed in seeds:
        found = scstore.evaluate(
            store,
            label=LABEL,
            head=head,
            views=[views],
            test_on=[f"{pair.column}={pair.value}"],
            min_cells=1,
            seed=seed,
        )
        said = found.predictions
        confidence = said["confidence"].to_numpy(dtype=float)
        right = (said["predicted"].astype(str) == said["label"].astype(str)).to_numpy()
        again = (rng.integers(0, len(right), len(right)) for _ in range(DRAWS))
        runs.append(
            {
                "ece": float(found.regimes[0].scored.scores["ece"].iloc[0]),
                "accuracy": float(right.mean()),
                "confidence": float(confidence.mean()),
                "by_chance": float(
                    np.mean([calibration_error(confidence, rng.random(len(right)) < confidence) for _ in range(DRAWS)])
                ),
                "sd": float(np.std([calibration_error(confidence[rows], right[rows]) for rows in again])),
                "reliability": reliability_of(confidence, right),
            }
        )
    means = {name: float(np.mean([run[name] for run in runs])) for name in runs[0] if name != "reliability"}
    return {"n": len(pair.tested), **means, "ece_by_seed": [run["ece"] for run in runs], "runs": runs}


def calibration(options: argparse.Namespace, stores: Stores, pairs: list[Pair]) -> dict[str, dict[str, Any]]:
    """Every pair and head, printed; by the pair's words."""
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        panel = stores.panel(pair, "panel", label=LABEL)
        name = f"{pair.name}-confidence"
        store = stores.extract(pair, name, panel=panel, layers=stores.layers, pool=("wmean",))
        words = f"{pair.file.name}:{pair.column}:{pair.value}"
        found[words] = {head: calibration_of(store, pair, DEFAULT, head, options.seeds) for head in options.heads}
        stores.tell(f"calibration, {words} held out")
    rows = [
        [words.partition(":")[2], head, one["n"], *(f"{one[k]:.3f}" for k in ("accuracy", "confidence")),
         f"{one['ece']:.3f} ±{one['sd']:.3f}", f"{min(one['ece_by_seed']):.3f} - {max(one['ece_by_seed']):.3f}",
         f"{one['by_chance']:.3f}", verdict(one)]
        for words, heads in found.items()
        for head, one in heads.items()
    ]  # fmt: skip
    print(f"\ncalibration on held-out cells, the default head, means over {len(options.seeds)} seeds")
    table(["held out", "head", "cells", "accuracy", "confidence", "ECE", "by seed", "by chance", ""], rows)
    for words, heads in found.items():
        first = next(iter(heads))
        shown = heads[first]["runs"][0]["reliability"]
        listed = ", ".join(f"{b['confidence']:.2f}: {b['accuracy']:.2f} ({b['n']})" for b in shown if b["n"] >= 10)
        print(f"{words}, {first}, confidence: accuracy (cells), bins of 10 and more: {listed}")
    return found


def verdict(one: dict[str, Any]) -> str:
    """Say whether confidence is too high or too low, where it is off by more than chance."""
    if one["ece"] <= ECE:
        return ""
    way = "too sure" if one["confidence"] > one["accuracy"] else "too unsure"
    return f"{way} by {abs(one['confidence'] - one['accuracy']):.2f}"


def left_out(store: Path, name: str, views: list[str], seed: int) -> dict[str, Any]:
    """A head that never saw a type, on its cells and on known ones."""
    opened = scstore.open(store)
    labels = opened.obs[LABEL].astype(str).to_numpy()
    rng, known = np.random.default_rng(seed), []
    for other in np.unique(labels[labels != name]):
        mine = rng.permutation(np.flatnonzero(labels == other))
        known.append(mine[: round(KNOWN * len(mine))])
    tested, unknown = np.sort(np.concatenate(known)), np.flatnonzero(labels == name)
    train = np.setdiff1d(np.flatnonzero(labels != name), tested)
    rows = {view: opened.view(view) for view in views}
    genes = list(opened.expression_genes.index)
    head = FusedHead(random_state=seed)
    with one_blas_thread():
        head.fit(
            {view: RowSubset(matrix, train) for view, matrix in rows.items()},
            labels[train],
            gene_names=genes if "X" in views else None,
            keep=KEEP,
            optional=[view for view in views if view != "X"] if "X" in views else (),
        )
        index = np.concatenate([tested, unknown])
        test = {
            view: with_genes(RowSubset(matrix, index), head, genes) if view == "X" else RowSubset(matrix, index)
            for view, matrix in rows.items()
        }
        said = head.judge(test)
    rejection, proba, novelty = head.rejection_, said.proba, said.novelty
    if rejection is None or novelty is None:
        message = f"{name} left out: no held-out cell was labelled correctly, so there are no thresholds."
        raise SystemExit(message)
    confidence, is_known = proba.max(axis=1), np.arange(len(index)) < len(tested)
    right = is_known & (head.classes_[proba.argmax(axis=1)] == labels[index])
    rejected, caught = {}, {}
    for rule in RULES:
        limits = rejection.thresholds(rule)
        fails = (confidence < limits.confidence) | (novelty > limits.novelty)
        rejected[rule], caught[rule] = float(fails[right].mean()), float(fails[~is_known].mean())
    return {
        "auroc_confidence": float(roc_auc_score(is_known, confidence)),
        "auroc_novelty": float(roc_auc_score(~is_known, novelty)),
        "known_rejected": rejected,
        "unknown_rejected": caught,
        "n_right": int(right.sum()),
        "n_unknown": len(unknown),
        "n_thresholds": len(rejection.confidence),
    }


def rejection(options: argparse.Namespace, stores: Stores) -> dict[str, Any]:
    """Every type left out in turn, by the default views and without ``X``, printed."""
    cells = Pair(options.folder / options.sorted, LABEL, "")
    # no cell is held out of a panel that saw no labels
    panel = stores.panel(cells, "sorted", label_free=True, n_genes=options.sorted_panel)
    store = stores.extract(cells, f"{cells.file.stem}-confidence", panel=panel, layers=stores.layers, pool=("wmean",))
    stores.tell("sorted cells extracted")
    types = options.promised if options.quick else [str(name) for name in np.unique(cells.labels)]
    figures: dict[str, Any] = {}
    for title, views in ((DEFAULT, f"{stores.readout}+genept+X"), ("without X", f"{stores.readout}+genept")):
        figures[title] = {}
        for name in types:
            runs = [left_out(store, name, views.split("+"), seed) for seed in options.seeds]
            mean: dict[str, Any] = {k: float(np.mean([r[k] for r in runs])) for k in runs[0] if k.startswith("auroc")}
            for side in ("known_rejected", "unknown_rejected"):
                mean[side] = {rule: float(np.mean([r[side][rule] for r in runs])) for rule in RULES}
            figures[title][name] = {**mean, "runs": runs}
        stores.tell(f"types left out in turn, {views}")
        rows = [
            [name, one["runs"][0]["n_unknown"], *(spread(one, k) for k in ("auroc_confidence", "auroc_novelty")),
             *(f"{one[side][rule]:.3f}" for side in ("known_rejected", "unknown_rejected") for rule in RULES)]
            for name, one in figures[title].items()
        ]  # fmt: skip
        print(f"\nleft out, {views} ({title}), means over {len(options.seeds)} splits; AUROC ± sd over splits")
        header = ["left out", "cells", "AUROC confidence", "AUROC novelty"]
        table([*header, *(f"{who} rejected, {rule}" for who in ("known", "unknown") for rule in RULES)], rows)
    return figures


def spread(one: dict[str, Any], name: str) -> str:
    """Mean over the splits and, where there are some, the standard deviation."""
    values = [run[name] for run in one["runs"]]
    return f"{np.mean(values):.3f}" + (f" ±{np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def allowance(types: dict[str, Any]) -> float:
    """Two standard deviations of a rejected share of 5 %: of its test cells, and of the cells of the threshold.

    A type's runs count as one: they share cells.
    """
    n = np.mean([run["n_right"] for one in types.values() for run in one["runs"]])
    m = np.mean([run["n_thresholds"] for one in types.values() for run in one["runs"]])
    return float(2 * np.sqrt(KEEP * (1 - KEEP) * (1 / n + 1 / m)))


def arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("folder", type=Path, help="folder of the .h5ad files")
    made.add_argument("--genes", type=Path, help="folder of NCBI's gene files")
    made.add_argument("--table", type=Path, help="gene table to take")
    made.add_argument("--pairs", nargs="+", default=list(PAIRS), metavar="FILE:COLUMN:VALUE")
    made.add_argument("--sorted", default=SORTED, metavar="FILE", help="cells whose types are left out in turn")
    made.add_argument("--sorted-panel", type=int, default=SORTED_PANEL, metavar="N", help="genes of their panel")
    made.add_argument("--promised", nargs="+", default=list(PROMISED), metavar="TYPE", help="types of the goal")
    made.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    made.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    made.add_argument("--model", default="minilm")
    made.add_argument("--layer", type=int, default=1)
    made.add_argument("--work", type=Path, metavar="FOLDER", help="keep the stores there for the next time")
    options = made.parse_args()
    if options.quick:
        options.pairs, options.heads, options.seeds = options.pairs[:1], options.heads[:1], options.seeds[:1]
    return options


def main() -> int:
    options = arguments()
    findings = Findings("benchmarks/confidence.py")
    begun = time.perf_counter()
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
    with nullcontext(options.work) if options.work else tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        # the table is of the genes of all cells
        every = argparse.Namespace(**{**vars(options), "pairs": [*options.pairs, f"{options.sorted}::"]})
        genes = gene_table(every, work)

        def tell(what: str) -> None:
            print(f"{time.perf_counter() - begun:6.0f} s  {what}", flush=True)

        stores = Stores(work, genes, options.model, (options.layer,), 0, tell)
        calibrated = calibration(options, stores, [Pair.of(options.folder, words) for words in options.pairs])
        rejected = rejection(options, stores)
    findings.figures = {"calibration": calibrated, "rejection": rejected, "keep": KEEP, "known_share": KNOWN}
    goals(findings, calibrated, rejected, options.promised, check=not options.quick)
    return findings.finish(options.json)


def goals(
    findings: Findings, calibrated: dict[str, Any], rejected: dict[str, Any], promised: list[str], *, check: bool
) -> None:
    """Calibration of the default head on other donors; rejection by the default views."""
    for words, heads in calibrated.items():
        _, column, value = words.split(":")
        if column == WITHIN and "linear" in heads:
            findings.at_most(f"{value} held out: ECE", heads["linear"]["ece"], ECE, check=check)
    types = rejected["default"]
    for name in promised:
        better = max(types[name]["auroc_confidence"], types[name]["auroc_novelty"])
        findings.at_least(f"{name} left out: AUROC of the better score", better, AUROC, check=check)
    allowed = 1 - KEEP + allowance(types)
    for rule in RULES:
        share = float(np.mean([one["known_rejected"][rule] for one in types.values()]))
        findings.at_most(f"known cells rejected, {rule}, mean over types left out", share, allowed, check=check)


if __name__ == "__main__":
    sys.exit(main())
