"""What the language model adds: every row of the table, on cells of a donor or species that nothing was fitted on.

    python benchmarks/features.py ../shared/data/cells --genes ../shared/data/genes [--table FILE] [--celltypist PYTHON]
        [--pairs FILE:COLUMN:VALUE …] [--regimes all few genes] [--panel-genes N] [--work FOLDER] [--json FILE]
        [--quick]

A pair holds out the cells whose COLUMN is VALUE; panels, heads and temperatures see the others alone. Every label of
the test side that is on the training side counts the same, however rare. ``all``: every training label. ``few``: 2, 5
and 20 training cells a label, three draws; the panel saw no label either. ``genes``: the test side has the genes that
the training side has not (``scstore evaluate --hold-out-genes 0.5``), three deals.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is fetched

import numpy as np
from feature_rivals import rivals
from feature_scores import Answers, Gain, gain, mean_f1
from feature_stores import DEFAULT, LABEL, LABEL_FREE, PANEL_GENES, REGRESSION, Pair, Source, Stores
from measuring import Findings, parser, table
from projector import PAIRS, gene_table

import scstore
from scstore.evaluation.design import Split, draw_few
from scstore.evaluation.evaluate import DRAWS

ALL, GENES = "all labels", "disjoint genes"
REGIMES = ("all", "few", "genes")
FEW = (2, 5, 20)
DEALS = 3
SHARE = 0.5
DISJOINT = "across-genes"
"""The row of ``evaluate --hold-out-genes`` that its goal is about."""
DEFAULT_GOAL, READOUT_GOAL, DISJOINT_GOAL = 0.88, 0.85, 0.55
USES = ("model", "gene texts", "nothing", "control")
Table = dict[str, list[Answers]]
"""By the row's name, one a pair."""


def few_name(n_cells: int) -> str:
    return f"{n_cells} cells a label"


def read(tables: dict[str, Table], pair: Pair, source: Source, names: dict[str, str], **asked: Any) -> Any:
    """Evaluate a store's rows and keep what they said, under our names of the regimes; gives the evaluation."""
    found = scstore.evaluate(
        source.store,
        label=LABEL,
        views=source.views,
        controls=source.controls,
        test_on=[f"{pair.column}={pair.value}"],
        min_cells=1,
        **asked,
    )
    ids = pair.cells.obs_names[pair.tested]
    for regime in found.regimes:
        if regime.name not in names:
            continue
        said = found.predictions[found.predictions["regime"] == regime.name].astype({"predicted": str})
        for row in regime.scored.rows:
            wide = said[said["row"] == row.name].pivot(index="run", columns="cell_id", values="predicted")
            predicted = wide.reindex(columns=ids).fillna("").to_numpy(dtype=str)
            keep(tables, names[regime.name], source.prefix + row.name, pair, row.uses, predicted)
    return found


def keep(tables: dict[str, Table], regime: str, row: str, pair: Pair, uses: str, predicted: np.ndarray) -> None:
    answers = Answers(uses, pair.labels[pair.tested], predicted)
    tables.setdefault(regime, {}).setdefault(row, []).append(answers)


def drawn(found: Any, pair: Pair, n_cells: int) -> list[np.ndarray]:
    """Rows of the training cells that the evaluation drew."""
    cells = found.cells
    side = Split(0, "test", np.flatnonzero(~cells.test), np.flatnonzero(cells.test))
    draws = [draw_few(side, cells.codes, n_cells=n_cells, run=draw, seed=0).train for draw in range(DRAWS)]
    return [pair.cells.obs_names.get_indexer(cells.ids[rows]) for rows in draws]


def measure(tables: dict[str, Table], pair: Pair, stores: Stores, options: argparse.Namespace) -> None:
    """Fill the tables of one pair."""
    few = FEW[: 1 if options.quick else None] if "few" in options.regimes else ()
    names = {f"few-shot {n}": few_name(n) for n in few}
    everything = {"folds": ALL} if "all" in options.regimes else {}
    trainings: dict[str, list[np.ndarray]] = {}
    if "all" in options.regimes:
        read(tables, pair, stores.labelled(pair), everything)
        stores.tell("all labels: the panel's rows and controls")
        trainings[ALL] = [np.flatnonzero(~pair.held_out)]
    free = stores.label_free(pair)
    if everything or few:
        found = read(tables, pair, free, everything | names, few_shot=few)
        trainings |= {few_name(n): drawn(found, pair, n) for n in few}
        for source in stores.whole(pair):
            read(tables, pair, source, everything | names, few_shot=few)
        stores.tell("rows without a panel that saw labels")
        for regime, rows in trainings.items():
            for name, said in rivals(pair, rows, celltypist=options.celltypist).items():
                keep(tables, regime, name, pair, "nothing", said)
        stores.tell("PCA" + (", CellTypist" if options.celltypist else ""))
    if "genes" in options.regimes:
        source = Source("", free.store, ("genept_random",), {})
        deals = 1 if options.quick else DEALS
        read(tables, pair, source, {GENES: GENES}, hold_out_genes=SHARE, repeats=deals)
        stores.tell(f"disjoint genes, {deals} deals")


