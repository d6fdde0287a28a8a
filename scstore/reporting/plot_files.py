"""Figures as files, and the command that makes them: ``scstore plot``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from scstore import fsio
from scstore.errors import OptionError, OutputError, printable
from scstore.options import Option, Overwrite, public
from scstore.reporting import plots
from scstore.reporting.dot_plots import draw_evaluation, markers
from scstore.reporting.matplotlib_parts import Figure, Text, rc_context

CREATOR = "scstore.pl"  # in every figure's metadata
METADATA: Mapping[str, dict[str, Any]] = {
    ".png": {"Software": CREATOR},
    ".pdf": {"Creator": CREATOR, "CreationDate": None},
    ".svg": {"Creator": CREATOR, "Date": None},
}
METRICS = ("macro_f1", "accuracy", "macro_precision", "macro_recall")

Kind = Literal["umap", "confusion", "composition", "confidence", "evaluation", "markers"]
# Options of each kind beside the input.
OPTIONS = {
    "umap": ("color",), "confusion": ("truth",), "composition": ("by",), "confidence": (), "evaluation": (),
    "markers": ("head",),
}  # fmt: skip


@public
def plot(
    kind: Annotated[Kind, Option("umap, confusion, composition, confidence, evaluation or markers.", argument=True)],
    source: Annotated[
        str | os.PathLike[str], Option("Labelled cells; for evaluation its folder, for markers a head.", argument=True)
    ],
    output: Annotated[str | os.PathLike[str], Option("A .png, .pdf or .svg file.", flags=("--output", "-o"))],
    *,
    color: Annotated[str | None, Option("umap: column of obs, by default scstore_label.")] = None,
    by: Annotated[str | None, Option("composition: column of obs with the samples.")] = None,
    truth: Annotated[str | None, Option("confusion: column of obs with the true labels.")] = None,
    head: Annotated[str | os.PathLike[str] | None, Option("markers of labelled cells: the head.")] = None,
    overwrite: Overwrite = False,
) -> Path:
    """Draw a figure of labelled cells, of an evaluation or of a head, at 300 dpi.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OptionError
        If an option is missing, or belongs to another kind.
    OutputError
        If the file exists, or its ending is unknown.
    """
    given = {"color": color, "by": by, "truth": truth, "head": head}
    for name, value in given.items():
        if value is not None and name not in OPTIONS[kind]:
            raise OptionError(f"{name}={value}: no option of kind={kind}.")
        if value is None and name in ("by", "truth") and name in OPTIONS[kind]:
            raise OptionError(f"kind={kind}: name a column with {name}=.")
    if Path(output).suffix not in METADATA:
        raise OutputError(f"{os.fspath(output)}: figures are {', '.join(METADATA)} files.")
    target = fsio.check_output(output, overwrite=overwrite, problem=_problem)
    figure, options = Figure(), {name: value for name, value in given.items() if value is not None}
    if kind == "evaluation":
        draw_evaluation(source, METRICS, figure)
    elif kind == "markers":
        markers(head or source, source if head else None, ax=figure)
    else:
        getattr(plots, kind)(source, ax=figure, **options)
    with fsio.atomic_path(target, overwrite=overwrite) as partial:
        save(figure, partial, suffix=target.suffix)
    return target


def _problem(path: Path) -> str | None:
    is_one = path.is_file() and CREATOR.encode() in path.read_bytes()
    return None if is_one else "is not a figure of scstore's"


def save(figure: Figure, *paths: str | os.PathLike[str], suffix: str = "") -> None:
    """Write a figure, its texts as texts; the same figure gives the same bytes. ``suffix`` is the path's by default."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # labels are data: a dollar sign in them is no formula
        text.set_text(printable(text.get_text()))
    for path in paths:
        kind = suffix or Path(path).suffix
        how: Any = {"svg.fonttype": "none", "svg.hashsalt": "scstore", "pdf.fonttype": 42, **plots.AS_TEXT}
        with rc_context(how):
            figure.savefig(path, format=kind[1:], dpi=300, bbox_inches="tight", metadata=METADATA[kind])
