"""What an evaluation found, and how it is put: tables, comparisons, plain sentences, JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from scstore.evaluation.cells import EvaluationCells
from scstore.evaluation.paired_bootstrap import Difference, paired_difference
from scstore.evaluation.rows import EvaluationRow
from scstore.evaluation.runs import Scored
from scstore.heads.metrics import METRICS, metrics_by_class

__all__ = ["FORMAT", "Comparison", "Evaluation", "Regime", "Rejection", "make_regime", "mean_and_sd"]

FORMAT = "1.0"
FEW_GROUPS = 6
"""Below so many groups an interval over groups is a rough one, and the sentence says so."""

HEADINGS = {
    "accuracy": "accuracy",
    "macro_recall": "recall = bal. acc.",
    "macro_precision": "precision",
    "macro_f1": "F1",
    "auroc": "AUROC",
    "ece": "ECE",
}


@dataclass(frozen=True)
class Comparison:
    """Two rows on the same cells.

    Attributes
    ----------
    row, baseline
        Names.
    why
        ``no model`` (against the best row that uses neither model nor gene texts), ``default`` (the default fusion
        against the no-model fusion) or ``control`` (a row against its counterpart of ``--control``).
    difference
        Of macro-F1 over all held-out cells together.
    """

    row: str
    baseline: str
    why: str
    difference: Difference

    @property
    def words(self) -> str:
        """``+0.012 [−0.004, +0.028]``."""
        d = self.difference
        return f"{_signed(d.mean)} [{_signed(d.low)}, {_signed(d.high)}]"

    @property
    def verdict(self) -> str:
        """Whether these cells show a difference."""
        d = self.difference
        few = f", with only {d.n_units} groups to judge by" if d.units == "groups" and d.n_units < FEW_GROUPS else ""
        if d.low > 0:
            return f"a gain that these cells show{few}"
        if d.high < 0:
            return f"a loss that these cells show{few}"
        return f"nothing that these cells can show{few}"


@dataclass(frozen=True)
class Regime:
    """One table.

    Attributes
    ----------
    name
        ``folds``, ``few-shot N`` or ``disjoint genes``.
    title
        What was done, in words.
    notes
        What was left out, and other things to know.
    scored
        Numbers by fold and predictions by cell.
    comparisons
        Every row against the best without model or texts, and the other pairs worth a sentence.
    says
        Sentences; the last says what the model added.
    """

    name: str
    title: str
    notes: tuple[str, ...]
    scored: Scored
    comparisons: tuple[Comparison, ...]
    says: tuple[str, ...]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows, as text."""
        against = {c.row: c.words for c in self.comparisons if c.why == "no model"}
        base = {c.baseline for c in self.comparisons if c.why == "no model"}
        heading = f"F1 − {next(iter(base))} [95 %]" if base else ""
        headings = ["features", *HEADINGS.values(), "s", *([heading] if base else [])]
        rows = []
        for row in self.scored.rows:
            folds = self.scored.folds[row.name]
            figures = [_figure(*mean_and_sd([fold.metrics[name] for fold in folds])) for name in HEADINGS]
            seconds = f"{np.mean([fold.seconds for fold in folds]):.1f}"
            last = "baseline" if row.name in base else against.get(row.name, "")
            rows.append([row.marked, *figures, seconds, *([last] if base else [])])
        return headings, rows

    def as_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """Everything but the predictions."""
        scored = self.scored
        every = scored.truth >= 0
        rows = [
            {
                "name": row.name,
                "views": list(row.views),
                "uses": row.uses,
                "control": row.control or None,
                "metrics": {
                    name: dict(zip(("mean", "sd"), mean_and_sd([f.metrics[name] for f in folds]), strict=True))
                    for name in METRICS
                },
                "seconds": float(np.mean([fold.seconds for fold in folds])),
                "by_class": metrics_by_class(scored.truth[every], scored.predicted[row.name][every], classes),
                "folds": [asdict(fold) for fold in folds],
            }
            for row, folds in ((row, scored.folds[row.name]) for row in scored.rows)
        ]
        return {
            "name": self.name,
            "title": self.title,
            "notes": list(self.notes),
            "classes_not_trained_on": dict(scored.absent),
            "rows": rows,
            "comparisons": [{**asdict(c), "verdict": c.verdict} for c in self.comparisons],
            "says": list(self.says),
        }

    def tidy(self) -> pd.DataFrame:
        """One line a row, fold and metric: ``regime``, ``row``, ``uses``, ``run``, ``fold``, ``metric``, ``value``."""
        lines = [
            (self.name, row.name, row.uses, fold.run, fold.fold, name, value)
            for row in self.scored.rows
            for fold in self.scored.folds[row.name]
            for name, value in {**fold.metrics, "seconds": fold.seconds}.items()
        ]
        return pd.DataFrame(lines, columns=["regime", "row", "uses", "run", "fold", "metric", "value"])


