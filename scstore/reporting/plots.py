"""Figures of labelled cells and heads, drawn on the axes ``ax`` or on a new figure of pyplot's: ``scstore.pl``."""

import functools
import os
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.annotation.annotated_cells import PALETTE, PREFIX
from scstore.annotation.record import CONFIDENCE_EDGES, NOVELTY_EDGES, counted
from scstore.errors import InputError, MissingExtraError, OptionError, OutputError, printable
from scstore.options import Option, public
from scstore.reporting import marks
from scstore.reporting.marks import LABEL, NO_LABELS, STATUSES, Labels, labels_of, read_column, read_labels, shown
from scstore.store.reader import Cells, open_store

try:
    from matplotlib import colormaps, rc_context
    from matplotlib.axes import Axes as Axes
    from matplotlib.colors import ListedColormap as ListedColormap
    from matplotlib.figure import Figure as Figure
    from matplotlib.lines import Line2D as Line2D
    from matplotlib.text import Annotation, Text
except ImportError as error:
    raise MissingExtraError("Drawing figures", "plot") from error

P = ParamSpec("P")
R = TypeVar("R")
UMAP = "X_umap"
MARKERS = "os^DvP*X"  # of labels that are too many for colours alone
MANY = 20  # labels above which a confusion matrix has no numbers in its fields
LEGEND_ROWS = 24
VECTOR_DOTS = 5_000  # cells above which the dots of a vector file are a picture in it
SPREADING = 1_000  # times that names are moved apart, at most
NUMBERS = ListedColormap(colormaps["viridis"](np.linspace(0, 0.85, 256)))  # but its yellow
SIDE = 3.6  # inches of a UMAP
MARGINS = 0.77  # share of a figure that matplotlib leaves to its axes
# Texts are data, no formulas; also those that matplotlib makes while it draws.
AS_TEXT: Any = {"text.parse_math": False, "text.usetex": False, "axes.formatter.use_mathtext": False}
STYLE: Any = AS_TEXT | {
    "font.size": 8, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "legend.fontsize": 7,
}  # fmt: skip
BESIDE: Any = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "handletextpad": 0.2, "columnspacing": 0.8}
ToDraw = Annotated[Cells, Option("Labelled cells: an AnnData, .h5ad, Zarr or store.", argument=True)]
Where = Annotated[
    Any, Option("Axes to draw on, or an empty Figure, which gets a fitting size; else a new one.", in_python_only=True)
]
LabelColumn = Annotated[str, Option("Column of obs with the labels.")]


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw in the house's style, whatever the user's own settings are."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


@public
@styled
def umap(
    cells: ToDraw, color: Annotated[str, Option("Column of obs: labels or numbers.")] = LABEL, *, ax: Where = None
) -> Axes:
    """Draw the cells' own ``X_umap``, coloured by a column of ``obs``.

    Returns
    -------
    Axes
        Names amid the cells and, with numbers of cells, in a legend; for a column of numbers a colour bar.
    """
    store = open_store(cells)
    if UMAP not in store.views:
        raise InputError(f"{store.path} has no {UMAP}. scstore.annotate makes one for cells that have none.")
    points, values = np.asarray(store.view(UMAP)[:])[:, :2], read_column(store, color, option="color")
    if values.dtype.kind == "b" or not pd.api.types.is_numeric_dtype(values.dtype):
        is_ours = color.startswith(PREFIX) and "label" in color
        title = f"{shown(color)}{' (predicted)' if is_ours else ''}"
        return draw_layouts(ax, {title: points}, read_labels(store, color, option="color"))[0]
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    points, numbers = points[np.isfinite(numbers)], numbers[np.isfinite(numbers)]
    if not len(numbers):
        raise InputError(f"{store.path}: no cell has a {color}.")
    order = np.argsort(np.abs(numbers - np.median(numbers)), kind="stable")  # what is rare lies on top
    axes, (x, y) = place(ax, (SIDE, SIDE))[0], points[order].T
    dots = axes.scatter(x, y, c=numbers[order], cmap=NUMBERS, **_dots(len(points)))
    axes.figure.colorbar(dots, ax=axes, shrink=0.6).outline.set_visible(False)
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2", title=shown(color))
    return axes