def best(rows: Table, *uses: str) -> str | None:
    """The row of the highest mean macro-F1 among those that use such."""
    mine = [name for name, answers in rows.items() if answers[0].uses in uses]
    return max(mine, key=lambda name: mean_f1(rows[name]), default=None)


def comparisons(regime: str, rows: Table, stores: Stores) -> dict[str, tuple[str, str]]:
    """The comparisons of a regime: those chosen beforehand, then the best with the model and the best without."""
    if regime == GENES:
        chosen = {"gene texts": (DISJOINT, "genept_random")}
    else:
        prefix = "" if regime == ALL else LABEL_FREE
        default, readout = prefix + DEFAULT, prefix + stores.readout
        chosen = {
            "default over no model": (default, prefix + REGRESSION),
            "default over texts and expression": (default, prefix + "genept+X"),
            "default over a random model": (default, f"{prefix}random model: {DEFAULT}"),
            "readout over random genes": (readout, f"{prefix}random genes: {stores.readout}"),
            "readout over a random model": (readout, f"{prefix}random model: {stores.readout}"),
        }
        if regime == ALL:
            chosen["readout over shuffled order"] = (readout, f"shuffled order: {stores.readout}")
    model, nothing = best(rows, "model"), best(rows, "nothing")
    if model is not None and nothing is not None:
        chosen["best with the model over best without"] = (model, nothing)
    return chosen


def show_scores(regime: str, rows: Table, pairs: list[Pair], baseline: str) -> dict[str, Any]:
    """Print a regime's table, what uses the model first; gives its figures."""
    figures: dict[str, Any] = {}
    lines = []
    for uses in USES:
        for name in sorted((n for n in rows if rows[n][0].uses == uses), key=lambda n: -mean_f1(rows[n])):
            answers = rows[name]
            over = None if name == baseline else gain(rows[baseline], answers)
            by_pair = [one.macro_f1 for one in answers]
            accuracy = float(np.mean([one.accuracy for one in answers]))
            figures[name] = {"uses": uses, "macro_f1": mean_f1(answers), "accuracy": accuracy, "by_pair": by_pair}
            figures[name]["baseline_less_this"] = None if over is None else asdict(over)
            shown = [f"{value:.3f}" for value in (mean_f1(answers), accuracy, *by_pair)]
            lines.append([name, uses, *shown, "" if over is None else over.words])
    held_out = [pair.value for pair in pairs]
    last = f"{DISJOINT if regime == GENES else 'default'} - this [95 %]"
    print(f"\n{regime}: macro-F1 and accuracy, means over the pairs; macro-F1 by what is held out")
    table(["features", "uses", "F1", "accuracy", *held_out, last], lines)
    return figures


def show_gains(rows: Table, chosen: dict[str, tuple[str, str]]) -> dict[str, Gain]:
    """Print the comparisons of a regime."""
    found = {}
    for words, (row, other) in chosen.items():
        found[words] = gain(rows[row], rows[other])
        print(
            f"{words}: {row} {mean_f1(rows[row]):.3f}, {other} {mean_f1(rows[other]):.3f}: {found[words].words}: "
            f"{found[words].verdict}"
        )
    return found


def in_words(regime: str, gains: dict[str, Gain], n_pairs: int) -> str:
    """What the model itself added, in a sentence."""
    if regime == GENES:
        found = gains["gene texts"]
        return f"{regime}: gene texts added {found.words}, {found.verdict}; the model's pass has no row here"
    default, model = gains["default over no model"], gains["default over texts and expression"]
    random, readout = gains["default over a random model"], gains["readout over random genes"]
    up = sum(value > 0 for value in random.by_pair)
    return (
        f"{regime}: the model's pass added {model.words} to gene texts and expression, {model.verdict}; over the pass "
        f"of a model of random weights it is {random.words}, {random.verdict} (more in {up} of {n_pairs} pairs). Model "
        f"and texts together added {default.words} to what needs neither, {default.verdict}. Described genes instead "
        f"of random ones moved the readout by {readout.words}, {readout.verdict}."
    )


def arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("folder", type=Path, help="folder of the pairs' .h5ad files")
    made.add_argument("--genes", type=Path, help="folder of NCBI's gene files")
    made.add_argument("--table", type=Path, help="gene table to take")
    made.add_argument("--pairs", nargs="+", default=list(PAIRS), metavar="FILE:COLUMN:VALUE")
    made.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES))
    made.add_argument("--model", default="minilm")
    made.add_argument("--layers", nargs="+", type=int, default=[1, 3, 6])
    made.add_argument("--panel-genes", type=int, default=PANEL_GENES, help="genes of a panel")
    made.add_argument("--top-genes", type=int, default=256, help="genes a cell, where there is no panel")
    made.add_argument("--celltypist", metavar="PYTHON", help="Python of an environment that has CellTypist")
    made.add_argument("--work", type=Path, metavar="FOLDER", help="keep the stores there for the next time")
    options = made.parse_args()
    if options.quick:
        options.pairs = options.pairs[-1:]
    return options


def main() -> int:
    options = arguments()
    findings = Findings("benchmarks/features.py")
    begun = time.perf_counter()
    tables: dict[str, Table] = {}
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
    with nullcontext(options.work) if options.work else tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        genes = gene_table(options, work)
        pairs = [Pair.of(options.folder, words) for words in options.pairs]
        for number, pair in enumerate(pairs, start=1):

            def tell(what: str, told: str = f"{number}/{len(pairs)} {pair.name}") -> None:
                print(f"{time.perf_counter() - begun:6.0f} s  {told}: {what}", flush=True)

            layers = tuple(options.layers)
            stores = Stores(work, genes, options.model, layers, options.top_genes, tell, options.panel_genes)
            measure(tables, pair, stores, options)
    gains: dict[str, dict[str, Gain]] = {}
    figures: dict[str, Any] = {}
    for regime, rows in tables.items():
        # a row can be missing: a method may fail on few cells, which evaluate says
        chosen = {words: two for words, two in comparisons(regime, rows, stores).items() if set(two) <= set(rows)}
        if not chosen:
            continue
        baseline = next(iter(chosen.values()))[0]
        scores = show_scores(regime, rows, pairs, baseline)
        gains[regime] = show_gains(rows, chosen)
        told = {
            words: {"row": chosen[words][0], "other": chosen[words][1], **asdict(found)}
            for words, found in gains[regime].items()
        }
        figures[regime] = {"rows": scores, "gains": told}
    findings.figures["regimes"] = figures
    findings.figures["pairs"] = [
        {"held_out": words, "train": int((~pair.held_out).sum()), "test": len(pair.tested)}
        for words, pair in zip(options.pairs, pairs, strict=True)
    ]
    print(
        "\nIntervals: cells drawn within the pairs; a sixth pair may lie outside them. Rows 'control' use a model or "
        "texts made meaningless.\nThe best of many rows is lucky: the pairs chosen beforehand say more.\n"
    )
    for regime, found in gains.items():
        print(in_words(regime, found, len(pairs)))
    check_goals(findings, figures, stores, check=not options.quick)
    return findings.finish(options.json)


def check_goals(findings: Findings, figures: dict[str, Any], stores: Stores, *, check: bool) -> None:
    """Those of the regimes that were run."""
    if ALL in figures:
        scored = figures[ALL]["rows"]
        better = [
            name
            for name, row in scored.items()
            if row["uses"] in ("nothing", "control") and row["baseline_less_this"]["high"] < 0
        ]
        findings.at_least("default, macro-F1", scored[DEFAULT]["macro_f1"], DEFAULT_GOAL, check=check)
        findings.at_least("readout alone, macro-F1", scored[stores.readout]["macro_f1"], READOUT_GOAL, check=check)
        findings.at_most("controls above the default beyond the interval", float(len(better)), 0, check=check)
    if DISJOINT in figures.get(GENES, {"rows": {}})["rows"]:
        found = figures[GENES]["rows"][DISJOINT]["macro_f1"]
        findings.at_least("disjoint genes, macro-F1", found, DISJOINT_GOAL, check=check)


if __name__ == "__main__":
    raise SystemExit(main())
