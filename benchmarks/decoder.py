"""What a decoder knows of cells: a real, small Llama beside its controls and beside the best rows without it.

    python benchmarks/decoder.py ../shared/data/cells ../shared/data/genes [--pairs NAME …] [--readings NAME …]
        [--layers 1 4 8] [--cells 100] [--panel-genes 100] [--few 2 5 10] [--draws 2] [--model smollm2]
        [--work FOLDER] [--json FILE] [--quick]

Pairs of lab_pairs.py. The model reads up to --cells cells of each side, on a panel that was chosen without labels on
up to 400 cells of the training side; what needs neither labels nor a model (principal components, the default's choice
of genes) is fitted on all of these 400. Readings are ways to give it the cells, ``symbols`` and ``vectors`` and their
controls; each is read at all --layers by all three poolings in one pass. Layer, pooling and strength of each row, and
components and strength of PCA, are those that label held-out training cells best. ``default`` is what `scstore fit`
makes of expression; a + is a mean of log-probabilities. --few: so many labelled training cells a label; means over
draws. --work keeps what was read and measured. Intervals: pairs drawn again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is fetched

import numpy as np
from decoder_rows import Known, Matrix, Setting, best, components, fused, settings
from decoder_stores import POOLINGS, READINGS, SYMBOLS, VECTORS, WITH_MEANING, Reader, Sides, sides
from lab_pairs import PAIRS, Cut, few
from measuring import Findings, parser, table
from plain_rivals import FUSED, SINGLE, TWO_FUSED, Said
from transfer import DEFAULT, difference

from scstore import fsio
from scstore.heads.fusion import FusedHead
from scstore.heads.training import one_blas_thread

CHOSEN = (
    "blood, donor 3pv1 left out",
    "blood, donor 3pv2 left out",
    "blood, donor 5p left out",
    "pancreas, human to mouse",
    "pancreas, mouse to human",
    "sorted blood to blood",
    "blood to sorted blood",
    "lymph node to blood",
)
ALL = "all labels"
PLAIN_C, SCALED_C = (0.1, 1.0, 10.0), (0.01, 0.1)
PCA, TEXTS, RANDOM = "PCA of all reference cells", "gene texts", "random gene vectors"
COMPANIONS = {TEXTS: "genept", RANDOM: "genept_random"}
OFFERED = f"{DEFAULT}, offered the readout"
GAIN, BEHIND = 0.03, -0.005
Scores = dict[str, dict[str, list[float]]]
"""By regime and row, macro-F1 of each pair."""


def uses(row: str) -> str:
    """``nothing``, ``gene texts``, ``model`` or ``control``."""
    reading = row.rpartition(" + ")[2].partition(":")[0]
    if row == OFFERED:
        return "model"
    if reading in READINGS:
        return "model" if reading in WITH_MEANING else "control"
    return "gene texts" if TEXTS in row else "nothing"


class Rows:
    """What every row says of one pair's test cells, given some labelled training cells."""

    def __init__(self, pair: Sides, read: dict[str, dict[str, Matrix]], rows: np.ndarray) -> None:
        one, labels = pair.cut, pair.cut.labels[pair.read[rows]]
        self.pair, self.known = pair, Known(rows, labels)
        self.cut = Cut(
            one.name,
            one.train[pair.read[rows]],
            one.test[pair.tested],
            labels,
            one.truth[pair.tested],
            one.genes,
            None if one.groups is None else one.groups[pair.read[rows]],
            one.rows,
        )
        self.said: dict[str, Said] = {}
        self.layers: dict[str, Said] = {}
        self._without_the_model(read)
        for name, views in read.items():
            self._with(name, {view: matrix for view, matrix in views.items() if view.startswith("readout_")})

    def _without_the_model(self, read: dict[str, dict[str, Matrix]]) -> None:
        said, pair = self.said, self.pair
        said |= {name: run(self.cut) for name, run in SINGLE.items()}
        said[TWO_FUSED] = fused(*(said[name] for name in FUSED))
        said[DEFAULT] = self._default({}, ())
        said[PCA] = best(settings(components(pair.cut, pair.read, pair.tested, pair.columns), PLAIN_C, self.known)).said
        plain = read.get(VECTORS, {})
        for name, view in COMPANIONS.items():
            if view in plain:
                said[name] = best(settings({view: plain[view].scaled()}, SCALED_C, self.known)).said
        for name in (PCA, RANDOM, TEXTS):
            if name in said:
                said[f"{DEFAULT} + {name}"] = fused(said[DEFAULT], said[name])
                said[f"{TWO_FUSED} + {name}"] = fused(said[TWO_FUSED], said[name])
        if RANDOM in said:
            said[f"{DEFAULT} + {PCA} + {RANDOM}"] = fused(said[DEFAULT], said[PCA], said[RANDOM])
            said[f"{DEFAULT} + {PCA} + {TEXTS}"] = fused(said[DEFAULT], said[PCA], said[TEXTS])

    def _with(self, name: str, views: dict[str, Matrix]) -> None:
        said = self.said
        offered = settings({view: matrix.scaled() for view, matrix in views.items()}, SCALED_C, self.known)

        def among(start: str, end: str = "") -> Setting:
            return best(one for one in offered if one.view.startswith(start) and one.view.endswith(end))

        for view in views:
            self.layers[f"{name}: {view}"] = among(view, view).said
        for pool in POOLINGS:
            said[f"{name}: {pool}"] = among(f"readout_{pool}_").said
        chosen = among("")
        said[f"{DEFAULT} + {name}"] = fused(said[DEFAULT], chosen.said)
        said[f"{TWO_FUSED} + {name}"] = fused(said[TWO_FUSED], chosen.said)
        said[f"{DEFAULT} + {PCA} + {name}"] = fused(said[DEFAULT], said[PCA], chosen.said)
        if name == SYMBOLS:
            said[OFFERED] = self._default({"readout": views[chosen.view]}, ("readout",))

    def _default(self, more: dict[str, Matrix], optional: tuple[str, ...]) -> Said:
        """What `scstore fit` makes of expression and of views that are offered."""
        cut, rows = self.cut, self.known.rows
        groups = None if cut.groups is None or len(set(cut.groups)) < 2 else cut.groups
        train = {name: matrix.train[rows].astype(np.float32) for name, matrix in more.items()}
        head = FusedHead().fit(
            {"X": cut.train, **train},
            cut.labels,
            gene_names=cut.genes,
            groups=groups,
            optional=optional,
            background=self.pair.cut.train,
        )
        place = {name: column for column, name in enumerate(cut.genes)}
        test = {"X": cut.test[:, [place[name] for name in head.genes_ or ()]]}
        test |= {name: matrix.test.astype(np.float32) for name, matrix in more.items()}
        return Said(head.classes_, head.predict_proba({name: test[name] for name in head.views_}))