@styled
def draw_layouts(ax: Any, layouts: Mapping[str, NDArray[Any]], labels: Labels) -> list[Axes]:
    """Draw layouts ``(n, 2)`` of the same cells by title, side by side: the rarest labels on top, each named there."""
    is_none = np.isin(labels.names, NO_LABELS)
    side = SIDE + 0.05 * max(0, len(labels.names) - 12)
    panels = place(ax, (side, side), len(layouts))
    box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.7, "linewidth": 0}
    arrow = {"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0}
    how: Any = {"ha": "center", "va": "center", "fontsize": 7, "bbox": box, "arrowprops": arrow}
    for axes, (title, points) in zip(panels, layouts.items(), strict=True):
        is_placed = np.isfinite(points).all(axis=1)
        height = np.ptp(points[is_placed, 1]) if is_placed.any() else 0
        for code in np.lexsort((-labels.counts, ~is_none)).tolist():
            here = points[(labels.codes == code) & is_placed]
            axes.scatter(*here.T, color=labels.colours[code], marker=_marker(labels, code), **_dots(len(points)))
            if len(here) and not is_none[code]:
                middle = here[np.linalg.norm(here - np.median(here, axis=0), axis=1).argmin()]
                is_small = np.subtract(*np.quantile(here[:, 1], [0.9, 0.1])) < 0.07 * height
                axes.annotate(
                    shown(labels.names[code]), middle, middle + np.array([0, 0.05 * height * is_small]), **how
                )
        axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        axes.set_title(textwrap.fill(printable(title), 44))
        _spread_names(axes)
    _draw_legend(panels[-1], labels)
    return panels


def _spread_names(axes: Any) -> None:
    """Move names up or down until none lies on another; a line leads from each to its cells."""
    names: Any = [one for one in axes.texts if isinstance(one, Annotation)]
    axes.figure.canvas.figure.draw_without_rendering()  # of the whole figure, also where the axes are in a part of it
    boxes = np.array([one.get_bbox_patch().get_window_extent().extents for one in names]).reshape(-1, 4)
    places, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2] + 3
    order, reach = np.argsort(np.argsort(places[:, 1], kind="stable")), (sizes[:, None] + sizes[None]) / 2
    above = np.sign(order[:, None] - order[None])  # who is above another stays there
    low, high = axes.bbox.y0 + sizes[:, 1] / 2, axes.bbox.y1 - sizes[:, 1] / 2
    for _ in range(SPREADING):
        places[:, 1] = np.clip(places[:, 1], low, np.maximum(low, high))
        apart = places[:, None] - places[None]
        lacking = np.abs(above) * np.minimum(reach[..., 1] - above * apart[..., 1], reach[..., 1])
        hit = (np.abs(apart[..., 0]) < reach[..., 0]) & (lacking > 0)
        if not hit.any():
            break
        places[:, 1] += (hit * above * lacking).sum(axis=1) / 4
    for one, there in zip(names, axes.transData.inverted().transform(places), strict=True):
        one.set_position(there)


@public
@styled
def confusion(
    cells: ToDraw,
    truth: Annotated[str, Option("Column of obs with the true labels.")],
    *,
    label: LabelColumn = LABEL,
    ax: Where = None,
) -> Axes:
    """Draw which labels the cells of each true label got.

    Returns
    -------
    Axes
        Shares of each true label, with its number of cells; where both columns share names, on the diagonal.
    """
    store = open_store(cells)
    counts = confusion_counts(read_column(store, truth, option="truth"), read_column(store, label, option="label"))
    return draw_confusions(ax, {"": counts}, f"true: {truth}", f"got: {label}")[0]


def confusion_counts(truth: Any, got: Any) -> pd.DataFrame:
    rows, columns = labels_of(truth), labels_of(got)
    names = columns.names if set(rows.names).isdisjoint(columns.names) else dict.fromkeys([*rows.names, *columns.names])
    counts = pd.DataFrame(marks.cross_counts(rows, columns), rows.names, columns.names)
    return counts.reindex(columns=names, fill_value=0)


