"""Pictures of results: metrics, confusion matrices and UMAPs, as files.

Every figure takes one path or several (``.png``, ``.svg``) and comes out the same every time.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.errors import MissingExtraError
from scstore.report.style import OKABE_ITO, class_mark, font_size, save_figure

try:
    from matplotlib import colormaps
    from matplotlib.figure import Figure
except ImportError as error:
    needs = "Drawing pictures"
    raise MissingExtraError(needs, "plot") from error

__all__ = ["confusion_matrices_figure", "confusion_matrix_figure", "embed", "metrics_figure", "umap_figure"]

Path = str | os.PathLike[str]

MANY_CLASSES = 20
"""Beyond so many classes a confusion matrix has no numbers in its fields."""

NUMBERED_FROM = 9
"""From so many classes on, a UMAP has their numbers on it: there are eight colours."""

LEGEND_ROWS = 22


def metrics_figure(
    methods: Mapping[str, Mapping[str, tuple[float, float | None]]],
    *paths: Path,
    kinds: Mapping[str, str],
    title: str = "",
) -> None:
    """Draw bars of several metrics, one panel a metric and one bar a method.

    Parameters
    ----------
    methods
        For each method, top first: mean and standard deviation by metric, 0 to 1. All have the same metrics.
    *paths
        ``.png`` or ``.svg``.
    kinds
        The kind of each method: bars of a kind have its colour and hatching, and the legend names it.
    title
        Above the panels.
    """
    metrics = list(next(iter(methods.values())))
    kind_names = list(dict.fromkeys(kinds[name] for name in methods))
    places = np.arange(len(methods))[::-1]
    figure = Figure(figsize=(3.4 + 2.3 * len(metrics), 1.9 + 0.3 * len(methods)), layout="constrained")
    every = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(every, metrics, strict=True):
        for number, kind in enumerate(kind_names):
            here = [i for i, name in enumerate(methods) if kinds[name] == kind]
            values = [list(methods.values())[i][metric] for i in here]
            axes.barh(
                places[here],
                [mean for mean, _ in values],
                xerr=[sd or 0.0 for _, sd in values],
                height=0.72,
                color=OKABE_ITO[number],
                hatch=("", "//", "..", "xx")[number % 4],
                edgecolor="white",
                error_kw={"elinewidth": 1, "ecolor": "black"},
                label=kind,
            )
        for place, figures in zip(places, methods.values(), strict=True):
            mean, sd = figures[metric]
            axes.text(
                min(1.0, mean + (sd or 0.0)) + 0.02, place, f"{mean:.2f}".removeprefix("0"), va="center", fontsize=7
            )
        axes.set(title=metric, xlim=(0, 1.14), xticks=[0, 0.5, 1])
        axes.spines[["top", "right"]].set_visible(False)
    every[0].set_yticks(places, list(methods), fontsize=font_size(len(methods)), parse_math=False)
    if title:
        figure.suptitle(title, fontsize=9, parse_math=False)
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(kind_names), fontsize=8)
    save_figure(figure, *paths)


def confusion_matrix_figure(
    truth: Sequence[str], predicted: Sequence[str], *paths: Path, title: str = ""
) -> NDArray[np.float64]:
    """Draw a row-normalised confusion matrix.

    Parameters
    ----------
    truth, predicted
        ``(n_cells,)`` labels.
    *paths
        ``.png`` or ``.svg``.
    title
        Above it.

    Returns
    -------
    ``(n_classes, n_classes) float64``
        Share of each true class (row) that got each label (column), classes sorted.
    """
    return confusion_matrices_figure({title: (truth, predicted)}, *paths)[title]


def confusion_matrices_figure(
    results: Mapping[str, tuple[Sequence[str], Sequence[str]]], *paths: Path
) -> dict[str, NDArray[np.float64]]:
    """Draw row-normalised confusion matrices of the same classes in one row.

    Parameters
    ----------
    results
        ``(n_cells,)`` true labels and predicted labels, by title.
    *paths
        ``.png`` or ``.svg``.

    Returns
    -------
    dict
        By title ``(n_classes, n_classes) float64``: share of each true class (row) that got each label (column),
        classes sorted.
    """
    from sklearn.metrics import confusion_matrix

    classes = sorted({str(label) for pair in results.values() for side in pair for label in side})
    points, many = font_size(len(classes)), len(classes) > MANY_CLASSES
    side = max(2.4, (0.14 if many else 0.38) * len(classes))
    names = 0.009 * points * max(map(len, classes))  # inches that the longest name takes
    figure = Figure(figsize=(1.8 + names + (side + 0.3) * len(results), side + names + 1.1), layout="constrained")
    every = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    drawn: dict[str, NDArray[np.float64]] = {}
    for axes, (title, (truth, predicted)) in zip(every, results.items(), strict=True):
        shares = confusion_matrix(list(truth), list(predicted), labels=classes).astype(np.float64)
        shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1)
        drawn[title] = shares
        image = axes.imshow(shares, cmap=colormaps["cividis"], vmin=0, vmax=1)
        axes.set_xticks(range(len(classes)), classes, rotation=90 if many else 45, fontsize=points)
        for label in axes.get_xticklabels():
            label.set(ha="center" if many else "right", parse_math=False)
        axes.set_xlabel("predicted")
        axes.set_title(title, fontsize=10, parse_math=False)
        if not many:
            for row, column in np.argwhere(shares >= 0.005):
                text = f"{shares[row, column]:.2f}".removeprefix("0")
                colour = "white" if shares[row, column] < 0.5 else "black"
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    every[0].set_yticks(range(len(classes)), classes, fontsize=points, parse_math=False)
    every[0].set_ylabel("true")
    figure.colorbar(image, ax=list(every), shrink=0.7, label="share of the true class")
    save_figure(figure, *paths)
    return drawn


def embed(features: NDArray[Any], *, seed: int = 0) -> NDArray[np.float32]:
    """UMAP of features, cosine distance, seeded.

    Parameters
    ----------
    features
        ``(n_cells, width)``.
    seed
        The same seed gives the same picture.

    Returns
    -------
    ``(n_cells, 2) float32``
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numba and umap warn of each other's versions
            import umap
    except ImportError as error:
        needs = "A UMAP"
        raise MissingExtraError(needs, "plot") from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value")  # one thread is what a seed means
        neighbours = min(15, max(2, len(features) - 1))
        layout = umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed).fit_transform(
            np.asarray(features, dtype=np.float32)
        )
    return np.asarray(layout, dtype=np.float32)


