"""``scstore align``: a projector trained through the frozen model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from scstore.cli.sequences import (
    Genes,
    Instruction,
    Layers,
    MinMatch,
    Model,
    Organism,
    PanelFile,
    ReadoutToken,
    Spread,
    TokensPerBatch,
    TopGenes,
    numbers,
    words,
)  # fmt: skip
from scstore.cli.shared import (
    STAGE_1,
    AllowFractional,
    Cells,
    Device,
    Dtype,
    Expression,
    IdPrefixFrom,
    Label,
    Orthologs,
    Overwrite,
    Revision,
    Slot,
    SumDuplicateGenes,
    app,
    state,
)  # fmt: skip

__all__: list[str] = []

ALIGN_HELP = """Train a projector, from gene vectors to the model's input, through the frozen model.

Killed, the same command goes on.

Examples:

    scstore align cells.h5ad --label cell_type -o projectors/blood --panel panels/blood.h5ad --genes genes/human.h5ad

    scstore extract cells.h5ad -o stores/ref.zarr --projector projectors/blood --panel panels/blood.h5ad
    --genes genes/human.h5ad
"""


@app.command(help=ALIGN_HELP, rich_help_panel=STAGE_1)
def align(
    cells: Cells,
    label: Label,
    out: Annotated[Path, typer.Option("--output", "-o", help="The projector, a folder.", show_default=False)],
    *,
    recipe: Annotated[
        str, typer.Option(help="default: from the aligned projector on; papers: as their code does.")
    ] = "default",
    epochs: Annotated[int | None, typer.Option(help="Passes over the cells, at the most. 8.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest. 0.01; papers: 5e-5.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Cells of a step. 16.")] = None,
    gene_dropout: Annotated[
        float | None, typer.Option(help="Chance of a gene to be left out of a training sequence. 0.4; papers: 0.")
    ] = None,
    hold_out: Annotated[
        float | None, typer.Option(help="Fraction of the cells not trained on. 0.2; papers: 0.1.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a lower held-out loss before it ends; 0: never. 3; papers: 0.")
    ] = None,
    model: Model = None,
    genes: Genes = None,
    panel: PanelFile = "all",
    top_genes: TopGenes = None,
    layers: Layers = None,
    pool: Annotated[
        str | None, typer.Option(help="Of last, mean, wmean, trained on together. wmean,last; papers: last.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the start, the cells held out and their order.", min=0)] = 0,
    instruction: Instruction = None,
    readout_token: ReadoutToken = None,
    expression_scaling: Annotated[
        str | None, typer.Option(help="none, or multiply: scale gene vectors by expression. none; papers: multiply.")
    ] = None,
    expression: Expression = "counts",
    slot: Slot = None,
    allow_fractional: AllowFractional = False,
    sum_duplicate_genes: SumDuplicateGenes = False,
    id_prefix_from: IdPrefixFrom = None,
    organism: Organism = None,
    orthologs: Orthologs = None,
    min_match: MinMatch = 0.3,
    device: Device = None,
    dtype: Dtype = None,
    spread: Spread = False,
    revision: Revision = None,
    tokens_per_batch: TokensPerBatch = None,
    overwrite: Overwrite = False,
) -> None:
    from scstore.alignment.align import align as run

    options: dict[str, Any] = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "gene_dropout": gene_dropout,
        "hold_out": hold_out,
        "patience": patience,
        "model": model,
        "revision": revision,
        "genes": None if genes is None else str(genes),
        "panel": None if panel == "all" else panel,
        "top_genes": top_genes,
        "layers": numbers(layers, "--layers"),
        "seed": seed,
        "readout_token": readout_token,
        "expression": expression,
        "slot": slot,
        "allow_fractional": allow_fractional,
        "sum_duplicate_genes": sum_duplicate_genes,
        "id_prefix_from": id_prefix_from,
        "organism": organism,
        "orthologs": None if orthologs is None else str(orthologs),
        "min_match": min_match,
        "device": device,
        "dtype": dtype,
        "spread": spread,
        "tokens_per_batch": tokens_per_batch,
    }
    # what is not said is the recipe's
    said = {"pool": None if pool is None else words(pool), "instruction": instruction}
    said["expression_scaling"] = expression_scaling
    options |= {name: value for name, value in said.items() if value is not None}
    trained = run(
        cells,
        out,
        label=label,
        recipe=recipe,  # type: ignore[arg-type]  # checked by align itself
        overwrite=overwrite,
        progress=state.output.reporter,
        **options,
    )
    best = trained.training["best_epoch"]

    def held_out(row: Mapping[str, Any], figure: str) -> float:
        views = row["held_out"].values()
        return float(sum(view[figure] for view in views)) / len(views)

    state.output.table(
        f"learning curve, means over the readouts (epoch {best} was kept)",
        ["epoch", "train loss", "held-out loss", "accuracy", "macro-F1"],
        [
            [
                str(row["epoch"]),
                "" if row["train_loss"] is None else f"{row['train_loss']:.3f}",
                f"{row['held_out_loss']:.3f}",
                f"{held_out(row, 'accuracy'):.3f}",
                f"{held_out(row, 'macro_f1'):.3f}",
            ]
            for row in trained.curve
        ],
    )
    same = "".join(f" --{name} {options[name]}" for name in ("genes", "panel", "orthologs") if options[name])
    state.output.result(
        {"projector": str(out), "digest": trained.digest, "best_epoch": best, "curve": trained.curve},
        f"{out}: trained on {len(trained.trained_on):,} cells for {label}, best epoch {best}",
        f"next: scstore extract CELLS -o STORE --projector {out}{same}",
    )