@styled
def draw_confusions(
    ax: Any, counts: Mapping[str, pd.DataFrame], truth: str = "true", label: str = "predicted"
) -> list[Axes]:
    """Draw confusion matrices by title, side by side: shares of the rows, with the rows' numbers of cells."""
    n_rows, n_columns = (max(table.shape[i] for table in counts.values()) for i in (0, 1))
    many = max(n_rows, n_columns) > MANY
    each, longest = 0.14 if many else 0.3, max(len(shown(name)) for table in counts.values() for name in table.index)
    panels = place(ax, (each * n_columns, each * n_rows), len(counts), gap=1.2 + 0.06 * longest)
    turned: Any = {"rotation": 90} if many else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    for axes, (title, table) in zip(panels, counts.items(), strict=True):
        n = table.sum(axis=1)
        shares = table.div(n.clip(lower=1), axis=0).to_numpy()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), share in () if many else np.ndenumerate(shares):
            how: Any = {"ha": "center", "va": "center", "fontsize": 6.5, "color": "white" if share > 0.55 else "black"}
            axes.text(column, row, f"{share:.2f}".removeprefix("0") if share >= 0.005 else "", **how)
        axes.set_xticks(range(n_columns), [shown(name) for name in table.columns], **turned)
        axes.set_yticks(range(len(n)), [f"{shown(name)} ({cells:,})" for name, cells in n.items()])
        axes.tick_params(length=0, labelsize=6 if many else 7)
        axes.spines[:].set_visible(False)
        axes.set(title=textwrap.fill(printable(title), 44), xlabel=shown(label), ylabel=shown(truth))
    axes.figure.colorbar(image, cax=axes.inset_axes((1.02, 0, 0.03, 1)), label="share of the row")
    return panels


@public
@styled
def composition(
    cells: ToDraw,
    by: Annotated[str, Option("Column of obs with the samples.")],
    *,
    label: LabelColumn = LABEL,
    ax: Where = None,
) -> Axes:
    """Draw the shares of the labels in each sample.

    Returns
    -------
    Axes
        A stacked bar for each sample, with its number of cells.
    """
    store = open_store(cells)
    labels, samples = read_labels(store, label, option="label"), read_labels(store, by, option="by")
    counts = marks.cross_counts(samples, labels)
    shares, rows = counts / counts.sum(axis=1, keepdims=True), range(len(counts))
    axes = place(ax, (4.0, max(0.5, 0.24 * len(counts))))[0]
    for code, colour in enumerate(labels.colours):
        left = shares[:, :code].sum(axis=1)
        axes.barh(rows, shares[:, code], left=left, color=colour, edgecolor="white", linewidth=0.4)
    axes.set_yticks(rows, samples.numbered)
    axes.set(xlim=(0, 1), xlabel="share of the cells", ylabel=shown(by))
    axes.invert_yaxis()
    _draw_legend(axes, labels, "s")
    return axes


@public
@styled
def confidence(cells: ToDraw, *, ax: Where = None) -> Sequence[Axes]:
    """Draw how sure the labels are, beside cells of the training that the head had not seen.

    Returns
    -------
    list of Axes
        Shares of the cells of each status by confidence and by novelty, with the thresholds; and how many of the
        held-out cells were right at each confidence.
    """
    store = open_store(cells)
    status, held_out = read_labels(store, f"{PREFIX}status", option="cells"), store.annotation.get("held_out", {})
    panels, limits = place(ax, (2.4, 2.1), 3), ((CONFIDENCE_EDGES, "least_confidence"), (NOVELTY_EDGES, "most_novelty"))
    with marks.as_annotate_writes(store):
        for axes, name, (edges, limit) in zip(panels, ("confidence", "novelty"), limits, strict=False):
            values = read_column(store, f"{PREFIX}{name}", option="cells").to_numpy(dtype=np.float64)
            for code, (one, words) in enumerate(zip(status.names, status.numbered, strict=True)):
                mine = values[(status.codes == code) & np.isfinite(values)]
                how: Any = {"color": STATUSES.get(one, PALETTE[7]), "alpha": 0.8, "label": words}
                axes.stairs(100 * np.array(counted(mine, edges)) / len(values), edges, fill=True, **how)
            if (counts := np.array(held_out.get(name, []))).any():
                words = f"held-out, right ({counts.sum():,})"
                axes.stairs(100 * counts / counts.sum(), edges, color="black", label=words)
            at = store.annotation.get(limit)
            if isinstance(at, float) and 0 < at < edges[-1]:
                axes.axvline(at, color="black", linestyle=":", linewidth=1, label=f"threshold {at:.2f}")
            axes.set(xlabel=name, ylabel="% of the cells", xlim=(0, edges[-1]))
            if np.isfinite(values).any():
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")
        bins = held_out.get("reliability", {"n": [], "confidence": [], "accuracy": []})
        panels[2].plot([0, 1], [0, 1], color="0.7", linewidth=1)
        panels[2].plot(bins["confidence"], bins["accuracy"], color=PALETTE[0], marker="o", markersize=4)
        panels[2].set(xlabel="confidence", ylabel="share right", title=f"held-out cells ({sum(bins['n']):,})")
    panels[0].legend(loc="upper left")
    return panels


