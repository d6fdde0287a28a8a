"""The command ``scstore evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scstore.cli.shared import AllowPartial, Label, MissingLabels, Overwrite, PriorAdjustment, StoreArgument, app, state
from scstore.errors import OptionError
from scstore.heads import PRIOR_ADJUSTMENT

__all__: list[str] = []


@app.command(rich_help_panel="On a laptop, without the model")
def evaluate(
    store: StoreArgument,
    label: Label,
    *,
    missing_labels: MissingLabels = None,
    head: Annotated[str, typer.Option(help="linear, mlp or knn.")] = "linear",
    prior_adjustment: PriorAdjustment = PRIOR_ADJUSTMENT,
    view: Annotated[
        list[str] | None,
        typer.Option(help="Row wanted: a view, or views joined with +; repeat. All, and the controls, by default."),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=STORE of the same cells: random gene vectors, a random model; repeat. Twice under one NAME with "
            "--test-store."
        ),
    ] = None,
    folds: Annotated[int, typer.Option(help="Folds.")] = 5,
    repeats: Annotated[int, typer.Option(help="Deal the folds (and genes) so many times.")] = 1,
    group: Annotated[
        str | None, typer.Option(help="Column of obs, such as donor: every fold holds out whole groups.")
    ] = None,
    test_store: Annotated[Path | None, typer.Option(help="Train on STORE, test on this one.")] = None,
    train_on: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE of the cells to train on, such as species=human; repeat.")
    ] = None,
    test_on: Annotated[list[str] | None, typer.Option(help="COLUMN=VALUE of the cells to test on; repeat.")] = None,
    min_cells: Annotated[int, typer.Option(help="Leave out classes with fewer cells.")] = 10,
    few_shot: Annotated[str | None, typer.Option(help="Also train on so many cells a class, such as 2,5,20.")] = None,
    hold_out_genes: Annotated[
        float | None,
        typer.Option(help="Also test on this share of the genes and train on the others, such as 0.5."),
    ] = None,
    leave_one_class_out: Annotated[
        bool,
        typer.Option("--leave-one-class-out", help="Also see whether confidence and novelty tell unknown classes."),
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same numbers.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for numbers, predictions, figures.")
    ] = None,
    figures: Annotated[bool, typer.Option(help="Draw the figures (with -o; needs scstore[plot]).")] = True,
    allow_seen: Annotated[
        bool, typer.Option("--allow-seen", help="Score cells though a panel or projector saw their labels.")
    ] = False,
    allow_partial: AllowPartial = False,
    overwrite: Overwrite = False,
) -> None:
    """Score a store's views by cross-validation, with every control in the same table.

    Rows marked - use neither the model nor gene texts. The last line says what the model added, with a 95 % interval.

    Examples
    --------
        scstore evaluate stores/ref.zarr --label cell_type --group donor -o evaluation

        scstore evaluate stores/ref.zarr --label cell_type --train-on species=human --test-on species=mouse

        scstore evaluate any.h5ad --label leiden --view X_pca --view X_scVI --view X
    """
    from scstore.cells.labels import MISSING_LABELS
    from scstore.evaluation.evaluate import evaluate as run
    from scstore.report.evaluation_files import check_evaluation_output, save_evaluation

    if out is not None:
        check_evaluation_output(out, figures=figures, overwrite=overwrite)
    found = run(
        store,
        label=label,
        missing_labels=missing_labels or MISSING_LABELS,
        head=head,  # type: ignore[arg-type]
        prior_adjustment=prior_adjustment,
        views=view,
        controls=_controls(control or []),
        folds=folds,
        repeats=repeats,
        group=group,
        test_store=test_store,
        train_on=train_on or [],
        test_on=test_on or [],
        min_cells=min_cells,
        few_shot=_numbers(few_shot),
        hold_out_genes=hold_out_genes,
        leave_one_class_out=leave_one_class_out,
        seed=seed,
        allow_seen=allow_seen,
        allow_partial=allow_partial,
        progress=state.output.reporter,
    )
    if out is not None:
        save_evaluation(found, out, figures=figures, overwrite=overwrite)
        state.output.reporter.note(f"written to {out}")
    if found.left_out_classes is not None:
        state.output.table(found.left_out_classes.title, *found.left_out_classes.table())
    for regime in found.regimes[1:]:
        state.output.table(regime.title, *regime.table())
        state.output.lines(*regime.notes, *regime.says)
    first = found.regimes[0]
    state.output.table(first.title, *first.table())
    state.output.result(found.as_json(), *first.notes, *first.says)


def _controls(words: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not name or not equals or not path:
            msg = f"--control {word}: write NAME=STORE, such as random-genes=stores/ref_random.zarr."
            raise OptionError(msg)
        found.setdefault(name, []).append(path)
    return found


def _numbers(text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        msg = f"--few-shot {text}: give whole numbers separated by commas, such as 2,5,20."
        raise OptionError(msg) from error
