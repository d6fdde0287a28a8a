"""Pictures of results: confusion matrices and UMAPs, as files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.errors import MissingExtraError

try:
    from matplotlib import colormaps
    from matplotlib.figure import Figure
except ImportError as error:
    needs = "Drawing pictures"
    raise MissingExtraError(needs, "plot") from error

__all__ = ["confusion_matrix_figure", "embed", "umap_figure"]

OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
"""Colours that colour-blind readers tell apart (Okabe and Ito 2008)."""

MARKERS = "o^sDvP*X"
"""A marker a round of colours: more than eight classes differ in shape."""


def confusion_matrix_figure(
    truth: Sequence[str], predicted: Sequence[str], path: str | os.PathLike[str], *, title: str = ""
) -> NDArray[np.float64]:
    """Draw a row-normalised confusion matrix.

    Parameters
    ----------
    truth, predicted
        ``(n_cells,)`` labels.
    path
        ``.png`` or ``.svg``.
    title
        Above it.

    Returns
    -------
    ``(n_classes, n_classes) float64``
        Share of each true class (row) that got each label (column), classes sorted.
    """
    from sklearn.metrics import confusion_matrix

    classes = sorted({*truth, *predicted})
    shares: NDArray[np.float64] = confusion_matrix(truth, predicted, labels=classes).astype(np.float64)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1)
    size = 3.2 + 0.42 * len(classes)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap=colormaps["cividis"], vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if len(classes) <= 20:
        for row, column in np.argwhere(shares >= 0.005):
            dark = shares[row, column] < 0.5
            text = f"{shares[row, column]:.2f}".removeprefix("0")
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    figure.savefig(path, dpi=150)
    return shares


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


def umap_figure(
    layouts: Mapping[str, NDArray[np.float32]], labels: Sequence[str], path: str | os.PathLike[str]
) -> None:
    """Draw UMAPs of the same cells side by side, coloured alike.

    Parameters
    ----------
    layouts
        ``(n_cells, 2)`` by title.
    labels
        ``(n_cells,)``.
    path
        ``.png`` or ``.svg``.
    """
    classes = sorted(set(labels))
    values = np.asarray(labels)
    figure = Figure(figsize=(4.2 * len(layouts) + 2.6, 4.2), layout="constrained")
    every = figure.subplots(1, len(layouts), squeeze=False)[0]
    for axes, (title, points) in zip(every, layouts.items(), strict=True):
        for i, name in enumerate(classes):
            here = points[values == name]
            colour, marker = OKABE_ITO[i % len(OKABE_ITO)], MARKERS[i // len(OKABE_ITO) % len(MARKERS)]
            axes.scatter(here[:, 0], here[:, 1], s=10, c=colour, marker=marker, linewidths=0, label=name)
        axes.set(title=title, xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, markerscale=2)
    figure.savefig(path, dpi=150)
