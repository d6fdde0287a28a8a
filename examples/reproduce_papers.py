"""The experiment of scInterpreter, scReader and GenePT on your own labelled cells, one command a step.

    python examples/reproduce_papers.py CELLS.h5ad --label cell_type --group donor --genes NCBI_FOLDER -o papers

NCBI_FOLDER holds NCBI's gene_info of human or mouse and gene_summary; without it the genes' texts are their symbols.
Without CELLS it runs on 700 blood cells that scanpy carries. Every step is printed as the command line that does the
same. Needs `pip install 'scstore[demo]'`. docs/reproduce.md says more.
"""

import argparse
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.model_selection import StratifiedKFold

import scstore
from scstore.evaluation.conclusion import Difference, paired_difference
from scstore.evaluation.result import mean_and_sd
from scstore.extraction import options as extraction
from scstore.genes.matching import guess_organism
from scstore.reporting.dot_plots import draw_rows
from scstore.reporting.marks import ROW_KINDS, DotRow, labels_of
from scstore.reporting.plots import confusion_counts, draw_confusions, draw_layouts, embed, save

GENE_INFO = {"human": "Homo_sapiens.gene_info.gz", "mouse": "Mus_musculus.gene_info.gz"}
SCALING = {"scinterpreter": "none", "screader": "multiply"}  # the presets whose papers train a projector
TRAINED_CONTROL = "scinterpreter random-genes"
TRAININGS = {
    "papers-small": "one Linear (and 4 blocks) at 3e-3 (5e-5), 10 steps of warm-up (1,000), batches of 8 (16)",
    "papers": "as the papers do",
}
METRICS = {"accuracy": "accuracy", "macro_precision": "precision", "macro_recall": "recall", "macro_f1": "F1"}
KINDS = {
    "model": "reads cells with the model", "gene texts": "gene texts only", "nothing": "control: neither",
    "control": "control: one thing made meaningless",
}  # fmt: skip
VIEWS = {"genept": "gene texts", "genept_random": "random gene vectors", "X": "expression"}
ROWS = ["readout", "readout+genept+X", "genept", "genept_random", "X", "genept_random+X"]  # of the default preset
# Of readouts of vectors: none of symbols, which can be renamed.
CONTROLS = {name: words for name, words in extraction.CONTROLS.items() if name != extraction.RENAMED}
SPELT = {"cells": "symbols-of", "controls": "control", "views": "view"}  # options with another name in Python
AT_LEAST = 10  # cells of a class
Stores = Mapping[str, Sequence[Path]]
"""Of the training and the test cells, by preset or control."""


@dataclass
class Method:
    """A row of the table: what it reads, its scores split by split, and what it called each held-out cell."""

    kind: str
    scores: list[dict[str, float]]
    called: pd.Series

    def figure(self, metric: str) -> tuple[float, float | None]:
        """Mean and standard deviation over the splits."""
        mean, sd = mean_and_sd([one[metric] for one in self.scores])
        return mean or 0.0, sd


