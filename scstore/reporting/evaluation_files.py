"""An evaluation as a folder: every number, the tables to read, and figures."""

import importlib.util
import os
from pathlib import Path
from typing import Annotated

import numpy as np

from scstore import fsio, tables
from scstore.errors import MissingExtraError, printable
from scstore.evaluation.conclusion import baseline_row, main_row
from scstore.evaluation.design import EvaluationRow, ViewSource
from scstore.evaluation.features import ControlStores, StoredFeatures
from scstore.evaluation.result import Evaluation
from scstore.evaluation.runs import Scored
from scstore.heads.class_numbers import stratified_sample
from scstore.heads.preprocessing import EXPRESSION
from scstore.heads.rows import Array, RowSubset, materialise
from scstore.options import Option, Overwrite, public
from scstore.reporting.marks import EVALUATION, labels_of, row_words
from scstore.store.views import PICTURES

SUFFIXES = ("svg", "png")
FIGURES = tuple(f"{name}.{suffix}" for name in ("metrics", "confusion", "umap") for suffix in SUFFIXES)
FILES = (EVALUATION, "evaluation.csv", "evaluation.txt", "predictions.parquet", *FIGURES)
# A UMAP of more cells is drawn of a part of each class: one of a million takes an hour and shows the same.
UMAP_CELLS = 20_000


@public
def save_evaluation(
    evaluation: Annotated[Evaluation, Option("From evaluate.")],
    folder: Annotated[str | os.PathLike[str], Option("Folder for numbers, predictions and figures.")],
    *,
    figures: Annotated[bool, Option("Draw the figures; needs scstore[plot].")] = True,
    overwrite: Overwrite = False,
) -> Path:
    """Write an evaluation to a folder, whole or not at all.

    The files are ``evaluation.json`` (everything but the predictions), ``evaluation.csv`` (one line for each regime,
    row, fold and metric), ``evaluation.txt`` (all tables and sentences), ``predictions.parquet``, and the figures
    ``metrics``, ``confusion`` and ``umap`` (of the views asked for), each as ``.svg`` and ``.png``.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OutputError
        If the folder exists, or is to be replaced and holds no evaluation.
    MissingExtraError
        If figures are wanted and matplotlib or umap-learn is not installed.
    """
    target = check_evaluation_output(folder, figures=figures, overwrite=overwrite)
    with fsio.atomic_folder(target, overwrite=overwrite) as partial:
        fsio.write_json(partial / EVALUATION, evaluation.as_json())
        tables.write_table(evaluation.scores, partial / "evaluation.csv")
        lines = "".join(f"{printable(line)}\n" for line in evaluation.lines(wide=True))
        fsio.write_bytes(partial / "evaluation.txt", lines.encode())
        tables.write_table(evaluation.predictions, partial / "predictions.parquet")
        if figures:
            _draw(evaluation, partial)
    return target


def check_evaluation_output(folder: str | os.PathLike[str], *, figures: bool, overwrite: bool) -> Path:
    if figures and not all(importlib.util.find_spec(name) for name in ("matplotlib", "umap")):
        raise MissingExtraError("Drawing figures (figures=False leaves them out)", "plot")
    return fsio.check_output(folder, overwrite=overwrite, problem=_problem)


def _problem(path: Path) -> str | None:
    return fsio.folder_problem(path, "an evaluation", marker=EVALUATION, parts=FILES)


def _draw(evaluation: Evaluation, folder: Path) -> None:
    from matplotlib.figure import Figure

    from scstore.reporting import plots
    from scstore.reporting.dot_plots import evaluation as draw_scores
    from scstore.reporting.plots import save

    regime, names, counts = evaluation.regimes[0], np.array(evaluation.cells.classes, dtype=object), {}
    draw_scores(evaluation, ax=(metrics := Figure()))
    for row in regime.scored.rows:
        if row.name in _rows_to_confuse(regime.scored):
            found = regime.scored.predictions.query("row == @row.name")
            title = f"{row_words(row)} (F1 {regime.mean_and_sd(row.name, 'macro_f1')[0]:.3f})"
            counts[title] = plots.confusion_counts(names[found["code"]], names[found["predicted"]])
    plots.draw_confusions(confusion := Figure(), counts)
    drawn = {"metrics": metrics, "confusion": confusion}
    which, seed = _cells_to_lay_out(evaluation), int(evaluation.settings["seed"])
    features = StoredFeatures(evaluation.cells, {"": ControlStores(evaluation.cells.stores, evaluation.cells.rows)})
    layouts = {}
    for row in _rows_to_lay_out(evaluation):
        rows = RowSubset(features.view(ViewSource(row.views[0], "")), which)
        layouts[row_words(row)] = plots.embed(materialise(rows), seed=seed)
    if layouts:
        labels = labels_of(evaluation.cells.labels[which])
        plots.draw_layouts(drawn.setdefault("umap", Figure()), layouts, labels)
    for name, figure in drawn.items():
        save(figure, *(folder / f"{name}.{suffix}" for suffix in SUFFIXES))


def _rows_to_confuse(scored: Scored) -> list[str]:
    """Return the gene texts, the default or the best row with the model, and the baseline, as far as there."""
    names = [row.name for row in scored.rows]
    texts = "genept" if "genept" in names else main_row(scored, "gene texts")
    wanted = (texts, main_row(scored, "model"), main_row(scored, "embedding"), baseline_row(scored.rows))
    return [name for name in wanted if name] or names[:1]


def _rows_to_lay_out(evaluation: Evaluation) -> list[EvaluationRow]:
    """Return the rows of one view that were asked for: those named, else the store's default view."""
    store = evaluation.cells.stores[0]
    rows = [row for row in evaluation.regimes[0].scored.rows if len(row.views) == 1 and not row.control]
    if evaluation.settings["views"] is None:
        rows = [row for row in rows if store.record is not None and row.views[0] == store.default_view]
    return [row for row in rows if row.views[0] != EXPRESSION and not PICTURES.search(row.views[0])]


def _cells_to_lay_out(evaluation: Evaluation) -> Array:
    """Return the scored cells, or a part of each class where they are very many."""
    scored: Array = np.unique(evaluation.regimes[0].scored.predictions["cell"])
    if len(scored) <= UMAP_CELLS:
        return scored
    rng = np.random.default_rng(int(evaluation.settings["seed"]))
    return scored[stratified_sample(evaluation.cells.codes[scored], size=UMAP_CELLS, rng=rng)]
