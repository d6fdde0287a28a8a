"""A projector trained by ``scstore align`` against the untrained one, on cells it has not seen.

    python benchmarks/projector.py ../shared/data/cells --genes ../shared/data/genes [--pairs FILE:COLUMN:VALUE …]
        [--seeds 0 1 2] [--cells N] [--panel N | none] [--table FILE] [--runs FILE] [--json FILE] [--quick]

A pair holds out the cells whose COLUMN is VALUE; panel, projector and head see the others alone. Each row: macro-F1 of
a linear head (``scstore.LinearHead``) on the readout at the last position and on the weighted mean, before and after.
With a --table of random vectors (``scstore genes build --encoder random:384``) it is the control: what training gives
without any gene text. It takes hours; --runs keeps what is finished, and the same command goes on.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is fetched

import anndata
import numpy as np
from feature_stores import ncbi_table
from measuring import Findings, parser, table
from scipy import stats
from sklearn.metrics import f1_score

import scstore

PAIRS = (
    "pbmc_3donors.h5ad:donor:5p",
    "pbmc_3donors.h5ad:donor:3pv1",
    "pbmc_3donors.h5ad:donor:3pv2",
    "pancreas_human_mouse.h5ad:species:mouse",
    "pancreas_human_mouse.h5ad:species:human",
)
POOLINGS = ("last", "wmean")
COLUMNS = [(pool, side) for pool in POOLINGS for side in ("untrained", "trained")]
GAIN = 0.05
LABEL = "cell_type"


def sides(folder: Path, pair: str, *, seed: int, most: int) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Training and test cells of a pair, at most so many of each."""
    file, column, value = pair.split(":")
    cells = anndata.read_h5ad(folder / file)
    held_out = (cells.obs[column].astype(str) == value).to_numpy()
    rng = np.random.default_rng(seed)
    return tuple(  # type: ignore[return-value]
        cells[np.sort(rng.permutation(np.flatnonzero(side))[:most])].copy() for side in (~held_out, held_out)
    )


def gene_table(options: Any, work: Path) -> Path:
    """The gene table of NCBI's texts for the genes of the cells, encoded once."""
    path = options.table or work / "genes.h5ad"
    if path.exists():
        return path
    if options.genes is None:
        message = "Name the folder of NCBI's gene files with --genes, or a gene table that is there with --table."
        raise SystemExit(message)
    symbols = {
        str(name)
        for file in {pair.partition(":")[0] for pair in options.pairs}
        for name in anndata.read_h5ad(options.folder / file, backed="r").var_names
    }
    return ncbi_table(path, symbols, options.genes, encoder=options.model)


def macro_f1(train: scstore.Store, test: scstore.Store, view: str) -> float:
    """Return the score of a linear head fitted on the training cells, over the labels of the test cells."""
    head = scstore.LinearHead().fit(train.view(view)[:], train.obs[LABEL].astype(str).to_numpy())
    truth = test.obs[LABEL].astype(str).to_numpy()
    found = head.predict(test.view(view)[:])
    return float(f1_score(truth, found, average="macro", labels=np.unique(truth), zero_division=0))


def measure(options: Any, work: Path, genes: Path, pair: str, seed: int, panel: str) -> dict[str, Any]:
    """One pair and seed, before and after training."""
    train, test = sides(options.folder, pair, seed=seed, most=options.cells)
    shared: dict[str, Any] = {
        "model": options.model, "genes": str(genes), "layers": (options.layer,), "pool": POOLINGS, "seed": seed,
        "device": "cpu",
    }  # fmt: skip
    if panel == "none":
        shared["top_genes"] = options.top_genes
    else:
        scstore.panel(train, work / "panel.h5ad", label=LABEL, n_genes=int(panel), overwrite=True)
        shared["panel"] = str(work / "panel.h5ad")
    begun = time.perf_counter()
    projector = scstore.align(
        train, work / "projector", label=LABEL, overwrite=True, recipe=options.recipe, **shared, **options.training
    )
    training = time.perf_counter() - begun
    if options.recipe == "papers":
        shared["expression_scaling"] = "multiply"

    def scores(kind: str) -> dict[str, float]:
        stores = [
            scstore.extract(
                side, work / f"{name}.zarr", overwrite=True, projector=kind, store_dtype="float32", **shared
            )
            for name, side in (("train", train), ("test", test))
        ]
        return {pool: macro_f1(*stores, f"readout_{pool}_l{options.layer}") for pool in POOLINGS}

    return {
        "pair": pair,
        "seed": seed,
        "panel": panel,
        "training_cells": train.n_obs,
        "test_cells": test.n_obs,
        "untrained": scores("aligned"),
        "trained": scores(str(work / "projector")),
        "best_epoch": projector.training["best_epoch"],
        "epochs": len(projector.training["curve"]) - 1,
        "training_seconds": training,
        "seconds": time.perf_counter() - begun,
    }


