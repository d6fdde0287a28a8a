"""How pictures look and how they are written: colours, marks, and files that come out the same every time."""

from __future__ import annotations

import os

from scstore.errors import MissingExtraError

try:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
except ImportError as error:
    needs = "Drawing pictures"
    raise MissingExtraError(needs, "plot") from error

__all__ = ["OKABE_ITO", "class_mark", "font_size", "save_figure"]

OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
"""Colours that colour-blind readers tell apart (Okabe and Ito 2008)."""

MARKERS = "o^sDvP*X"
"""A marker a round of colours: more than eight classes differ in shape."""


def class_mark(number: int) -> tuple[str, str]:
    """Colour and marker of the class of this number; 64 differ."""
    return OKABE_ITO[number % len(OKABE_ITO)], MARKERS[number // len(OKABE_ITO) % len(MARKERS)]


def font_size(n_items: int) -> float:
    """Points for the names of so many items along an axis: 9 for a few, 6 for many."""
    return max(6.0, 9.0 - max(0, n_items - 12) * 0.08)


def save_figure(figure: Figure, *paths: str | os.PathLike[str]) -> None:
    """Write a figure as ``.png`` or ``.svg``: text stays text, no date, the same bytes for the same figure.

    Parameters
    ----------
    figure
        What to write.
    *paths
        One or several files.
    """
    for path in paths:
        is_svg = os.fspath(path).endswith(".svg")
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "scstore"}):
            figure.savefig(path, dpi=150, metadata={"Date": None} if is_svg else {})
