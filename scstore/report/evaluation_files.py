"""An evaluation as a folder: every number, the table to read, and the papers' figures."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scstore import fsio
from scstore.errors import MissingExtraError, OutputError
from scstore.evaluation.result import Evaluation, Regime, mean_and_sd
from scstore.evaluation.rows import EvaluationRow
from scstore.heads.folds import stratified_sample
from scstore.heads.rows import RowSubset, materialise

__all__ = ["check_evaluation_output", "evaluation_markdown", "save_evaluation"]

JSON_FILE = "evaluation.json"
UMAP_CELLS = 20_000
"""More cells than that are drawn from by class: a UMAP of a million takes an hour and shows the same."""

BARS = {"accuracy": "accuracy", "macro_precision": "precision", "macro_recall": "recall", "macro_f1": "F1"}
KINDS = {
    "model": "with the model",
    "gene texts": "gene texts, no model pass",
    "nothing": "control: neither",
    "control": "control: another store",
}
FORMATS = ("svg", "png")


def save_evaluation(
    evaluation: Evaluation, folder: str | os.PathLike[str], *, figures: bool = True, overwrite: bool = False
) -> Path:
    """Write an evaluation, whole or not at all.

    Parameters
    ----------
    evaluation
        From :func:`scstore.evaluate`.
    folder
        Gets ``evaluation.json`` (everything but the predictions), ``evaluation.csv`` (one line a regime, row, fold and
        metric), ``evaluation.md`` (the tables), ``predictions.parquet``, and with figures ``metrics``, ``confusion``
        and ``umap``, each as ``.svg`` and ``.png``.
    figures
        Draw them; needs ``scstore[plot]``.
    overwrite
        Replace the folder of an earlier evaluation.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OutputError
        If the folder exists, or is to be replaced and is no evaluation.
    MissingExtraError
        If figures are wanted and matplotlib or umap-learn are not installed.
    """
    target = check_evaluation_output(folder, figures=figures, overwrite=overwrite)
    with fsio.atomic_folder(target, overwrite=overwrite) as partial:
        fsio.write_json(partial / JSON_FILE, evaluation.as_json())
        evaluation.scores.to_csv(partial / "evaluation.csv", index=False)
        fsio.write_bytes(partial / "evaluation.md", evaluation_markdown(evaluation).encode())
        evaluation.predictions.to_parquet(partial / "predictions.parquet", index=False)
        if figures:
            _draw(evaluation, partial)
    return target


def check_evaluation_output(folder: str | os.PathLike[str], *, figures: bool, overwrite: bool) -> Path:
    """Say whether an evaluation can be written, before any work is done for it.

    Raises
    ------
    OutputError
        If the folder cannot be written, or holds something else than an evaluation.
    MissingExtraError
        If figures are wanted and matplotlib or umap-learn are not installed.
    """
    if figures and not all(importlib.util.find_spec(name) for name in ("matplotlib", "umap")):
        needs = "Drawing figures (--no-figures leaves them out)"
        raise MissingExtraError(needs, "plot")
    target = fsio.check_output(folder, overwrite=overwrite)
    if target.exists() and not (target / JSON_FILE).is_file():
        msg = f"{target} exists and holds no evaluation, so it is not replaced. Choose another name."
        raise OutputError(msg)
    return target


def evaluation_markdown(evaluation: Evaluation) -> str:
    """The tables, what was left out, and the sentences, as Markdown."""
    parts = [f"# {evaluation.settings['label']}: what each view of the cells is worth"]
    for regime in evaluation.regimes:
        parts += [f"## {regime.name}", f"{_escape(regime.title)}.", _table(*regime.table())]
        parts += ["\n".join(f"- {_escape(line)}" for line in (*regime.notes, *regime.says))]
    if evaluation.rejection is not None:
        rejection = evaluation.rejection
        parts += ["## left-out classes", f"{_escape(rejection.title)}.", _table(*rejection.table())]
    parts.append(
        "Rows with `-` use neither the model nor gene texts. Differences are of macro-F1 over all held-out cells "
        "together, with a 95 % paired bootstrap interval."
    )
    return "\n\n".join(parts) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *[[_escape(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """Labels and names are data: no HTML, no links, no cells of a table of their own."""
    for mark in ("\\", "|", "<", ">", "[", "]", "*", "`"):
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return " ".join(text.split())


def _draw(evaluation: Evaluation, folder: Path) -> None:
    from scstore.report.plots import confusion_matrices_figure, embed, metrics_figure, umap_figure

    regime, cells = evaluation.regimes[0], evaluation.cells
    methods = {
        row.marked: {told: _pair(regime, row, name) for name, told in BARS.items()} for row in regime.scored.rows
    }
    kinds = {row.marked: KINDS[row.uses] for row in regime.scored.rows}
    title = f"{regime.title}".split(";")[0]
    metrics_figure(methods, *_files(folder, "metrics"), kinds=kinds, title=title)
    scored = regime.scored.truth >= 0
    names = np.array(cells.classes, dtype=object)
    truth = names[regime.scored.truth[scored]].tolist()
    results = {
        f"{row.marked} (F1 {_pair(regime, row, 'macro_f1')[0]:.3f})": (
            truth,
            names[regime.scored.predicted[row.name][scored]].tolist(),
        )
        for row in _chosen(evaluation)
    }
    confusion_matrices_figure(results, *_files(folder, "confusion"))
    which = _umap_cells(evaluation)
    layouts = {
        told: embed(materialise(RowSubset(cells.features(view), which)), seed=int(evaluation.settings["seed"]))
        for told, view in _umap_views(evaluation).items()
    }
    if layouts:
        umap_figure(layouts, names[cells.codes[which]].tolist(), *_files(folder, "umap"))


def _files(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.{suffix}" for suffix in FORMATS]


def _pair(regime: Regime, row: EvaluationRow, metric: str) -> tuple[float, float | None]:
    mean, sd = mean_and_sd([fold.metrics[metric] for fold in regime.scored.folds[row.name]])
    return mean or 0.0, sd


def _chosen(evaluation: Evaluation) -> list[EvaluationRow]:
    """Rows whose confusion is shown: the best without model or texts, the gene texts, and the default or best row."""
    regime = evaluation.regimes[0]
    rows = {row.name: row for row in regime.scored.rows}
    store = evaluation.cells.stores[0]

    def best(uses: str) -> str | None:
        those = [name for name, row in rows.items() if row.uses == uses]
        return max(those, key=lambda name: _pair(regime, rows[name], "macro_f1")[0], default=None)

    default = None if store.record is None else "+".join(store.default_views)
    texts = "genept" if "genept" in rows else best("gene texts")
    wanted = [best("nothing"), texts, default if default in rows else best("model")]
    names = list(dict.fromkeys(name for name in wanted if name is not None)) or list(rows)[:1]
    return [rows[name] for name in names]


def _umap_views(evaluation: Evaluation) -> dict[str, str]:
    """Views to lay out, by title: random vectors, gene texts, the readout; of a foreign file its first matrices."""
    store = evaluation.cells.stores[0]
    if store.record is None:
        return {name: name for name in [view for view in store.views if view != "X"][:3]}
    wanted = {
        "initialisation: random gene vectors": "genept_random",
        "GenePT-w": "genept",
        f"scstore: {store.default_view}": store.default_view,
    }
    return {told: view for told, view in wanted.items() if view in store.views}


def _umap_cells(evaluation: Evaluation) -> NDArray[np.int64]:
    """The cells that were scored, or a part of each class where they are very many."""
    scored = np.flatnonzero((evaluation.regimes[0].scored.truth >= 0).any(axis=0))
    if len(scored) <= UMAP_CELLS:
        return scored
    rng = np.random.default_rng(int(evaluation.settings["seed"]))
    part: NDArray[np.int64] = scored[stratified_sample(evaluation.cells.codes[scored], size=UMAP_CELLS, rng=rng)]
    return part
