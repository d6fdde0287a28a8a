"""The result of an evaluation: tables, comparisons, sentences, JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from scstore.evaluation.cells import EvaluationCells
from scstore.evaluation.features import StoredFeatures
from scstore.evaluation.paired_bootstrap import TOO_SMALL, Difference, paired_difference
from scstore.evaluation.runs import Scored
from scstore.evaluation.table_rows import ACROSS_RANDOM, DEFAULT, REGRESSION, EvaluationRow
from scstore.heads.across_genes import KIND
from scstore.heads.scores import METRICS, scores_by_class

FORMAT = "1.0"

# Rows of gene texts, and the same with random vectors.
OF_RANDOM = {"genept": "genept_random", "genept+X": "genept_random+X", KIND: ACROSS_RANDOM}

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
class RowComparison:
    """Two rows on the same cells.

    Attributes
    ----------
    row, baseline
        Their names.
    why
        ``no model`` (against the baseline, which uses neither model nor gene texts), ``default`` (the default head
        against its expression alone), ``random vectors`` (gene texts against them) or ``control`` (a row against its
        counterpart in ``controls=``).
    difference
        Of macro-F1 over all held-out cells together.
    """

    row: str
    baseline: str
    why: str
    difference: Difference


@dataclass(frozen=True)
class Regime:
    """One table of an evaluation.

    Attributes
    ----------
    name
        ``folds``, ``few-shot N`` or ``disjoint genes``.
    title
        What was done.
    notes
        What was left out, and other things to know.
    scored
        Scores by fold and predictions by cell.
    comparisons
        Every row against the baseline, and the other pairs worth a sentence; all chosen before looking.
    says
        Sentences; the last says what difference the model makes.
    """

    name: str
    title: str
    notes: tuple[str, ...]
    scored: Scored
    comparisons: tuple[RowComparison, ...]
    says: tuple[str, ...]

    def mean_and_sd(self, row: str, metric: str) -> tuple[float | None, float | None]:
        """Return mean and standard deviation of a metric over the folds."""
        return mean_and_sd(self.scored.scores.loc[self.scored.scores["row"] == row, metric])

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows, as text."""
        against = {c.row: c for c in self.comparisons if c.why == "no model"}
        base = {c.baseline for c in against.values()}
        words = {name: c.difference.words for name, c in against.items()} | dict.fromkeys(base, "baseline")
        rows = []
        for row in self.scored.rows:
            figures = [_figure(*self.mean_and_sd(row.name, name)) for name in HEADINGS]
            seconds, _ = self.mean_and_sd(row.name, "seconds")
            rows.append([row.marked, *figures, f"{seconds:.1f}", *([words.get(row.name, "")] if base else [])])
        interval = "" if any(c.difference.too_few_groups for c in against.values()) else " [95 %]"
        return ["features", *HEADINGS.values(), "s", *(f"F1 − {name}{interval}" for name in base)], rows

    def as_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return everything but the predictions."""
        scored, rows = self.scored, []
        for row in scored.rows:
            folds = scored.scores[scored.scores["row"] == row.name].drop(columns="row").astype(object)
            found = scored.predictions[scored.predictions["row"] == row.name]
            figures = {name: self.mean_and_sd(row.name, name) for name in (*METRICS, "seconds")}
            rows.append(
                {
                    **asdict(row),
                    "metrics": {name: {"mean": mean, "sd": sd} for name, (mean, sd) in figures.items()},
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
            "says": list(self.says),
        }

    def tidy(self) -> pd.DataFrame:
        """Return one line for each row, fold and metric."""
        lines = self.scored.scores.melt(["row", "run", "fold"], [*METRICS, "seconds"], "metric")
        lines.insert(0, "regime", self.name)
        lines.insert(2, "uses", lines["row"].map({row.name: row.uses for row in self.scored.rows}))
        return lines


@dataclass(frozen=True)
class LeftOutClasses:
    """Whether confidence and novelty tell cells of a class that no head was trained on.

    Attributes
    ----------
    title
        What was done.
    by_class
        For each row's name and each class left out: ``auroc`` of confidence (known above unknown), ``auroc_novelty``
        (unknown above known), ``rejected`` share of the unknown cells and ``kept`` share of the known ones at the
        head's own threshold of confidence, ``n_unknown``, ``n_known``.
    rows
        The rows.
    """

    title: str
    by_class: Mapping[str, Mapping[str, Mapping[str, float | int]]]
    rows: tuple[EvaluationRow, ...]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows, as text: mean ± sd over the classes left out."""
        rows = []
        for row in self.rows:
            found = self.by_class[row.name].values()
            rows.append(
                [row.marked, *(_figure(*mean_and_sd([one[key] for one in found])) for key in LEFT_OUT_HEADINGS)]
            )
        return ["features", *LEFT_OUT_HEADINGS.values()], rows

    def as_json(self) -> dict[str, Any]:
        """Return title and figures."""
        return {"title": self.title, "rows": {name: dict(found) for name, found in self.by_class.items()}}


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`scstore.evaluate`.

    Attributes
    ----------
    settings
        Options, design, cells, classes, seed, and what was left out.
    regimes
        The tables: the folds first.
    left_out_classes
        With ``leave_one_class_out``; else ``None``.
    features
        The features of the scored cells, for figures.
    """

    settings: Mapping[str, Any]
    regimes: tuple[Regime, ...]
    left_out_classes: LeftOutClasses | None
    features: StoredFeatures

    @property
    def cells(self) -> EvaluationCells:
        """The scored cells."""
        return self.features.cells

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
        """One line for each regime, row, fold and metric."""
        return pd.concat([regime.tidy() for regime in self.regimes], ignore_index=True)

    def as_json(self) -> dict[str, Any]:
        """Return everything but the predictions, as JSON values."""
        return {
            "format": FORMAT,
            **self.settings,
            "regimes": [regime.as_json(self.cells.classes) for regime in self.regimes],
            "left_out_classes": None if self.left_out_classes is None else self.left_out_classes.as_json(),
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


def make_regime(
    name: str, title: str, scored: Scored, cells: EvaluationCells, *, notes: Sequence[str], seed: int
) -> Regime:
    """Compare the rows and describe the comparisons; ``seed`` is the bootstrap's."""
    rows, baseline = {row.name: row for row in scored.rows}, baseline_row(scored.rows)
    pairs = [(other, baseline, "no model") for other in rows if baseline not in (None, other)]
    named = [(DEFAULT, "X", "default"), *((*pair, "random vectors") for pair in OF_RANDOM.items())]
    pairs += [(row, other, why) for row, other, why in named if {row, other} <= set(rows) and other != baseline]
    pairs += [
        (own.name, row.name, "control")
        for row in scored.rows
        for own in scored.rows
        if row.control and not own.control and (own.views, own.optional) == (row.views, row.optional)
    ]
    groups = None if cells.groups is None else cells.groups[np.unique(scored.predictions["cell"])]
    comparisons = []
    for row, baseline, why in pairs:
        predicted = (scored.codes(name, "predicted") for name in (row, baseline))
        difference = paired_difference(scored.codes(row, "code"), *predicted, groups=groups, seed=seed)
        comparisons.append(RowComparison(row, baseline, why, difference))
    says = _sentences(scored, comparisons, of_scstore=cells.stores[0].record is not None)
    if scored.absent:
        listed = ", ".join(f"{name} {n:,}" for name, n in scored.absent.items())
        n_absent = f"{sum(scored.absent.values()):,} test cells ({listed})"
        notes = [*notes, f"not scored, because no training cell of the fold has their class: {n_absent}"]
    return Regime(name, title, (*notes, *scored.notes), scored, tuple(comparisons), tuple(says))


