"""Figures of results: bars of metrics, confusion matrices and UMAPs.

Each function takes one path or several (``.png``, ``.svg``); the same input gives the same bytes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.annotation.annotated_cells import OKABE_ITO
from scstore.errors import MissingExtraError, printable

try:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.text import Text
except ImportError as error:
    raise MissingExtraError("Drawing figures", "plot") from error


Path = str | os.PathLike[str]

MARKERS = "o^sDvP*X"
HATCHES = ("", "//", "..", "xx")
MANY_CLASSES = 20  # above which a confusion matrix has no numbers in its fields

LEGEND_ROWS = 22

AS_TEXT: Any = {"text.parse_math": False, "text.usetex": False}  # texts that matplotlib makes while it draws


def metrics_figure(
    methods: Mapping[str, Mapping[str, tuple[float | None, float | None]]],
    *paths: Path,
    kinds: Mapping[str, str],
    title: str = "",
) -> None:
    """Draw bars of mean and deviation, 0 to 1: a panel for each metric, a bar a method, a colour a kind."""
    metrics = list(next(iter(methods.values())))
    kind_names = list(dict.fromkeys(kinds[name] for name in methods))
    styles = {kind: (OKABE_ITO[i], HATCHES[i % len(HATCHES)]) for i, kind in enumerate(kind_names)}
    colours, hatches = zip(*(styles[kinds[name]] for name in methods), strict=True)
    figure = Figure(figsize=(3.4 + 2.3 * len(metrics), 1.9 + 0.3 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    places = np.arange(len(methods))[::-1]
    for axes, metric in zip(panels, metrics, strict=True):
        means, spreads = ([figures[metric][i] or 0.0 for figures in methods.values()] for i in (0, 1))
        style: dict[str, Any] = {
            "color": colours,
            "hatch": hatches,
            "edgecolor": "white",
            "error_kw": {"elinewidth": 1},
        }
        bars = axes.barh(places, means, xerr=spreads, height=0.72, **style)
        axes.bar_label(bars, [_two_digits(mean) for mean in means], padding=2, fontsize=7)
        axes.set(title=metric, xlim=(0, 1.14), xticks=[0, 0.5, 1])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(places, list(map(printable, methods)), fontsize=_font_size(len(methods)))
    figure.suptitle(title, fontsize=9)
    handles = [Patch(facecolor=colour, hatch=hatch, edgecolor="white") for colour, hatch in styles.values()]
    figure.legend(handles, kind_names, loc="outside lower center", ncols=len(kind_names), fontsize=8)
    _save(figure, paths)


def confusion_figure(
    results: Mapping[str, tuple[Sequence[str], Sequence[str]]], *paths: Path
) -> dict[str, NDArray[np.float64]]:
    """Draw row-normalised confusion matrices of (true, predicted) labels by title side by side, and return them."""
    from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

    classes = sorted({str(label) for pair in results.values() for side in pair for label in side})
    points, many = _font_size(len(classes)), len(classes) > MANY_CLASSES
    side = max(2.4, (0.14 if many else 0.38) * len(classes))
    names = 0.009 * points * max(map(len, classes))  # inches that the longest name takes
    figure = Figure(figsize=(1.8 + names + (side + 0.3) * len(results), side + names + 1.1), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    shares = {}
    for axes, (title, (truth, predicted)) in zip(panels, results.items(), strict=True):
        counts = confusion_matrix(list(truth), list(predicted), labels=classes).astype(np.float64)
        shares[title] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        display = ConfusionMatrixDisplay(shares[title], display_labels=list(map(printable, classes)))
        scale = {"cmap": "cividis", "colorbar": False, "im_kw": {"vmin": 0, "vmax": 1}}
        display.plot(ax=axes, include_values=not many, text_kw={"fontsize": 7}, **scale)
        for text, share in () if many else zip(display.text_.flat, shares[title].flat, strict=True):
            text.set_text(_two_digits(share) if share >= 0.005 else "")
        axes.tick_params(labelsize=points)
        for label in axes.get_xticklabels():
            label.set(rotation=90 if many else 45, ha="center" if many else "right")
        axes.set(xlabel="predicted", ylabel="true" if axes is panels[0] else "")
        axes.set_title(title, fontsize=10)
    figure.colorbar(display.im_, ax=list(panels), shrink=0.7, label="share of the true class")
    _save(figure, paths)
    return shares


def embed(features: NDArray[Any], *, seed: int = 0) -> NDArray[np.float32]:
    """Return a seeded UMAP of features ``(n_cells, width)`` by cosine distance, ``(n_cells, 2)``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba and umap warn about each other's versions
        try:
            from umap import UMAP
        except ImportError as error:
            raise MissingExtraError("A UMAP", "plot") from error
        neighbours = min(15, max(2, len(features) - 1))
        layout = UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed, n_jobs=1)
        return np.asarray(layout.fit_transform(np.asarray(features, dtype=np.float32)), dtype=np.float32)


def umap_figure(layouts: Mapping[str, NDArray[np.float32]], labels: Sequence[str], *paths: Path) -> None:
    """Draw layouts of the same cells by label; of more than eight, by marker and number as well."""
    classes = sorted(set(labels))
    values = np.asarray(labels)
    numbered = len(classes) > len(OKABE_ITO)
    columns = -(-len(classes) // LEGEND_ROWS)
    width = 4.2 * len(layouts) + columns * (0.7 + 0.075 * max(map(len, classes)))
    figure = Figure(figsize=(width, 4.6), layout="constrained")
    panels = figure.subplots(1, len(layouts), squeeze=False)[0]
    area = float(np.clip(12_000 / max(1, len(values)), 2, 12))
    marks: dict[str, Any] = {}
    for axes, (title, points) in zip(panels, layouts.items(), strict=True):
        for i, name in enumerate(classes):
            here = points[values == name]
            colour, marker = class_mark(i)
            label = f"{i + 1} {name}" if numbered else name
            if label.startswith("_"):  # which matplotlib would leave out
                label = f" {label}"
            marks[label] = axes.scatter(*here.T, s=area, c=colour, marker=marker, linewidths=0)
            if numbered:
                middle = here[np.linalg.norm(here - np.median(here, axis=0), axis=1).argmin()]
                box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.7, "linewidth": 0}
                axes.text(*middle, str(i + 1), fontsize=7, ha="center", va="center", bbox=box, zorder=3)
        axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        axes.set_title(title, fontsize=10)
    scale = {"fontsize": _font_size(len(classes)), "markerscale": float(np.sqrt(30 / area))}
    scale |= {"ncols": columns, "handletextpad": 0.3, "columnspacing": 0.8}
    figure.legend(list(marks.values()), list(marks), loc="outside right center", **scale)
    _save(figure, paths)


def class_mark(number: int) -> tuple[str, str]:
    """Return the colour and marker of a class; 64 differ."""
    return OKABE_ITO[number % len(OKABE_ITO)], MARKERS[number // len(OKABE_ITO) % len(MARKERS)]


def _two_digits(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _font_size(n_items: int) -> float:
    """Return the points of names along an axis: 9 for a few, 6 for many."""
    return max(6.0, 9.0 - max(0, n_items - 12) * 0.08)


def _save(figure: Figure, paths: Iterable[Path]) -> None:
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # labels are data: a dollar sign in them is no formula
        text.set_text(printable(text.get_text()))
    for path in paths:
        is_svg = os.fspath(path).endswith(".svg")
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "scstore", **AS_TEXT}):
            figure.savefig(path, dpi=150, metadata={"Date": None} if is_svg else {})
