"""An evaluation as a folder: every number, the table to read, and the papers' figures."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Annotated

import numpy as np

from scstore import fsio, tables
from scstore.errors import MissingExtraError
from scstore.evaluation.conclusion import baseline_row, main_row
from scstore.evaluation.result import Evaluation
from scstore.evaluation.table_rows import ViewSource
from scstore.heads.class_numbers import stratified_sample
from scstore.heads.rows import Array, RowSubset, materialise
from scstore.options import Option, Overwrite, Progress, public
from scstore.progress import Reporter
from scstore.reporting.markdown import as_table, escaped
from scstore.reporting.marks import EVALUATION, labels_of, row_words, view_words
from scstore.store.views import PICTURES

SUFFIXES = ("svg", "png")
FIGURES = tuple(f"{name}.{suffix}" for name in ("metrics", "confusion", "umap") for suffix in SUFFIXES)
FILES = (EVALUATION, "evaluation.csv", "evaluation.md", "predictions.parquet", *FIGURES)
# A UMAP of more cells is drawn of a part of each class: one of a million takes an hour and shows the same.
UMAP_CELLS = 20_000


@public
def save_evaluation(
    evaluation: Annotated[Evaluation, Option("From evaluate.")],
    folder: Annotated[str | os.PathLike[str], Option("Folder for numbers, predictions and figures.")],
    *,
    figures: Annotated[bool, Option("Draw the figures; needs scstore[plot].")] = True,
    overwrite: Overwrite = False,
    progress: Progress = None,
) -> Path:
    """Write an evaluation to a folder, whole or not at all.

    The files are ``evaluation.json`` (everything but the predictions), ``evaluation.csv`` (one line for each regime,
    row, fold and metric), ``evaluation.md`` (the tables), ``predictions.parquet``, and the figures ``metrics``,
    ``confusion`` and ``umap`` (of the views asked for), each as ``.svg`` and ``.png``.

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
        fsio.write_bytes(partial / "evaluation.md", evaluation_markdown(evaluation).encode())
        tables.write_table(evaluation.predictions, partial / "predictions.parquet")
        if figures:
            _draw(evaluation, partial, progress or Reporter())
    return target


def check_evaluation_output(folder: str | os.PathLike[str], *, figures: bool, overwrite: bool) -> Path:
    """Return the folder if an evaluation can be written there, with figures if wanted; else refuse."""
    if figures and not all(importlib.util.find_spec(name) for name in ("matplotlib", "umap")):
        raise MissingExtraError("Drawing figures (figures=False leaves them out)", "plot")
    return fsio.check_output(folder, overwrite=overwrite, problem=_problem)


def _problem(path: Path) -> str | None:
    return fsio.folder_problem(path, "an evaluation", marker=EVALUATION, parts=FILES)


def evaluation_markdown(evaluation: Evaluation) -> str:
    """Return the tables, the notes and the sentences as Markdown."""
    parts = [f"# {escaped(evaluation.settings['label'])}: what each view of the cells is worth"]
    for regime in evaluation.regimes:
        lines = "\n".join(f"- {escaped(line)}" for line in (*regime.legend(), *regime.notes, *regime.says))
        parts += [f"## {regime.name}", f"**{escaped(regime.conclusion)}**", f"{escaped(regime.title)}."]
        parts += [as_table(*regime.table(wide=True)), lines]
    parts.append(
        "Differences are of macro-F1 over all held-out cells "
        "together, with a 95 % paired bootstrap interval where there are enough groups."
    )
    return "\n\n".join(parts) + "\n"


def _draw(evaluation: Evaluation, folder: Path, progress: Reporter) -> None:
    from matplotlib.figure import Figure

    from scstore.reporting import plots
    from scstore.reporting.dot_plots import evaluation as draw_scores
    from scstore.reporting.plot_files import save

    def write(figure: Figure, name: str) -> None:
        save(figure, *(folder / f"{name}.{suffix}" for suffix in SUFFIXES))

    regime, cells = evaluation.regimes[0], evaluation.cells
    figure, rows = Figure(), {row.name: row for row in regime.scored.rows}
    draw_scores(evaluation, ax=figure)
    write(figure, "metrics")
    names, counts = np.array(cells.classes, dtype=object), {}
    for name in _rows_to_confuse(evaluation):
        found = regime.scored.predictions.query("row == @name")
        f1 = regime.mean_and_sd(name, "macro_f1")[0]
        counts[f"{row_words(rows[name])} (F1 {f1:.3f})"] = plots.confusion_counts(
            names[found["code"]], names[found["predicted"]]
        )
    plots.draw_confusions(figure := Figure(), counts)
    write(figure, "confusion")
    which, views = _cells_to_lay_out(evaluation), _views_to_lay_out(evaluation)
    layouts = {}
    with progress.track("laying out", len(views), "views") as track:
        for view in views:
            features = materialise(RowSubset(evaluation.features.view(ViewSource(view, "")), which))
            layouts[view_words(view)] = plots.embed(features, seed=int(evaluation.settings["seed"]))
            track.advance()
    if layouts:
        plots.draw_layouts(figure := Figure(), layouts, labels_of(names[cells.codes[which]]))
        write(figure, "umap")


def _rows_to_confuse(evaluation: Evaluation) -> list[str]:
    """Return the baseline, the gene texts, and the default or the best row with the model, as far as there."""
    scored = evaluation.regimes[0].scored
    names = [row.name for row in scored.rows]
    texts = "genept" if "genept" in names else main_row(scored, "gene texts")
    wanted = [baseline_row(scored.rows), texts, main_row(scored, "model"), main_row(scored, "embedding")]
    return [name for name in dict.fromkeys(wanted) if name] or names[:1]


def _views_to_lay_out(evaluation: Evaluation) -> list[str]:
    """Return the views that are rows by themselves and were asked for: those named, else the store's default."""
    store, rows = evaluation.cells.stores[0], evaluation.regimes[0].scored.rows
    alone = [row.views[0] for row in rows if len(row.views) == 1 and not row.control and row.views[0] != "X"]
    if evaluation.settings["views"] is None:
        alone = [view for view in alone if store.record is not None and view == store.default_view]
    return [view for view in alone if not PICTURES.search(view)]


def _cells_to_lay_out(evaluation: Evaluation) -> Array:
    """Return the scored cells, or a part of each class where they are very many."""
    scored: Array = np.unique(evaluation.regimes[0].scored.predictions["cell"])
    if len(scored) <= UMAP_CELLS:
        return scored
    rng = np.random.default_rng(int(evaluation.settings["seed"]))
    return scored[stratified_sample(evaluation.cells.codes[scored], size=UMAP_CELLS, rng=rng)]
