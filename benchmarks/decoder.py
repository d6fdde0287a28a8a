"""What a decoder knows of cells: a real, small Llama beside its controls and beside the best rows without it.

    python benchmarks/decoder.py ../shared/data/cells ../shared/data/genes [--pairs NAME …] [--readings NAME …]
        [--layers 1 4 8 15 22 30] [--cells 60] [--panel-genes 100] [--few 2 5] [--draws 3] [--disjoint 3]
        [--trained 2] [--trained-layers 4 15] [--model smollm2] [--work FOLDER] [--json FILE] [--quick]

Pairs of lab_pairs.py. The model reads about --cells cells of each side, on a panel that was chosen without labels on
up to 400 cells of the training side; what needs neither labels nor a model (principal components, the default's choice
of genes) is fitted on all of these 400. Readings are ways to give it the cells, ``symbols`` and ``vectors`` and their
controls; each is read at all --layers by all three poolings in one pass (random weights up to layer 8). Layer, pooling
and strength of each row, and components and strength of PCA, are those that label held-out training cells best.
``default`` is what `scstore fit` makes of expression; a + is a mean of log-probabilities.

--few: so many labelled training cells a label; means over draws. --disjoint: on so many of the pairs, the first, each
side is read again, on one half of the panel's genes each (decoder_disjoint.py). --trained: on so many, also projectors
that `scstore align` trained for each of --trained-layers. --work keeps what was read and measured. Intervals: pairs
drawn again.
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
from decoder_disjoint import RANDOM, TEXTS, DisjointRows
from decoder_rows import Known, Matrix, Setting, best, components, fused, settings
from decoder_stores import (
    POOLINGS,
    READINGS,
    RENAMED,
    RENAMED_AGAIN,
    SYMBOLS,
    TRAINED,
    TRAINED_RANDOM,
    VECTORS,
    WAYS,
    Reader,
    Sides,
    sides,
)
from lab_pairs import PAIRS, Cut, few
from measuring import Findings, parser, table
from plain_rivals import FUSED, SINGLE, TWO_FUSED, Said
from transfer import DEFAULT, difference

from scstore import fsio
from scstore.heads.fusion import FusedHead
from scstore.heads.training import one_blas_thread

CHOSEN = (
    "pancreas, human to mouse",
    "blood, donor 5p left out",
    "sorted blood to blood",
    "pancreas, mouse to human",
    "lymph node to blood",
)
ALL, ALIGNED, DISJOINT = "all labels", "all labels, trained projector", "disjoint genes"
PLAIN_C, SCALED_C = (0.1, 1.0, 10.0), (0.01, 0.1)
PCA = "PCA of all reference cells"
COMPANIONS = {TEXTS: "genept", RANDOM: "genept_random"}
OFFERED = f"{DEFAULT}, offered the readout"
GAIN, BEHIND = 0.03, -0.005
Scores = dict[str, dict[str, list[float]]]
"""By regime and row, macro-F1 of each pair that has it."""
Read = dict[str, dict[str, Matrix]]
"""By reading and view."""


def uses(row: str) -> str:
    """``nothing``, ``gene texts``, ``model`` or ``control``; ``choice`` where `fit` may leave the model out."""
    reading = row.rpartition(" + ")[2].partition(":")[0]
    if row == OFFERED:
        return "choice"
    if reading in WAYS:
        return "model" if WAYS[reading].meaning else "control"
    return "gene texts" if TEXTS in row else "nothing"


class Rows:
    """What every row says of one pair's test cells, given some labelled training cells."""

    def __init__(self, pair: Sides, read: Read, rows: np.ndarray) -> None:
        one, labels = pair.cut, pair.labels[rows]
        self.pair, self.known = pair, Known(rows, labels)
        self.cut = Cut(
            one.name,
            one.train[pair.read[rows]],
            one.test[pair.tested],
            labels,
            pair.truth,
            one.genes,
            None if one.groups is None else one.groups[pair.read[rows]],
            one.rows,
        )
        self.said: dict[str, Said] = {}
        self.layers: dict[str, Said] = {}
        self._without_the_model(read)
        for name, views in read.items():
            self.add(name, {view: matrix for view, matrix in views.items() if view.startswith("readout_")})

    def _without_the_model(self, read: Read) -> None:
        said, pair = self.said, self.pair
        said |= {name: run(self.cut) for name, run in SINGLE.items()}
        said[TWO_FUSED] = fused(*(said[name] for name in FUSED))
        said[DEFAULT] = self._default({}, ())
        said[PCA] = best(
            settings(components(pair.cut, pair.read, pair.tested, pair.columns(pair.panel)), PLAIN_C, self.known)
        ).said
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

    def add(self, name: str, views: dict[str, Matrix]) -> None:
        """Rows of one reading."""
        said = self.said
        offered = settings({view: matrix.scaled() for view, matrix in views.items()}, SCALED_C, self.known)

        def among(start: str, end: str = "") -> Setting:
            return best(one for one in offered if one.view.startswith(start) and one.view.endswith(end))

        for view in views:
            self.layers[f"{name}: {view}"] = among(view, view).said
        for pool in POOLINGS:
            if any(view.startswith(f"readout_{pool}_") for view in views):
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