def interval(differences: list[float]) -> tuple[float, float]:
    """95 % confidence interval of a mean of paired differences (Student's t over the runs)."""
    mean, error = float(np.mean(differences)), float(stats.sem(differences))
    reach = error * float(stats.t.ppf(0.975, len(differences) - 1))
    return mean - reach, mean + reach


def read_finished(path: Path | None) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the runs that a file keeps, by panel, pair and seed."""
    if path is None or not path.exists():
        return {}
    runs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(run["panel"], run["pair"], run["seed"]): run for run in runs}


def main() -> int:
    options_parser = parser(__doc__.splitlines()[0])
    options_parser.add_argument("folder", type=Path, help="folder of the pairs' .h5ad files")
    options_parser.add_argument("--genes", type=Path, help="folder of NCBI's gene files")
    options_parser.add_argument("--pairs", nargs="+", default=list(PAIRS), metavar="FILE:COLUMN:VALUE")
    options_parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options_parser.add_argument("--cells", type=int, default=400, help="cells of each side, at the most")
    options_parser.add_argument("--panel", nargs="+", default=["100", "none"], help="genes of the panel, or none")
    options_parser.add_argument("--top-genes", type=int, default=256, help="genes a cell, where there is no panel")
    options_parser.add_argument("--model", default="minilm")
    options_parser.add_argument("--layer", type=int, default=6)
    options_parser.add_argument("--recipe", default="default")
    options_parser.add_argument("--runs", type=Path, help="file of finished runs (JSON lines), to go on from")
    options_parser.add_argument("--table", type=Path, help="gene table to take, or to keep for the next time")
    for name, kind in (
        ("epochs", int), ("learning-rate", float), ("gene-dropout", float), ("patience", int),
    ):  # fmt: skip
        options_parser.add_argument(f"--{name}", type=kind, help="of the training, in place of the recipe's")
    options = options_parser.parse_args()
    options.training = {
        name: value
        for name in ("epochs", "learning_rate", "gene_dropout", "patience")
        if (value := getattr(options, name)) is not None
    }
    if options.quick:
        options.pairs, options.seeds, options.panel = options.pairs[-1:], options.seeds[:1], options.panel[:1]
        options.cells, options.training = min(options.cells, 60), {"epochs": 1, **options.training}
    found = Findings("benchmarks/projector.py")
    runs: list[dict[str, Any]] = []
    finished = read_finished(options.runs)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        genes = gene_table(options, work)
        for panel, seed in product(options.panel, options.seeds):  # a seed over all pairs first, so that a part is fair
            for pair in options.pairs:
                run = finished.get((panel, pair, seed))
                if run is None:
                    run = measure(options, work, genes, pair, seed, panel)
                    if options.runs is not None:
                        with options.runs.open("a", encoding="utf-8") as kept:
                            kept.write(json.dumps(run) + "\n")
                runs.append(run)
                shown = ", ".join(
                    f"{pool} {run['untrained'][pool]:.3f} -> {run['trained'][pool]:.3f}" for pool in POOLINGS
                )
                print(f"{pair} seed {seed} panel {panel}: {shown} ({run['seconds']:.0f} s)", flush=True)
    print()
    rows = []
    for panel in options.panel:
        for pair in options.pairs:
            mine = [run for run in runs if (run["pair"], run["panel"]) == (pair, panel)]
            means = [np.mean([run[side][pool] for run in mine]) for pool, side in COLUMNS]
            rows.append([pair, panel, *(f"{value:.3f}" for value in means)])
    table(["held out", "panel", *(f"{pool} {side}" for pool, side in COLUMNS)], rows)
    found.figures["runs"] = runs
    found.figures["differences"] = summary = {}
    for pool in POOLINGS:
        differences = [run["trained"][pool] - run["untrained"][pool] for run in runs]
        summary[pool] = {"mean": float(np.mean(differences)), "runs": len(differences)}
        line = f"{pool}: mean difference {np.mean(differences):+.3f} over {len(differences)} runs"
        if len(differences) > 1:
            low, high = interval(differences)
            summary[pool] |= {"low": low, "high": high}
            line += f", 95 % interval {low:+.3f} to {high:+.3f}"
        print(line)
    found.at_least("gain of last, macro-F1", summary["last"]["mean"], GAIN, check=not options.quick)
    found.at_least("gain of wmean, macro-F1", summary["wmean"]["mean"], 0.0, check=not options.quick)
    return found.finish(options.json)


if __name__ == "__main__":
    raise SystemExit(main())
