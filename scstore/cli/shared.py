"""What the commands share: the applications they belong to, where they print, options that several take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scstore.cli.commands import app, genes_app
from scstore.cli.state import state

__all__ = [
    "STAGE_1",
    "AllowFractional",
    "AllowPartial",
    "Cells",
    "Device",
    "Dtype",
    "Expression",
    "IdPrefixFrom",
    "Label",
    "MissingLabels",
    "Orthologs",
    "Overwrite",
    "PriorAdjustment",
    "Revision",
    "Slot",
    "StoreArgument",
    "SumDuplicateGenes",
    "app",
    "genes_app",
    "state",
]

STAGE_1 = r"With a model (scstore\[extract])"

Cells = Annotated[
    Path, typer.Argument(help="Cells: .h5ad, AnnData Zarr, 10x .h5, or 10x mtx folder.", show_default=False)
]
StoreArgument = Annotated[
    Path, typer.Argument(help="A store, or any .h5ad or AnnData Zarr with obsm matrices.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
AllowPartial = Annotated[bool, typer.Option("--allow-partial", help="Work with the cells that are extracted so far.")]
Label = Annotated[str, typer.Option(help="Column of obs.", show_default=False)]
MissingLabels = Annotated[
    list[str] | None, typer.Option(help="Word that counts as a missing label; repeat. unknown, NA … by default.")
]
PriorAdjustment = Annotated[
    float, typer.Option(help="0: labels rare here are rare elsewhere; 1: all are equally likely.", min=0, max=1)
]
Expression = Annotated[str, typer.Option(help="What the input holds: counts or lognorm.")]
Slot = Annotated[str | None, typer.Option(help="Where: X, layers/NAME or raw. Looked for by default.")]
AllowFractional = Annotated[
    bool, typer.Option("--allow-fractional", help="Accept pseudo-counts that are no whole numbers.")
]
SumDuplicateGenes = Annotated[bool, typer.Option("--sum-duplicate-genes", help="Add up genes of the same name.")]
IdPrefixFrom = Annotated[str | None, typer.Option(help="obs column to put before cell ids.")]
Orthologs = Annotated[
    Path | None, typer.Option(help="Orthologs of human and mouse: read mouse cells as human ones, or back.")
]
Device = Annotated[str | None, typer.Option(help="cuda, cpu, …. The GPU where there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. bfloat16 on a GPU, float32 on the CPU.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]