def baseline_row(rows: Iterable[EvaluationRow]) -> str | None:
    """Return the row that the others are compared with: the regression, else expression, else the first control."""
    nothing = [row.name for row in rows if row.uses == "nothing"]
    return next((name for name in (REGRESSION, "X", *nothing) if name in nothing), None)


def main_row(scored: Scored, uses: str) -> str | None:
    """Return the default row if it uses that, else the row of the highest mean macro-F1 among those that do."""
    means = scored.scores.groupby("row")["macro_f1"].mean()
    mine = [row.name for row in scored.rows if row.uses == uses]
    return DEFAULT if DEFAULT in mine else max(mine, key=lambda name: means[name], default=None)


def _comparison(c: RowComparison) -> dict[str, Any]:
    """Return JSON values, without an interval where there are too few groups for one."""
    found = {**asdict(c), "verdict": c.difference.verdict}
    if c.difference.too_few_groups:
        found["difference"] |= {"low": None, "high": None}
    return found


def _sentences(scored: Scored, comparisons: Sequence[RowComparison], *, of_scstore: bool) -> list[str]:
    """Return a sentence for each pair, for the gene texts and, last, for the model."""
    rows = {row.name: row.words for row in scored.rows}
    says = [
        f"{rows[c.row]} against {rows[c.baseline]}: {c.difference.words}: {c.difference.verdict}"
        for c in comparisons
        if c.why != "no model"
    ]
    against = {(c.row, c.why): c for c in comparisons}
    model = "the language model" if of_scstore else "the embedding"
    subjects = {"gene texts": "what the gene texts say", "model": model}
    found = {uses: against.get((main_row(scored, uses) or "", "no model")) for uses in subjects}
    for uses, c in found.items():
        if c is None:
            continue
        own = against.get((c.row, "default"), c)
        # a gain that the default's own expression has as well is the head's
        told = own if c.difference.is_gain and not own.difference.is_gain else c
        says.append(_in_words(told, scored, subjects[uses]))
    if not any(found.values()):
        missing = "without the model" if baseline_row(scored.rows) is None else "with the model"
        says.append(f"this table has no row {missing}, so it does not say what the model added")
    return says


def _in_words(c: RowComparison, scored: Scored, name: str) -> str:
    """Return what difference a row makes: in plain words, then with its interval."""
    means, words = scored.scores.groupby("row")["macro_f1"].mean(), {row.name: row.words for row in scored.rows}
    d = c.difference
    if d.is_nothing:
        effect = f"{name} makes no difference{'' if abs(d.mean) < TOO_SMALL else ' that they can show'}"
    elif d.too_few_groups:
        effect = f"F1 is {'higher' if d.mean > 0 else 'lower'} with {name}"
    else:
        effect = f"{name} {'raises F1' if d.is_gain else 'does not help'}"
    first, second = (f"{means[row]:.3f}".removeprefix("0") for row in (c.row, c.baseline))
    groups = "" if d.n_groups is None else f"; {d.n_groups} group(s)"
    pair = f"{words[c.row]} over {words[c.baseline]}"
    return f"On these cells {effect} (F1 {first} with it, {second} without{groups}); {pair}: {d.words}: {d.verdict}"