def measure(
    pair: Sides, read: dict[str, dict[str, Matrix]], options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Macro-F1 of every row, by regime; and of every layer and pooling alone, all labels."""
    labels, truth = pair.cut.labels[pair.read], pair.cut.truth[pair.tested]
    drawn = {ALL: [np.arange(len(labels))]}
    for n in options.few:
        drawn[few_name(n)] = [few(labels, n, np.random.default_rng(draw)) for draw in range(options.draws)]
    found: dict[str, dict[str, float]] = {}
    for regime, draws in drawn.items():
        runs = [Rows(pair, read, rows) for rows in draws]
        if regime == ALL:
            found["layers"] = {name: said.scores(truth)["macro_f1"] for name, said in runs[0].layers.items()}
        found[regime] = {
            row: float(np.mean([run.said[row].scores(truth)["macro_f1"] for run in runs])) for row in runs[0].said
        }
    return found


def few_name(n: int) -> str:
    return f"{n} labelled cells a label"


def joined(pairs: dict[str, dict[str, dict[str, float]]]) -> Scores:
    """By regime and row, one number a pair."""
    regimes = next(iter(pairs.values()))
    names = sorted(regimes, key=lambda name: (name != ALL, len(name), name))
    return {name: {row: [of[name][row] for of in pairs.values()] for row in regimes[name]} for name in names}


def leader(rows: dict[str, list[float]], *kinds: str) -> str:
    """The row of the highest mean among those that use such."""
    return max((row for row in rows if uses(row) in kinds), key=lambda row: np.mean(rows[row]))


def show_layers(rows: dict[str, list[float]], layers: tuple[int, ...], readings: list[str]) -> None:
    """Print the means of readings alone."""
    print(f"\nreadings alone, all labels: macro-F1, means over {len(next(iter(rows.values())))} pairs")
    lines = []
    for layer in layers:
        for pool in POOLINGS:
            means = [np.mean(rows[f"{name}: readout_{pool}_l{layer}"]) for name in readings]
            lines.append([f"{pool}, layer {layer}", *(f"{value:.3f}" for value in means)])
    table(["", *readings], lines)


def show_regime(name: str, rows: dict[str, list[float]]) -> dict[str, Any]:
    """Print a regime's rows, best first, and what the decoder adds; gives the figures."""
    base = leader(rows, "nothing", "gene texts")
    lines, figures = [], {}
    for row in sorted(rows, key=lambda row: -np.mean(rows[row])):
        gap, low, high = difference(rows[row], rows[base])
        figures[row] = {"uses": uses(row), "macro_f1": float(np.mean(rows[row])), "less_best_without": [gap, low, high]}
        lines.append([row, uses(row), f"{np.mean(rows[row]):.3f}", f"{gap:+.3f} [{low:+.3f}, {high:+.3f}]"])
    print(f"\n{name}: macro-F1, means over {len(rows[base])} pairs, and less the best row without the decoder [95 %]")
    table(["row", "uses", "macro-F1", f"less {base}"], lines)
    return figures


def show_meaning(rows: dict[str, list[float]]) -> dict[str, Any]:
    """Print what true symbols are worth over the same tokens without their meaning."""
    figures = {}
    for first, second in (
        (SYMBOLS, "renamed symbols"),
        (SYMBOLS, "symbols, random weights"),
        (VECTORS, "random vectors"),
    ):
        for pool in POOLINGS:
            pair = f"{first}: {pool}", f"{second}: {pool}"
            if set(pair) <= set(rows):
                gap, low, high = difference(rows[pair[0]], rows[pair[1]])
                figures[" - ".join(pair)] = [gap, low, high]
                print(f"{pair[0]} less {pair[1]}: {gap:+.3f} [{low:+.3f}, {high:+.3f}]")
    return figures


def check_goals(findings: Findings, scores: Scores, *, check: bool) -> None:
    """Where the decoder adds, and whether the default is ever far behind."""
    gains = {}
    for regime, rows in scores.items():
        model, base = leader(rows, "model"), leader(rows, "nothing", "gene texts")
        gains[regime] = difference(rows[model], rows[base])[0]
        behind = difference(rows[OFFERED if OFFERED in rows else DEFAULT], rows[leader(rows, "nothing")])[0]
        findings.at_least(f"{regime}: default, offered the readout, less the best without", behind, BEHIND, check=check)
    where = max(gains, key=lambda name: gains[name])
    findings.at_least(
        f"most that the decoder adds over the best row without ({where})", gains[where], GAIN, check=check
    )


def arguments() -> argparse.Namespace:
    made = parser(__doc__.split("\n")[0])
    made.add_argument("folder", type=Path, help="folder of the cells")
    made.add_argument("genes", type=Path, help="folder of NCBI's gene files")
    made.add_argument("--pairs", nargs="+", choices=[pair.name for pair in PAIRS], default=CHOSEN, metavar="NAME")
    made.add_argument("--readings", nargs="+", choices=READINGS, default=list(READINGS), metavar="NAME")
    made.add_argument("--layers", nargs="+", type=int, default=[1, 4, 8])
    made.add_argument("--cells", type=int, default=100, help="cells of each side that the model reads")
    made.add_argument("--panel-genes", type=int, default=100)
    made.add_argument("--few", nargs="*", type=int, default=[2, 5, 10], help="labelled cells a label")
    made.add_argument("--draws", type=int, default=2)
    made.add_argument("--model", default="smollm2")
    made.add_argument("--work", type=Path, metavar="FOLDER", help="keep there what was read and measured")
    options = made.parse_args()
    if options.quick:
        options.pairs, options.draws = options.pairs[:1], 1
    return options


def main() -> int:
    options, begun = arguments(), time.perf_counter()
    findings = Findings("benchmarks/decoder.py")
    pairs: dict[str, dict[str, dict[str, float]]] = {}
    with one_blas_thread(), nullcontext(options.work) if options.work else tempfile.TemporaryDirectory() as folder:
        for name in options.pairs:

            def tell(what: str, name: str = name) -> None:
                print(f"{time.perf_counter() - begun:6.0f} s  {name}: {what}", flush=True)

            pair = next(pair for pair in PAIRS if pair.name == name)
            cells = sides(options.folder, pair, Path(folder), cells=options.cells, genes=options.panel_genes, seed=0)
            reader = Reader(options.model, options.genes, tuple(options.layers), tell)
            read = {one: reader.read(cells, one) for one in options.readings}
            words = " ".join(map(str, [*options.readings, *options.layers, "few", *options.few, options.draws]))
            kept = cells.folder / f"{words}.json"
            if not kept.exists():
                fsio.write_json(kept, measure(cells, read, options))
                tell("measured")
            pairs[name] = json.loads(kept.read_bytes())
    scores = joined(pairs)
    layers = scores.pop("layers")
    show_layers(layers, tuple(options.layers), options.readings)
    print()
    findings.figures = {"pairs": pairs, "meaning": show_meaning(scores[ALL])}
    findings.figures["regimes"] = {name: show_regime(name, rows) for name, rows in scores.items()}
    check_goals(findings, scores, check=not options.quick)
    return findings.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