def umap_figure(layouts: Mapping[str, NDArray[np.float32]], labels: Sequence[str], *paths: Path) -> None:
    """Draw UMAPs of the same cells side by side, coloured alike.

    Classes differ in colour and, beyond eight, in marker; then each also has its number in the middle of its cells and
    in the legend.

    Parameters
    ----------
    layouts
        ``(n_cells, 2)`` by title.
    labels
        ``(n_cells,)``.
    *paths
        ``.png`` or ``.svg``.
    """
    classes = sorted(set(labels))
    values = np.asarray(labels)
    numbered = len(classes) >= NUMBERED_FROM
    columns = -(-len(classes) // LEGEND_ROWS)
    longest = max(map(len, classes))
    width = 4.2 * len(layouts) + columns * (0.7 + 0.075 * longest)
    figure = Figure(figsize=(width, 4.6), layout="constrained")
    every = figure.subplots(1, len(layouts), squeeze=False)[0]
    area = float(np.clip(12_000 / max(1, len(values)), 2, 12))
    for axes, (title, points) in zip(every, layouts.items(), strict=True):
        for i, name in enumerate(classes):
            here = points[values == name]
            colour, marker = class_mark(i)
            told = f"{i + 1} {name}" if numbered else name
            axes.scatter(here[:, 0], here[:, 1], s=area, c=colour, marker=marker, linewidths=0, label=told)
        for i, name in enumerate(classes if numbered else ()):
            here = points[values == name]
            middle = here[np.linalg.norm(here - np.median(here, axis=0), axis=1).argmin()]
            box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.7, "linewidth": 0}
            axes.text(*middle, str(i + 1), fontsize=7, ha="center", va="center", bbox=box)
        axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        axes.set_title(title, fontsize=10, parse_math=False)
    legend = figure.legend(
        *every[0].get_legend_handles_labels(),
        loc="outside right center",
        fontsize=font_size(len(classes)),
        markerscale=float(np.sqrt(30 / area)),
        ncols=columns,
        handletextpad=0.3,
        columnspacing=0.8,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    save_figure(figure, *paths)
