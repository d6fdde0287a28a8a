"""What ``evaluate`` prints and writes, and what ``demo`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from scstore.cli.builder import state
from scstore.demo import DemoResult
from scstore.evaluation.result import Evaluation
from scstore.options import Option, Overwrite
from scstore.report.evaluation_files import check_evaluation_output, save_evaluation


def adapt(
    given: dict[str, Any],
    *,
    output: Annotated[
        Path | None, Option("Folder for numbers, predictions, figures.", flags=("--output", "-o"))
    ] = None,
    figures: Annotated[bool, Option("Draw the figures (with -o; needs scstore[plot]).")] = True,
    overwrite: Overwrite = False,
) -> dict[str, Any]:
    """Refuse an output that cannot be written before anything is computed."""
    if output is not None:
        check_evaluation_output(output, figures=figures, overwrite=overwrite)
    return given


def show(found: Evaluation, given: Mapping[str, Any]) -> None:
    """Print every table, the main one last, and write the files."""
    if (output := given["output"]) is not None:
        save_evaluation(found, output, figures=given["figures"], overwrite=given["overwrite"])
        state.reporter.note(f"written to {output}")
    if found.left_out_classes is not None:
        state.output.table(found.left_out_classes.title, *found.left_out_classes.table())
    for regime in found.regimes[1:]:
        state.output.table(regime.title, *regime.table())
        state.output.lines(*regime.notes, *regime.says)
    first = found.regimes[0]
    state.output.table(first.title, *first.table())
    state.output.result(found.as_json(), *first.notes, *first.says)


def show_demo(result: DemoResult, _given: Mapping[str, Any]) -> None:
    """Print the table and what to try next."""
    state.output.table(*result.table())
    state.output.result(result.as_json(), *result.lines())
