"""The result of an evaluation: tables, comparisons, sentences, JSON."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from scstore.evaluation.cells import EvaluationCells
from scstore.evaluation.conclusion import RowComparison, conclude, paired_difference, pairs_to_compare
from scstore.evaluation.left_out_classes import LeftOutClasses
from scstore.evaluation.runs import Scored
from scstore.heads.scores import METRICS, scores_by_class
from scstore.progress import Reporter, text_table

FORMAT = "1.0"
SEEN = (
    "* its genes were chosen with these cells' labels: optimistic, and left out of the conclusion; a panel of other "
    "cells, or one without labels, would tell, or cells that it has not seen (test_store=, test_on=)"
)
WIDTH = 80
LONG_NAME = 36  # longest name in a table of that width with intervals
HEADINGS = {
    "accuracy": "accuracy",
    "macro_recall": "recall = bal. acc.",
    "macro_precision": "precision",
    "macro_f1": "F1",
    "auroc": "AUROC",
    "ece": "ECE",
}
LEFT_OUT_HEADINGS = {
    "auroc": "AUROC confidence",
    "auroc_novelty": "AUROC novelty",
    "rejected": "unknown rejected",
    "kept": "known kept",
}


@dataclass(frozen=True)
class Regime:
    name: str  # folds, few-shot N or disjoint genes
    title: str  # what was done
    notes: tuple[str, ...]  # what was left out, and other things to know
    scored: Scored  # scores by fold and predictions by cell
    comparisons: tuple[RowComparison, ...]  # with the baseline, and other pairs chosen before looking
    conclusion: str  # what difference the model makes, in plain words
    says: tuple[str, ...]  # a sentence with its interval for each pair

    def mean_and_sd(self, row: str, metric: str) -> tuple[float | None, float | None]:
        return mean_and_sd(self.scored.scores.loc[self.scored.scores["row"] == row, metric])

    def table(self, *, wide: bool = False) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows, as text: four columns that fit 80 characters, or all."""
        against = {c.row: c.difference for c in self.comparisons if c.why == "no model"}
        base = {c.baseline for c in self.comparisons if c.why == "no model"}
        rows, metrics = self.scored.rows, HEADINGS if wide else ("macro_f1", "accuracy")
        short = not wide and max(len(row.marked) for row in rows) > LONG_NAME
        no_interval = short or any(one.too_few_groups for one in against.values())
        words = {name: f"{one.mean:+.3f}".replace("-", "−") if short else one.words for name, one in against.items()}
        words |= dict.fromkeys(base, "baseline")
        lines = []
        for row in rows:
            figures = [self.mean_and_sd(row.name, name) for name in metrics]
            shown = [_figure(mean, sd if wide else None) for mean, sd in figures]
            lines.append([row.marked, *shown, *([words.get(row.name, "")] if base else [])])
        last = [f"F1 − {name}{'' if no_interval else ' [95 %]'}" for name in base]
        return ["features", *(HEADINGS[name] for name in metrics), *last], lines

    def legend(self) -> list[str]:
        names = [row.marked for row in self.scored.rows]
        return [
            *(["- uses neither the model nor gene texts"] if any(name.startswith("- ") for name in names) else []),
            *([SEEN] if any(name.endswith(" *") for name in names) else []),
        ]

    def lines(self, *, wide: bool = False) -> list[str]:
        notes = [*self.legend(), *self.notes, *(self.says if wide else ())]
        table = text_table(*self.table(wide=wide))
        return [*_wrapped(self.conclusion), "", *_wrapped(self.title), *table, *_wrapped(*notes, indent="  ")]

    def as_json(self, classes: Sequence[str]) -> dict[str, Any]:
        scored, rows = self.scored, []
        for row in scored.rows:
            folds = scored.scores[scored.scores["row"] == row.name].drop(columns="row").astype(object)
            found = scored.predictions[scored.predictions["row"] == row.name]
            figures = ((name, *self.mean_and_sd(row.name, name)) for name in METRICS)
            rows.append(
                {
                    **asdict(row),
                    "metrics": {name: {"mean": mean, "sd": sd} for name, mean, sd in figures},
                    "by_class": scores_by_class(found["code"].to_numpy(), found["predicted"].to_numpy(), classes),
                    "folds": folds.where(folds.notna(), None).to_dict("records"),
                }
            )
        return {
            "name": self.name,
            "title": self.title,
            "notes": list(self.notes),
            "classes_not_trained_on": dict(scored.absent),
            "rows": rows,
            "comparisons": [_comparison(c) for c in self.comparisons],
            "conclusion": self.conclusion,
            "says": list(self.says),
        }


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The result of :func:`scstore.evaluate`.

    Attributes
    ----------
    settings
        Options, design, cells, classes, seed, and what was left out.
    regimes
        The tables: the folds first.
    cells
        The scored cells.
    left_out_classes
        With ``leave_one_class_out``; else ``None``.
    """

    settings: Mapping[str, Any]
    regimes: tuple[Regime, ...]
    cells: EvaluationCells
    left_out_classes: LeftOutClasses | None = None

    def __repr__(self) -> str:
        first = self.regimes[0]
        table = text_table(*first.table())
        return "\n".join([*_wrapped(first.conclusion), "", *table, *_wrapped(*first.legend(), indent="  ")])

    def _repr_html_(self) -> str:
        first = self.regimes[0]
        headings, rows = first.table()
        table = pd.DataFrame(rows, columns=headings).to_html(index=False, border=0)
        return f"<p><b>{escape(first.conclusion)}</b></p>{table}<p>{'<br>'.join(map(escape, first.legend()))}</p>"

    @property
    def conclusion(self) -> str:
        return self.regimes[0].conclusion

    def lines(self, *, wide: bool = False) -> list[str]:
        lines = self.regimes[0].lines(wide=wide)
        for regime in self.regimes[1:]:
            lines += ["", *regime.lines(wide=wide)]
        if (left_out := self.left_out_classes) is not None:
            rows = []
            for row, found in left_out.by_class.items():
                figures = (mean_and_sd(getattr(one, name) for one in found.values()) for name in LEFT_OUT_HEADINGS)
                rows.append([row, *(_figure(mean, sd) for mean, sd in figures)])
            headings = ["features", *LEFT_OUT_HEADINGS.values()]
            lines += ["", *_wrapped(left_out.title), *text_table(headings, rows)]
        return lines

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Predictions by cell, row and run: ``regime``, ``row``, ``run``, ``fold``, ``cell_id``, ``label``, …."""
        frames = [regime.scored.predictions.assign(regime=regime.name) for regime in self.regimes]
        frame = pd.concat(frames, ignore_index=True)
        frame["cell_id"] = self.cells.ids[frame["cell"]]
        for name, codes in (("label", "code"), ("predicted", "predicted")):
            frame[name] = pd.Categorical.from_codes(frame[codes], list(self.cells.classes))
        columns = ["regime", "row", "run", "fold", "cell_id", "label", "predicted", "confidence"]
        return frame[columns].astype(dict.fromkeys(["regime", "row", "fold"], "category"))

    @property
    def scores(self) -> pd.DataFrame:
        frames = []
        for regime in self.regimes:
            uses = {row.name: row.uses for row in regime.scored.rows}
            lines = regime.scored.scores.melt(["row", "run", "fold"], [*METRICS], "metric")
            frames.append(lines.assign(regime=regime.name, uses=lines["row"].map(uses)))
        columns = ["regime", "row", "uses", "run", "fold", "metric", "value"]
        return pd.concat(frames, ignore_index=True)[columns]

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **self.settings,
            "conclusion": self.conclusion,
            "regimes": [regime.as_json(self.cells.classes) for regime in self.regimes],
            "left_out_classes": None if self.left_out_classes is None else asdict(self.left_out_classes),
        }