def step(function: Callable[..., Any], command: str, *paths: Path, **options: Any) -> Any:
    """Print a step as a command line, then call the function of that name."""
    words = ["scstore", *command.split(), *map(str, paths[:-1]), "-o", str(paths[-1])]
    for name, value in options.items():
        option = f"--{SPELT.get(name, name).replace('_', '-')}"
        if isinstance(value, Mapping):
            words += [word for key, pair in value.items() for one in pair for word in (option, f"{key}={one}")]
        elif isinstance(value, list):
            words += [word for one in value for word in (option, str(one))]
        elif value is False:
            words.append(option.replace("--", "--no-", 1))
        else:
            words += [option, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    print(f"\n$ {shlex.join(words)}", flush=True)
    return function(*paths, **options)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("input", type=Path, nargs="?", metavar="CELLS", help="an .h5ad with raw counts and labels")
    add("--label", default="cell_type", help="column of obs")
    add("--group", help="column of obs, such as donor: each is held out in turn")
    add("--train-on", metavar="COLUMN=VALUE", help="with --test-on: train on some cells, test on others")
    add("--test-on", metavar="COLUMN=VALUE")
    add("--genes", type=Path, help="folder with NCBI's gene_info and gene_summary")
    add("--orthologs", type=Path, help="human and mouse orthologs: their summaries stand in where a gene has none")
    add("--expression", default="counts", help="counts or lognorm: what the cells hold")
    add("--model", default="minilm", help="reads the cells, and encodes the texts")
    add("-o", "--output", type=Path, default=Path("papers"), help="folder for everything that is made")
    add("--cells", type=int, default=150, help="cells of each side, at the most")
    add("--splits", type=int, default=3, help="groups, or folds, held out in turn")
    add("--top-genes", type=int, default=32, help="genes a cell in the papers' presets; theirs: 2,048")
    add("--recipe", choices=("papers-small", "papers"), default="papers-small", help="training of the projectors")
    add("--epochs", type=int, default=8, help="of the projectors' training; as the papers'")
    options = parser.parse_args(words)
    if bool(options.train_on) != bool(options.test_on):
        parser.error("--train-on and --test-on go together")
    if options.orthologs and not options.genes:
        parser.error("--orthologs goes with --genes")
    if options.output.exists():
        parser.error(f"{options.output} exists: choose another folder with -o")
    return options


def read_cells(options: argparse.Namespace) -> anndata.AnnData:
    """The labelled cells, without classes too small to be split."""
    if options.input is None:
        import scanpy as sc

        full = sc.datasets.pbmc68k_reduced()
        cells = anndata.AnnData(full.raw.X, obs=full.obs[["bulk_labels"]], var=full.raw.var[[]])
        options.label, options.expression = "bulk_labels", "lognorm"
    else:
        cells = anndata.read_h5ad(options.input)
    counts = cells.obs[options.label].value_counts()
    kept = cells[cells.obs[options.label].isin(counts.index[counts >= AT_LEAST]).to_numpy()].copy()
    options.output.mkdir(parents=True)
    kept.write_h5ad(options.output / "cells.h5ad")
    print(
        f"{kept.n_obs:,} cells of {kept.obs[options.label].nunique()} classes with {AT_LEAST} cells or more.\n"
        f"Reduced against the papers: {options.model} reads the cells and encodes the genes' texts (theirs: Llama-13b, "
        f"text-embedding-ada-002); {options.top_genes} genes a cell (2,048); at most {options.cells} cells to train "
        f"on; projectors trained in {options.epochs} epochs (8), {TRAININGS[options.recipe]}."
    )
    return kept


def split_cells(cells: anndata.AnnData, options: argparse.Namespace) -> list[Path]:
    """A folder a split with ``train.h5ad`` and ``test.h5ad``: nothing that is fitted sees the test cells."""
    every = np.arange(cells.n_obs)
    if options.test_on:
        told = [text.partition("=")[::2] for text in (options.train_on, options.test_on)]
        splits = {told[1][1]: [every[cells.obs[column].astype(str) == value] for column, value in told]}
    elif options.group:
        groups = cells.obs[options.group].astype(str)
        largest = groups.value_counts().index[: options.splits]
        splits = {name: [every[groups != name], every[groups == name]] for name in largest}
    else:
        folds = StratifiedKFold(max(2, options.splits), shuffle=True, random_state=0)
        dealt = list(folds.split(every, cells.obs[options.label]))[: options.splits]
        splits = {f"fold-{number}": list(sides) for number, sides in enumerate(dealt, 1)}
    rng = np.random.default_rng(0)
    folders = []
    for name, sides in splits.items():
        folders.append(options.output / name)
        folders[-1].mkdir()
        for side, rows in zip(("train", "test"), sides, strict=True):
            chosen = np.sort(rng.permutation(rows)[: options.cells])
            cells[chosen].copy().write_h5ad(folders[-1] / f"{side}.h5ad")
    return folders


def build_genes(symbols: Sequence[str], options: argparse.Namespace) -> dict[str, Path]:
    """Gene texts and their vectors, and random vectors of the same genes as a control."""
    cells = options.output / "cells.h5ad"
    tables = {"texts": options.output / "genes.h5ad", "random": options.output / "random-genes.h5ad"}
    source: dict[str, Any] = {"cells": cells}
    if options.genes:
        organism = guess_organism(symbols) or "human"
        source = {"organism": organism, "gene_info": options.genes / GENE_INFO[organism], "only_genes_of": [cells]}
        source["gene_summary"] = options.genes / "gene_summary.gz"
        if options.orthologs:
            (other,) = GENE_INFO.keys() - {organism}
            source |= {"orthologs": options.orthologs, "ortholog_gene_info": options.genes / GENE_INFO[other]}
    table = step(scstore.build_genes, "genes build", tables["texts"], encoder=options.model, **source)
    step(scstore.build_genes, "genes build", tables["random"], encoder=f"random:{table.width}", **source)
    return tables


def align(folder: Path, tables: Mapping[str, Path], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Train the papers' projectors on the training cells, one of them also on random gene vectors.

    Gives the options of extraction that go with each.
    """
    trained = {}
    for name in (*SCALING, TRAINED_CONTROL):
        preset, _, control = name.partition(" ")
        projector = folder / f"{name.replace(' ', '-')}-projector"
        both = {"genes": str(tables["random" if control else "texts"]), "model": options.model}
        both |= {"top_genes": options.top_genes, "expression": options.expression}
        how = {"label": options.label, "recipe": options.recipe, "epochs": options.epochs}
        how |= {"expression_scaling": SCALING[preset], "layers": (-1,)}
        step(scstore.align, "align", folder / "train.h5ad", projector, **how, **both)
        trained[name] = {"preset": preset, "projector": str(projector), **both}
    return trained


def extract(
    folder: Path, tables: Mapping[str, Path], trained: Mapping[str, dict[str, Any]], options: argparse.Namespace
) -> Stores:
    """Stores of the training and the test cells with each preset and each control."""
    read, genes = {"expression": options.expression}, {"genes": str(tables["texts"])}
    runs = dict(trained)
    runs["genept-w"] = {"preset": "genept-w", "model": options.model, **genes, **read}
    runs["genept-s"] = {"preset": "genept-s", "model": options.model, "top_genes": options.top_genes, **read}
    runs["default"] = {"preset": "default", "model": options.model, **genes, **read}
    stores = {
        name: [folder / f"{name.replace(' ', '-')}-{side}.zarr" for side in ("train", "test")]
        for name in (*runs, *CONTROLS)
    }
    for name, (train, test) in stores.items():
        space = {"like": stores["default"][0], "control": name, **read} if name in CONTROLS else runs[name]
        step(scstore.extract, "extract", folder / "train.h5ad", train, **space)
        space = space if name in CONTROLS else {"like": train, **read}
        step(scstore.extract, "extract", folder / "test.h5ad", test, **space)
    return stores


def evaluate(folder: Path, stores: Stores, methods: dict[str, Method], options: argparse.Namespace) -> pd.Series:
    """Score every method and control on the same held-out cells; what is found is added to ``methods``."""

    def score(store: Path, output: Path, *, figures: bool, **how: Any) -> Any:
        found = scstore.evaluate(store, **how)
        scstore.save_evaluation(found, output, figures=figures)
        return found

    truth = pd.Series(dtype=str)
    for name in (name for name in stores if name not in CONTROLS):
        how: dict[str, Any] = {"views": ["readout"]}
        if name == "default":
            how = {"views": ROWS, "controls": {control: stores[control] for control in CONTROLS}}
        train, test = stores[name]
        how |= {"label": options.label, "test_store": test, "min_cells": 2, "figures": False}
        found = step(score, "evaluate", train, folder / f"{name.replace(' ', '-')}-evaluation", **how)
        called = found.predictions.astype({"label": str, "predicted": str}).set_index("cell_id")
        truth = truth.combine_first(called["label"][~called.index.duplicated()])
        for row in found.regimes[0].scored.rows:
            title, uses = name, "control" if name == TRAINED_CONTROL else row.uses
            if name == "default":
                reads = " + ".join(VIEWS.get(view, "readout") for view in row.views)
                title = reads if uses == "nothing" else f"{row.control or name}: {reads}"
            method = methods.setdefault(title, Method(uses, [], pd.Series(dtype=str)))
            scores = found.regimes[0].scored.scores
            method.scores.append(scores[scores["row"] == row.name].iloc[0].to_dict())
            method.called = pd.concat([method.called, called["predicted"][called["row"] == row.name]])
    return truth


def compare(methods: Mapping[str, Method], truth: pd.Series, groups: pd.Series | None) -> list[str]:
    """What each method is worth against the best row without model or texts, and against its own controls."""

    def f1(name: str) -> float:
        return methods[name].figure("macro_f1")[0]

    def difference(row: str, baseline: str) -> Difference:
        pair = pd.concat({name: methods[name].called for name in (row, baseline)}, axis=1, join="inner")
        called = pair.assign(truth=truth)[["truth", row, baseline]].to_numpy(dtype=str)
        codes = np.unique(called, return_inverse=True)[1].reshape(called.shape).T[:, None]
        units = None if groups is None else groups[pair.index].astype("category").cat.codes.to_numpy()
        return paired_difference(*codes, groups=units)

    reading = [name for name in methods if methods[name].kind in ("model", "gene texts")]
    controls = [name for name in methods if name not in reading]
    best = {kind: max((name for name in methods if methods[name].kind == kind), key=f1) for kind in KINDS}
    pairs = [(name, best["nothing"]) for name in reading]
    pairs += [("scinterpreter", TRAINED_CONTROL), *(("default: readout", f"{name}: readout") for name in CONTROLS)]
    found = [(*pair, difference(*pair)) for pair in pairs]
    says = [f"{row} against {baseline}: {apart.words}: {apart.verdict}" for row, baseline, apart in found]
    first = max(controls, key=f1)
    for name in reading:
        better = sum(f1(control) > f1(name) for control in controls)
        says += [f"{better} of {len(controls)} controls have a higher F1 than {name}; first: {first}"] * bool(better)
    last = difference(best["model"], best["nothing"])
    added = f"the model added {last.words} macro-F1 ({best['model']} over {best['nothing']}): {last.verdict}"
    return [*says, added]


def table(methods: Mapping[str, Method]) -> pd.DataFrame:
    """Mean ± sd over the splits; controls are marked with a dash."""

    def shown(mean: float, sd: float | None) -> str:
        return f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"

    return pd.DataFrame(
        [[shown(*method.figure(metric)) for metric in METRICS] for method in methods.values()],
        index=[name if method.kind in ("model", "gene texts") else f"- {name}" for name, method in methods.items()],
        columns=list(METRICS.values()),
    )


def draw(folder: Path, methods: Mapping[str, Method], truth: pd.Series, stores: Stores, label: str) -> None:
    """The papers' figures: scores, confusion matrices, and UMAPs of the held-out cells of one split in a row."""

    def files(name: str) -> list[Path]:
        return [folder / f"{name}.{suffix}" for suffix in ("svg", "png")]

    rows = []
    for name, method in methods.items():
        kind = method.kind if method.kind != "nothing" else "expression" if name == "expression" else "random"
        folds = {metric: [one[metric] for one in method.scores] for metric in METRICS}
        rows.append(DotRow(name, ROW_KINDS[kind], folds))
    draw_rows(figure := Figure(), rows, list(METRICS.values()))
    save(figure, *files("metrics"))
    shown = ("random gene vectors + expression", "genept-w", "screader", "default: readout + gene texts + expression")
    called = {name: methods[name].called for name in shown}
    draw_confusions(figure := Figure(), {name: confusion_counts(truth[one.index], one) for name, one in called.items()})
    save(figure, *files("confusion"))
    views = {
        "initialisation: random gene vectors": ("default", "genept_random"),
        "GenePT-w": ("genept-w", "genept_w"),
        "scReader, trained projector": ("screader", "readout"),
        "scstore, default preset": ("default", "readout"),
    }
    layouts = {title: embed(scstore.open(stores[name][1]).view(view)[:]) for title, (name, view) in views.items()}
    draw_layouts(figure := Figure(), layouts, labels_of(scstore.open(stores["default"][1]).obs[label].astype(str)))
    save(figure, *files("umap"))


def main(words: Sequence[str] | None = None) -> None:
    """Run every step, print the table, leave the figures."""
    options, begun = parse(words), time.monotonic()
    cells = read_cells(options)
    tables = build_genes(list(cells.var_names), options)
    methods: dict[str, Method] = {}
    truths = []
    for folder in split_cells(cells, options):
        print(f"\n# {folder.name} held out")
        trained = align(folder, tables, options)
        stores = extract(folder, tables, trained, options)
        truths.append(evaluate(folder, stores, methods, options))
    truth = pd.concat(truths)
    draw(options.output, methods, truth, stores, options.label)
    found = table(methods)
    found.to_csv(options.output / "table.csv", index_label="method")
    print(f"\n{len(truth):,} held-out cells, mean ± sd over {len(truths)} split(s); - marks controls")
    print(found.to_string(), end="\n\n")
    print(*(f"{name}: {meaning}" for name, meaning in CONTROLS.items()), sep="\n", end="\n\n")
    groups = cells.obs[options.group].astype(str) if options.group else None
    print(*compare(methods, truth, groups), sep="\n")
    print(f"\n{options.output} has table.csv and the figures; {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
