"""Figures as files: PNG, PDF and SVG."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scstore import fsio
from scstore.errors import OutputError, printable
from scstore.reporting.matplotlib_parts import Figure, Text, rc_context
from scstore.reporting.plots import AS_TEXT

CREATOR = "scstore.pl"  # in every figure's metadata
METADATA: Mapping[str, dict[str, Any]] = {
    ".png": {"Software": CREATOR},
    ".pdf": {"Creator": CREATOR, "CreationDate": None},
    ".svg": {"Creator": CREATOR, "Date": None},
}


def check_figure(output: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Refuse a figure of unknown ending, or one that may not be replaced, before it is drawn."""
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