def measure(pair: Sides, reader: Reader, options: argparse.Namespace, place: int) -> dict[str, dict[str, float]]:
    """Macro-F1 of every row, by regime; and of every layer and pooling alone."""
    read, truth = {one: reader.read(pair, one) for one in options.readings}, pair.truth
    drawn = {ALL: [np.arange(len(pair.read))]}
    for n in options.few:
        drawn[few_name(n)] = [few(pair.labels, n, np.random.default_rng(draw)) for draw in range(options.draws)]
    found: dict[str, dict[str, float]] = {}
    for regime, draws in drawn.items():
        runs = [Rows(pair, read, rows) for rows in draws]
        found[regime] = averaged([run.said for run in runs], truth)
        if regime == ALL:
            found[layers_of(ALL)] = averaged([runs[0].layers], truth)
        if regime == ALL and place < options.trained:
            for name in (TRAINED, TRAINED_RANDOM):
                runs[0].add(name, reader.read(pair, name))
            found |= {ALIGNED: averaged([runs[0].said], truth), layers_of(ALIGNED): averaged([runs[0].layers], truth)}
    if place < options.disjoint:
        apart = {one: reader.read(pair.disjoint, one) for one in options.readings}
        rows = DisjointRows(pair.disjoint, apart)
        found |= {DISJOINT: averaged([rows.said], truth), layers_of(DISJOINT): averaged([rows.layers], truth)}
    return found


def averaged(runs: list[dict[str, Said]], truth: np.ndarray) -> dict[str, float]:
    """Macro-F1 of each row, means over runs."""
    return {row: float(np.mean([run[row].scores(truth)["macro_f1"] for run in runs])) for row in runs[0]}


def layers_of(regime: str) -> str:
    return f"layers, {regime}"


def few_name(n: int) -> str:
    return f"{n} labelled cells a label"


def joined(pairs: dict[str, dict[str, dict[str, float]]]) -> Scores:
    """By regime and row, one number a pair that has it."""
    scores: Scores = {}
    for regimes in pairs.values():
        for regime, rows in regimes.items():
            for row, score in rows.items():
                scores.setdefault(regime, {}).setdefault(row, []).append(score)
    return scores


def leader(rows: dict[str, list[float]], *kinds: str) -> str:
    """The row of the highest mean among those that use such."""
    return max((row for row in rows if uses(row) in kinds), key=lambda row: np.mean(rows[row]))


def show_layers(regime: str, rows: dict[str, list[float]]) -> dict[str, Any]:
    """Print the means of readings alone; gives what true symbols are worth over renamed ones, by layer and pooling."""
    readings, views = (list(dict.fromkeys(row.split(": ")[part] for row in rows)) for part in (0, 1))
    lines, worth = [], {}
    for view in sorted(views, key=lambda view: (view.split("_")[1], int(view.rpartition("_l")[2]))):
        means = [f"{np.mean(rows[f'{one}: {view}']):.3f}" if f"{one}: {view}" in rows else "" for one in readings]
        gain = ""
        if both := [rows[f"{one}: {view}"] for one in (RENAMED, RENAMED_AGAIN) if f"{one}: {view}" in rows]:
            worth[view] = difference(rows[f"{SYMBOLS}: {view}"], np.mean(both, axis=0).tolist())
            gain = interval(worth[view])
        lines.append([view, *means, gain])
    print(f"\nreadings alone, {regime}: macro-F1, means over {len(next(iter(rows.values())))} pairs")
    table(["", *readings, "symbols less renamed"], lines)
    return worth


def interval(found: tuple[float, float, float]) -> str:
    """A difference and its bounds."""
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found)


def show_regime(name: str, rows: dict[str, list[float]]) -> dict[str, Any]:
    """Print a regime's rows, best first, and what the decoder adds; gives the figures."""
    base = leader(rows, "nothing", "gene texts")
    lines, figures = [], {}
    for row in sorted(rows, key=lambda row: -np.mean(rows[row])):
        gap = difference(rows[row], rows[base])
        figures[row] = {"uses": uses(row), "macro_f1": float(np.mean(rows[row])), "less_best_without": gap}
        lines.append([row, uses(row), f"{np.mean(rows[row]):.3f}", interval(gap)])
    print(f"\n{name}: macro-F1, means over {len(rows[base])} pairs, and less the best row without the decoder [95 %]")
    table(["row", "uses", "macro-F1", f"less {base}"], lines)
    return figures


