"""Dot plots of evaluations and of a head's genes: part of ``scstore.pl``."""

import os
import textwrap
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from scstore.annotation.annotated_cells import PALETTE
from scstore.errors import OptionError, printable
from scstore.evaluation.result import HEADINGS, Evaluation, mean_and_sd
from scstore.heads.artifact import AnyHead, load_head
from scstore.options import Option, public
from scstore.reporting import marks
from scstore.reporting.marks import LABEL, DotRow, read_labels, read_scores, shown
from scstore.reporting.plots import BESIDE, Axes, Line2D, ListedColormap, Where, place, styled
from scstore.store.reader import Cells, open_store

METRICS = ("macro_f1", "accuracy", "macro_precision", "macro_recall")
SIGNS = ListedColormap([PALETTE[1], PALETTE[0]])


@public
@styled
def evaluation(
    result: Annotated[
        Evaluation | str | os.PathLike[str], Option("From evaluate, or the folder that it was saved to.", argument=True)
    ],
    *,
    metrics: Annotated[
        Sequence[str], Option(f"A panel for each of these: {', '.join(HEADINGS)}.", flags=("--metric",))
    ] = METRICS,
    ax: Where = None,
) -> Sequence[Axes]:
    """Draw what the rows of an evaluation's table are worth, and its conclusion.

    Returns
    -------
    list of Axes
        For each metric mean and standard deviation of the rows, a small dot for each fold, and a line at the baseline.
    """
    if unknown := [metric for metric in metrics if metric not in HEADINGS]:
        raise OptionError(f"metrics={unknown[0]!r}: not one of {', '.join(HEADINGS)}.")
    found = read_scores(result, metrics)
    headings = [HEADINGS[metric] for metric in metrics]
    return draw_rows(ax, found.rows, headings, title=found.conclusion, baseline=found.baseline)


@styled
def draw_rows(
    ax: Any, rows: Sequence[DotRow], headings: Sequence[str], *, title: str = "", baseline: int | None = None
) -> list[Axes]:
    """Draw the rows' means and standard deviations, a panel for each metric, and a line at the mean of one row."""
    panels = place(ax, (1.9, 0.25 * len(rows)), len(headings), gap=0.25)
    for axes, metric, heading in zip(panels, rows[0].folds, headings, strict=True):
        for at, row in enumerate(rows):
            folds, mark = row.folds[metric], row.mark
            mean, sd = mean_and_sd(folds)
            if mean is None:
                continue
            axes.scatter(folds, [at] * len(folds), s=8, color=mark.colour, alpha=0.35, linewidths=0)
            axes.errorbar(mean, at, xerr=sd, color=mark.colour, marker=mark.marker, markersize=6, elinewidth=1.2)
            if at == baseline:
                axes.axvline(mean, color="0.6", linestyle=":", linewidth=1, zorder=0)
        axes.set_yticks(range(len(rows)), [textwrap.fill(printable(row.words) + " *" * row.seen, 44) for row in rows])
        axes.tick_params(axis="y", labelleft=axes is panels[0])
        axes.set(xlabel=heading, ylim=(len(rows) - 0.5, -0.5))
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    kinds = dict.fromkeys(row.mark for row in rows)
    handles = [Line2D([], [], color=mark.colour, marker=mark.marker, linestyle="") for mark in kinds]
    panels[-1].legend(handles, [mark.words for mark in kinds], **BESIDE)
    panels[0].set_title(textwrap.fill(printable(title), 45 * len(headings)), loc="left")
    return panels


@public
@styled
def markers(
    head: Annotated[AnyHead | str | os.PathLike[str], Option("A linear head that reads expression.", argument=True)],
    cells: Annotated[Cells | None, Option("Labelled cells, whose expression is drawn.")] = None,
    *,
    n_genes: Annotated[int, Option("Genes of each label.", minimum=1)] = 3,
    ax: Where = None,
) -> Axes:
    """Draw the genes that speak most for each label of a head.

    Without cells, the size of a dot is the gene's weight for or against the label, for a standard deviation of its
    expression. With cells it is the share of the label's cells that express the gene, and the shade is the mean of
    their log-normalised expression over the highest mean of the gene.

    Returns
    -------
    Axes
        Rows are labels, columns genes, those of the first label first.
    """
    trained: Any = load_head(head) if isinstance(head, str | os.PathLike) else head
    if cells is None:
        weights = marks.gene_weights(trained)
        weights = weights[marks.strongest_genes(weights, n_genes)]
        sizes, names = weights.abs() / weights.abs().max(axis=None), [shown(name) for name in weights.index]
        shades = np.sign(weights)
        how: Any = {"cmap": SIGNS, "vmin": -1, "vmax": 1}
        legend: list[Any] = [(60, PALETTE[0], "for the label"), (60, PALETTE[1], "against it")]
    else:
        labels = read_labels(store := open_store(cells), LABEL, option="cells")
        sizes, shades = marks.marker_expression(store, trained, labels, n_genes)
        names, how = labels.numbered, {"cmap": "Blues", "vmin": -0.15, "vmax": 1}
        legend = [(60 * share, "0.7", f"{share:.0%} of the cells") for share in (0.25, 0.5, 1)]
    genes = list(sizes.columns)
    columns, rows = np.meshgrid(range(len(genes)), range(len(names)))
    height = 0.18 * len(names)
    axes = place(ax, (0.15 * len(genes), height))[0]
    dots = axes.scatter(columns, rows, s=60 * sizes, c=shades.to_numpy(), edgecolors="0.4", linewidths=0.3, **how)
    if cells is not None:
        below = axes.inset_axes((1.05, 1 - 1.2 / height, 0.02, 0.5 / height))
        bar = axes.figure.colorbar(dots, cax=below, label="mean, of\nthe highest")
        bar.ax.set_ylim(0, 1)
    for size, colour, words in legend:
        axes.scatter([], [], s=size, color=colour, edgecolors="0.4", linewidths=0.3, label=words)
    axes.legend(**BESIDE)
    axes.set_xticks(range(len(genes)), [shown(gene) for gene in genes], rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(-0.7, len(genes) - 0.3), ylim=(len(names) - 0.4, -0.6))
    return axes
