"""The command that chooses genes: panel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scstore.cli.shared import (
    STAGE_1,
    AllowFractional,
    Expression,
    IdPrefixFrom,
    MissingLabels,
    Orthologs,
    Overwrite,
    Slot,
    SumDuplicateGenes,
    app,
    state,
)

__all__: list[str] = []


@app.command(rich_help_panel=STAGE_1)
def panel(
    out: Annotated[Path, typer.Option("--output", "-o", help="The panel, an .h5ad.", show_default=False)],
    cells: Annotated[
        list[Path],
        typer.Argument(help="Cells: .h5ad, AnnData Zarr, 10x .h5, or 10x mtx folder.", show_default=False),
    ],
    *,
    label: Annotated[str | None, typer.Option(help="Column of obs.", show_default=False)] = None,
    missing_labels: MissingLabels = None,
    n_genes: Annotated[int, typer.Option("-n", help="Genes in the panel.", min=1)] = 200,
    group: Annotated[str | None, typer.Option(help="obs column of donors or batches, each judged by itself.")] = None,
    label_free: Annotated[
        bool,
        typer.Option(
            "--label-free", help="Choose without labels: genes that more cells lack than their mean explains."
        ),
    ] = False,
    expression: Expression = "counts",
    slot: Slot = None,
    allow_fractional: AllowFractional = False,
    sum_duplicate_genes: SumDuplicateGenes = False,
    id_prefix_from: IdPrefixFrom = None,
    orthologs: Orthologs = None,
    organism: Annotated[
        str | None, typer.Option(help="Whose genes --orthologs makes of all: human or mouse. The first input's.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Choose the genes that may enter a cell's sequence, once, for every later extraction.

    By default those that separate labels (ANOVA F). Several inputs take turns.

    Examples
    --------
        scstore panel cells.h5ad --label cell_type -o panels/blood.h5ad

        scstore panel a.h5ad b.h5ad --label cell_type --group donor -o panels/both.h5ad

        scstore panel cells.h5ad --label-free -o panels/unlabelled.h5ad

        scstore panel human.h5ad mouse.h5ad --label cell_type --orthologs gene_orthologs.gz -o panels/both.h5ad
    """
    from scstore.cells.labels import MISSING_LABELS
    from scstore.panels.fit import panel as run

    fitted = run(
        cells,
        out,
        label=label,
        missing_labels=missing_labels or MISSING_LABELS,
        n_genes=n_genes,
        group=group,
        label_free=label_free,
        expression=expression,  # type: ignore[arg-type]  # checked by panel itself
        slot=slot,
        allow_fractional=allow_fractional,
        sum_duplicate_genes=sum_duplicate_genes,
        id_prefix_from=id_prefix_from,
        orthologs=orthologs,
        organism=organism,
        overwrite=overwrite,
        progress=state.output.reporter,
    )
    what = "chosen without labels" if label_free else f"that separate {fitted.label}"
    symbols = [str(name) for name in fitted.obs["symbol"]]
    more = ", …" if len(symbols) > 8 else ""
    state.output.result(
        {"panel": str(out), "digest": fitted.digest, "genes": symbols, "record": dict(fitted.record)},
        f"{out}: {len(fitted)} genes {what}: {', '.join(symbols[:8])}{more}",
        f"next: scstore extract CELLS -o STORE --panel {out}{'' if orthologs is None else f' --orthologs {orthologs}'}",
    )