def show_leaders(scores: Scores) -> dict[str, Any]:
    """Print the best row with the decoder beside the best without, and beside the best control."""
    figures, lines = {}, []
    for regime, rows in scores.items():
        if not {"model", "control"} <= {uses(row) for row in rows}:
            continue
        model, base, control = (leader(rows, *kinds) for kinds in (("model",), ("nothing", "gene texts"), ("control",)))
        gains = [difference(rows[model], rows[other]) for other in (base, control)]
        names = {"model": model, "without": base, "control": control}
        figures[regime] = {**names, "gain": gains[0], "over_control": gains[1]}
        means = [f"{row} {np.mean(rows[row]):.3f}" for row in names.values()]
        lines.append([regime, *means, *(interval(gain) for gain in gains)])
    print()
    table(["", "best with the decoder", "best without", "best control", "with - without", "with - control"], lines)
    return figures


COMPARED = (
    (SYMBOLS, RENAMED),
    (SYMBOLS, RENAMED_AGAIN),
    (RENAMED, RENAMED_AGAIN),
    (SYMBOLS, "symbols, random weights"),
    (VECTORS, "random vectors"),
    (VECTORS, "vectors, random weights"),
    (TRAINED, VECTORS),
    (TRAINED, TRAINED_RANDOM),
)


def show_meaning(scores: Scores) -> dict[str, Any]:
    """Print what meaning, weights and training are worth: readings less the same without."""
    figures = {}
    print()
    for regime, rows in scores.items():
        for first, second in COMPARED:
            for pool in POOLINGS:
                pair = f"{first}: {pool}", f"{second}: {pool}"
                if set(pair) <= set(rows) and (regime != ALIGNED or first == TRAINED):
                    found = figures.setdefault(regime, {})[" - ".join(pair)] = difference(*(rows[one] for one in pair))
                    print(f"{regime}, {pair[0]} less {pair[1]}: {interval(found)}")
    return figures


def check_goals(findings: Findings, scores: Scores, *, check: bool) -> None:
    """Where the decoder adds, and whether the default is ever far behind."""
    gains = {}
    for regime, rows in scores.items():
        if not {"model", "control"} <= {uses(row) for row in rows}:
            continue
        model, base = leader(rows, "model"), leader(rows, "nothing", "gene texts")
        gains[regime] = difference(rows[model], rows[base])[0]
        if DEFAULT in rows:
            behind = difference(rows[OFFERED if OFFERED in rows else DEFAULT], rows[leader(rows, "nothing")])[0]
            name = f"{regime}: default, offered the readout, less the best without"
            findings.at_least(name, behind, BEHIND, check=check)
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
    made.add_argument("--layers", nargs="+", type=int, default=[1, 4, 8, 15, 22, 30])
    made.add_argument("--cells", type=int, default=60, help="cells of each side that the model reads")
    made.add_argument("--panel-genes", type=int, default=100)
    made.add_argument("--few", nargs="*", type=int, default=[2, 5], help="labelled cells a label")
    made.add_argument("--draws", type=int, default=3)
    made.add_argument("--disjoint", type=int, default=3, help="pairs, the first, on disjoint genes as well")
    made.add_argument("--trained", type=int, default=2, help="pairs, the first, with trained projectors as well")
    made.add_argument("--trained-layers", nargs="+", type=int, default=[4, 15])
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
        for place, name in enumerate(options.pairs):

            def tell(what: str, name: str = name) -> None:
                print(f"{time.perf_counter() - begun:6.0f} s  {name}: {what}", flush=True)

            pair = next(pair for pair in PAIRS if pair.name == name)
            cells = sides(options.folder, pair, Path(folder), cells=options.cells, genes=options.panel_genes, seed=0)
            reader = Reader(options.model, options.genes, tuple(options.layers), tuple(options.trained_layers), tell)
            also = ["disjoint"] * (place < options.disjoint) + ["trained"] * (place < options.trained)
            words = [*options.readings, *options.layers, "few", *options.few, options.draws, *also]
            kept = cells.folder / f"{fsio.digest_bytes(' '.join(map(str, words)).encode())[-16:]}.json"
            if not kept.exists():
                fsio.write_json(kept, measure(cells, reader, options, place))
                tell("measured")
            pairs[name] = json.loads(kept.read_bytes())
    scores = joined(pairs)
    named = {layers_of(regime): regime for regime in (ALL, ALIGNED, DISJOINT)}
    worth = {regime: show_layers(regime, scores.pop(name)) for name, regime in named.items() if name in scores}
    findings.figures = {"pairs": pairs, "symbols_less_renamed": worth, "meaning": show_meaning(scores)}
    findings.figures["regimes"] = {name: show_regime(name, rows) for name, rows in scores.items()}
    findings.figures["leaders"] = show_leaders(scores)
    check_goals(findings, scores, check=not options.quick)
    return findings.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