@dataclass(frozen=True)
class Rejection:
    """Whether confidence and novelty tell cells of a class that nobody has trained on.

    Attributes
    ----------
    title
        What was done, in words.
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
        """Headings and rows, as text: mean ± sd over the classes left out."""
        headings = ["features", "AUROC confidence", "AUROC novelty", "unknown rejected", "known kept"]
        figures_told = ("auroc", "auroc_novelty", "rejected", "kept")
        rows = []
        for row in self.rows:
            found = self.by_class[row.name].values()
            figures = [_figure(*mean_and_sd([one[name] for one in found])) for name in figures_told]
            rows.append([row.marked, *figures])
        return headings, rows

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {"title": self.title, "rows": {name: dict(found) for name, found in self.by_class.items()}}


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`scstore.evaluate`.

    Attributes
    ----------
    settings
        What was asked for and what it came to: design, cells, classes, seed, what was left out.
    regimes
        The tables: the folds first.
    rejection
        Of left-out classes, where asked for.
    cells
        What was scored; the figures read features from it.
    """

    settings: Mapping[str, Any]
    regimes: tuple[Regime, ...]
    rejection: Rejection | None
    cells: EvaluationCells

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Predictions by cell, row and run: ``regime``, ``row``, ``run``, ``fold``, ``cell_id``, ``label``, …."""
        frames = [regime.scored.predictions(self.cells, regime.name) for regime in self.regimes]
        frame = pd.concat(frames, ignore_index=True)
        return frame.astype({"regime": "category", "row": "category", "fold": "category"})

    @property
    def scores(self) -> pd.DataFrame:
        """Numbers by regime, row, fold and metric, one a line."""
        return pd.concat([regime.tidy() for regime in self.regimes], ignore_index=True)

    def as_json(self) -> dict[str, Any]:
        """Everything but the predictions, as JSON values."""
        return {
            "format": FORMAT,
            **self.settings,
            "regimes": [regime.as_json(self.cells.classes) for regime in self.regimes],
            "rejection": None if self.rejection is None else self.rejection.as_json(),
        }


def mean_and_sd(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; ``None`` where there are too few values."""
    known = [value for value in values if value is not None]
    mean = float(np.mean(known)) if known else None
    return mean, float(np.std(known, ddof=1)) if len(known) > 1 else None


def _figure(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} ±{f'{sd:.3f}'.removeprefix('0')}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def make_regime(
    name: str, title: str, scored: Scored, cells: EvaluationCells, *, notes: Sequence[str], seed: int
) -> Regime:
    """Compare the rows and put what they say into words.

    Parameters
    ----------
    name, title, notes
        Of the table.
    scored
        The rows on the splits.
    cells
        Their groups decide what the bootstrap draws.
    seed
        Of the bootstrap.
    """
    rows = {row.name: row for row in scored.rows}
    f1 = {n: mean_and_sd([fold.metrics["macro_f1"] for fold in folds])[0] or 0.0 for n, folds in scored.folds.items()}

    def best(uses: str) -> str | None:
        return max((n for n, row in rows.items() if row.uses == uses), key=f1.__getitem__, default=None)

    def compare(row: str, baseline: str, why: str) -> Comparison:
        difference = paired_difference(
            scored.truth, scored.predicted[row], scored.predicted[baseline], groups=cells.groups, seed=seed
        )
        return Comparison(row, baseline, why, difference)

    nothing, texts, model = best("nothing"), best("gene texts"), best("model")
    against = {} if nothing is None else {n: compare(n, nothing, "no model") for n in rows if n != nothing}
    fixed = [compare(*pair, "default") for pair in _fixed_pair(cells, rows) if pair[0] != model or pair[1] != nothing]
    matched = [
        compare(own.name, row.name, "control")
        for row in rows.values()
        for own in rows.values()
        if row.control and not own.control and own.views == row.views
    ]
    says = [
        f"{rows[c.row].words} against {rows[c.baseline].words}, chosen before looking: {c.words}: {c.verdict}"
        for c in fixed
    ]
    says += [f"{rows[c.row].words} against {rows[c.baseline].words}: {c.words}: {c.verdict}" for c in matched]
    for row, subject in ((texts, "gene texts"), (model, "model")):
        if row is not None and nothing is not None:
            c = against[row]
            says.append(
                f"the {subject} added {_signed(c.difference.mean)} macro-F1 [{_signed(c.difference.low)}, "
                f"{_signed(c.difference.high)}] over {rows[nothing].words} ({rows[row].words}): {c.verdict}"
            )
    if nothing is None or (texts is None and model is None):
        missing = "without the model" if nothing is None else "with the model"
        says.append(f"no row {missing} is in this table, so what the model added cannot be said")
    told = (*notes, *scored.notes, *_absent_note(scored))
    return Regime(name, title, told, scored, (*against.values(), *fixed, *matched), tuple(says))


def _fixed_pair(cells: EvaluationCells, rows: Mapping[str, EvaluationRow]) -> list[tuple[str, str]]:
    """The default fusion and the no-model fusion, where both have a row."""
    if cells.stores[0].record is None:
        return []
    pair = ("+".join(cells.stores[0].default_views), "genept_random+X")
    return [pair] if all(name in rows for name in pair) else []


def _absent_note(scored: Scored) -> list[str]:
    if not scored.absent:
        return []
    told = ", ".join(f"{name} {n:,}" for name, n in scored.absent.items())
    return [f"not scored, since no training cell of the fold has their class: {sum(scored.absent.values()):,} ({told})"]