def mean_and_sd(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation; ``None`` where there are too few values."""
    known = [value for value in values if value is not None and not np.isnan(value)]
    mean = float(np.mean(known)) if known else None
    return mean, float(np.std(known, ddof=1)) if len(known) > 1 else None


def _figure(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} ±{f'{sd:.3f}'.removeprefix('0')}"


def _wrapped(*lines: str, indent: str = "") -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent=indent)]


def make_regime(
    name: str,
    title: str,
    scored: Scored,
    cells: EvaluationCells,
    *,
    notes: Sequence[str],
    unit: str,
    seed: int,
    progress: Reporter,
) -> Regime:
    """Compare the rows and describe the comparisons; ``unit`` names the groups, ``seed`` is the bootstrap's."""
    groups = None if cells.groups is None else cells.groups[np.unique(scored.predictions["cell"])]
    comparisons = []
    pairs = pairs_to_compare(scored.rows)
    with progress.track(f"comparing {name}", len(pairs), "pairs") as track:
        for row, baseline, why in pairs:
            predicted = (scored.codes(name, "predicted") for name in (row, baseline))
            difference = paired_difference(scored.codes(row, "code"), *predicted, groups=groups, seed=seed)
            comparisons.append(RowComparison(row, baseline, why, difference))
            track.advance()
    conclusion, says = conclude(scored, comparisons, unit=unit)
    if scored.absent:
        listed = ", ".join(f"{name} {n:,}" for name, n in scored.absent.items())
        n_absent = f"{sum(scored.absent.values()):,} test cells ({listed})"
        notes = [*notes, f"not scored, because no training cell of the fold has their class: {n_absent}"]
    return Regime(name, title, (*notes, *scored.notes), scored, tuple(comparisons), conclusion, says)


def _comparison(c: RowComparison) -> dict[str, Any]:
    found = {**asdict(c), "verdict": c.difference.verdict}
    if c.difference.too_few_groups:
        found["difference"] |= {"low": None, "high": None}
    return found