def place(ax: Any, size: tuple[float, float], n: int = 1, *, gap: float = 0.6) -> list[Axes]:
    """Return the axes that were given, or ``n`` of this size in inches, on a new figure or the empty one given."""
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.figure()
    if isinstance(ax, Figure):
        ax.set_size_inches((n * size[0] + gap * (n - 1)) / MARGINS, size[1] / MARGINS)
        return list(ax.subplots(1, n, squeeze=False, gridspec_kw={"wspace": gap / size[0]})[0])
    found = list(np.ravel(ax))
    if len(found) != n:
        raise OptionError(f"ax={len(found)} axes: this figure has {n}.")
    return found


def _dots(n: int) -> Any:
    return {"s": float(np.clip(16_000 / n, 1.5, 16)), "linewidths": 0, "rasterized": n > VECTOR_DOTS}


def _marker(labels: Labels, code: int) -> str:
    return MARKERS[code % len(MARKERS)] if len(set(labels.names) - set(NO_LABELS)) > len(PALETTE) else "o"


def _draw_legend(axes: Any, labels: Labels, marker: str = "") -> None:
    shapes = [(colour, marker or _marker(labels, code)) for code, colour in enumerate(labels.colours)]
    handles = [Line2D([], [], color=colour, marker=one, linestyle="", markersize=5) for colour, one in shapes]
    texts = [f" {name}" if name.startswith("_") else name for name in labels.numbered]  # else they are left out
    axes.legend(handles, texts, ncols=-(-len(texts) // LEGEND_ROWS), **BESIDE)


def embed(features: NDArray[Any], *, seed: int = 0) -> NDArray[np.float32]:
    """Return a seeded UMAP of features ``(n_cells, width)`` by cosine distance, ``(n_cells, 2)``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba and umap warn about each other's versions
        try:
            import umap as umap_learn
        except ImportError as error:
            raise MissingExtraError("A UMAP", "plot") from error
        neighbours = min(15, max(2, len(features) - 1))
        layout = umap_learn.UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed, n_jobs=1)
        return np.asarray(layout.fit_transform(np.asarray(features, dtype=np.float32)), dtype=np.float32)


CREATOR = "scstore.pl"  # in every figure's metadata
METADATA: Mapping[str, dict[str, Any]] = {
    ".png": {"Software": CREATOR},
    ".pdf": {"Creator": CREATOR, "CreationDate": None},
    ".svg": {"Creator": CREATOR, "Date": None},
}


def check_figure(output: str | os.PathLike[str], *, overwrite: bool) -> Path:
    if Path(output).suffix not in METADATA:
        raise OutputError(f"{os.fspath(output)}: figures are {', '.join(METADATA)} files.")
    return fsio.check_output(output, overwrite=overwrite, problem=_problem)


def _problem(path: Path) -> str | None:
    is_one = path.is_file() and CREATOR.encode() in path.read_bytes()
    return None if is_one else "is not a figure of scstore's"


def save_figure(figure: Figure, output: str | os.PathLike[str], *, overwrite: bool) -> None:
    target = check_figure(output, overwrite=overwrite)
    with fsio.atomic_path(target, overwrite=overwrite) as partial:
        save(figure, partial, suffix=target.suffix)


def save(figure: Figure, *paths: str | os.PathLike[str], suffix: str = "") -> None:
    """Write a figure, its texts as texts; the same figure gives the same bytes. ``suffix`` is the path's by default."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # labels are data: a dollar sign in them is no formula
        text.set_text(printable(text.get_text()))
    for path in paths:
        kind = suffix or Path(path).suffix
        how: Any = {"svg.fonttype": "none", "svg.hashsalt": "scstore", "pdf.fonttype": 42, **AS_TEXT}
        with rc_context(how):
            figure.savefig(path, format=kind[1:], dpi=300, bbox_inches="tight", metadata=METADATA[kind])
