"""The commands of stage 1, which need a model: extract, panel, genes build, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scstore.cli.shared import (
    AllowFractional,
    Cells,
    Device,
    Dtype,
    Expression,
    Label,
    Overwrite,
    Revision,
    Slot,
    app,
    genes_app,
    state,
)  # fmt: skip
from scstore.console import Output

__all__: list[str] = []

STAGE_1 = "With a model (scstore[extract])"


def _numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers such as 1,6", param_hint=option) from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


EXTRACT_HELP = """Run cells through a frozen language model, once, into a store. Killed, the same command goes on.

Examples:

    scstore extract cells.h5ad -o stores/ref.zarr                                   # Llama-2-13b, on a GPU

    scstore extract cells.h5ad -o stores/ref.zarr --model minilm --panel panels/blood.h5ad    # a laptop

    scstore extract new.h5ad -o stores/new.zarr --like stores/ref.zarr               # cells to be labelled
"""


@app.command(help=EXTRACT_HELP, rich_help_panel=STAGE_1)
def extract(
    cells: Cells,
    out: Annotated[Path, typer.Option("--output", "-o", help="The store to write.", show_default=False)],
    *,
    model: Annotated[
        str | None,
        typer.Option(help="minilm, a folder, or a hub name. By default meta-llama/Llama-2-13b-hf.", show_default=False),
    ] = None,
    like: Annotated[Path | None, typer.Option(help="Take the feature space of another store.")] = None,
    genes: Annotated[
        Path | None, typer.Option(help="Gene table. By default the symbols, encoded by the model.")
    ] = None,
    panel: Annotated[str, typer.Option(help="Panel file: the genes that may enter; or all.")] = "all",
    top_genes: Annotated[int | None, typer.Option(help="Most expressed genes a cell: 2048, or what fits.")] = None,
    layers: Annotated[str | None, typer.Option(help="Layers to read, such as 20,40. The last (minilm: 1,6).")] = None,
    pool: Annotated[str, typer.Option(help="Of last, mean, wmean (weighted by expression).")] = "wmean,last",
    projector: Annotated[str, typer.Option(help="Gene vectors into the model: aligned, native, random.")] = "aligned",
    seed: Annotated[int, typer.Option(help="Of the projector.")] = 0,
    layout: Annotated[str, typer.Option(help="genes-first or instruction-first.")] = "genes-first",
    instruction: Annotated[str | None, typer.Option(help="Words beside the genes. The papers' by default.")] = None,
    readout_token: Annotated[str | None, typer.Option(help="Of a decoder. Its end-of-sequence token.")] = None,
    ranking: Annotated[str, typer.Option(help="lognorm, or median: divided by the panel's medians.")] = "lognorm",
    expression_scaling: Annotated[str, typer.Option(help="multiply: scale gene vectors by expression.")] = "none",
    expression: Expression = "counts",
    slot: Slot = None,
    allow_fractional: AllowFractional = False,
    sum_duplicate_genes: Annotated[
        bool, typer.Option("--sum-duplicate-genes", help="Add up genes of the same name.")
    ] = False,
    id_prefix_from: Annotated[str | None, typer.Option(help="obs column to put before cell ids.")] = None,
    organism: Annotated[str | None, typer.Option(help="human or mouse. Guessed from the symbols.")] = None,
    min_match: Annotated[
        float, typer.Option(help="Fraction of genes that must match the gene table.", min=0, max=1)
    ] = 0.3,
    no_expression: Annotated[bool, typer.Option("--no-expression", help="Do not keep the expression as X.")] = False,
    store_dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    shard_rows: Annotated[int | None, typer.Option(help="Rows of a shard. About 16 MB, at most 4096.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    precision: Annotated[str, typer.Option(help="native, or float8 on GPUs that have it.")] = "native",
    spread: Annotated[bool, typer.Option("--spread", help="Spread a large model over all GPUs.")] = False,
    revision: Revision = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: extract part i (from 0) of n, as one job of an array.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print cells, tokens, FLOP, time, sizes; extract nothing.")
    ] = False,
    tokens_per_batch: Annotated[int | None, typer.Option(help="Padded positions of a batch.")] = None,
    overwrite: Overwrite = False,
) -> None:
    from scstore.stores.locks import Part
    from scstore.workflows.estimate import estimate
    from scstore.workflows.extract import extract as run
    from scstore.workflows.processes import this_process

    part = Part.parse(shard) if shard is not None else None
    if this_process(part).is_silent:  # one of a launcher's several speaks for all
        state.output = Output(quiet=True)
    options: dict[str, Any] = {
        "model": model,
        "revision": revision,
        "genes": None if genes is None else str(genes),
        "panel": None if panel == "all" else panel,
        "top_genes": top_genes,
        "layers": _numbers(layers, "--layers"),
        "pool": _words(pool),
        "projector": projector,
        "seed": seed,
        "layout": layout,
        "readout_token": readout_token,
        "ranking": ranking,
        "expression_scaling": expression_scaling,
        "expression": expression,
        "slot": slot,
        "allow_fractional": allow_fractional,
        "sum_duplicate_genes": sum_duplicate_genes,
        "id_prefix_from": id_prefix_from,
        "organism": organism,
        "min_match": min_match,
        "keep_expression": not no_expression,
        "store_dtype": store_dtype,
        "shard_rows": shard_rows,
        "device": device,
        "dtype": dtype,
        "precision": precision,
        "spread": spread,
        "tokens_per_batch": tokens_per_batch,
    }
    if instruction is not None:
        options["instruction"] = instruction
    if dry_run:
        found = estimate(cells, out, like=like, progress=state.output.reporter, **options)
        state.output.result(found.as_json(), *found.lines())
        return
    store = run(cells, out, like=like, overwrite=overwrite, part=part, progress=state.output.reporter, **options)
    done = int(store.committed.sum())
    if done < store.n_obs:
        state.output.result(
            store.info, f"{out}: {done:,} of {store.n_obs:,} cells so far; the other parts are extracted by others"
        )
        return
    state.output.result(
        store.info,
        f"{out}: {store.n_obs:,} cells, views {', '.join(store.views)}",
        f"next: scstore fit {out} --label COLUMN -o heads/NAME",
    )


@app.command(rich_help_panel=STAGE_1)
def panel(
    cells: Cells,
    label: Label,
    out: Annotated[Path, typer.Option("--output", "-o", help="The panel, an .h5ad.", show_default=False)],
    *,
    n_genes: Annotated[int, typer.Option("-n", help="Genes in the panel.", min=1)] = 200,
    expression: Expression = "counts",
    slot: Slot = None,
    allow_fractional: AllowFractional = False,
    overwrite: Overwrite = False,
) -> None:
    """Choose the genes that tell labels apart (ANOVA F), once, for every later extraction.

    Example:

        scstore panel cells.h5ad --label cell_type -n 200 -o panels/blood.h5ad
    """
    from scstore.workflows.panel import panel as run

    fitted = run(
        cells,
        out,
        label=label,
        n_genes=n_genes,
        expression=expression,
        slot=slot,
        allow_fractional=allow_fractional,
        overwrite=overwrite,
        progress=state.output.reporter,
    )
    symbols = [str(name) for name in fitted.obs["symbol"]]
    state.output.result(
        {"panel": str(out), "digest": fitted.digest, "genes": symbols},
        f"{out}: {len(fitted)} genes that tell {label} apart: {', '.join(symbols[:8])}, …",
        f"next: scstore extract CELLS -o STORE --panel {out}",
    )


@app.command(rich_help_panel=STAGE_1)
def demo(
    folder: Annotated[Path, typer.Argument(help="Where its files go.")] = Path("demo"),
    *,
    overwrite: Overwrite = False,
) -> None:
    """Show the whole path on 700 real blood cells: panel, extract, fit, predict, query. Needs scstore[demo]."""
    from scstore.demo import demo as run

    result = run(folder, overwrite=overwrite, output=state.output)
    state.output.result(result)


@genes_app.command("build")
def genes_build(
    out: Annotated[Path, typer.Option("--output", "-o", help="The table, an .h5ad.", show_default=False)],
    *,
    text: Annotated[Path | None, typer.Option(help="TSV or JSON of gene texts, with a column symbol.")] = None,
    gene_info: Annotated[Path | None, typer.Option(help="NCBI's gene_info file.")] = None,
    gene_summary: Annotated[Path | None, typer.Option(help="NCBI's gene_summary file.")] = None,
    orthologs: Annotated[Path | None, typer.Option(help="CSV of human and mouse symbols.")] = None,
    ortholog_gene_info: Annotated[
        Path | None, typer.Option(help="gene_info of the other organism, whose summaries stand in.")
    ] = None,
    symbols_of: Annotated[Path | None, typer.Option(help="Cells whose symbols are the texts.")] = None,
    template: Annotated[str | None, typer.Option(help='Such as "{symbol}: {name}. {summary}".')] = None,
    organism: Annotated[str | None, typer.Option(help="human or mouse.")] = None,
    encoder: Annotated[str, typer.Option(help="minilm, a folder, a hub name, or random:WIDTH.")] = "minilm",
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
) -> None:
    """Encode descriptions of genes into a gene table.

    Examples
    --------
        scstore genes build --organism human --gene-info gene_info.gz --gene-summary gene_summary.gz -o genes/human.h5ad

        scstore genes build --text genes.tsv --template "{symbol}: {name}. {summary}" -o genes/mine.h5ad
    """
    from scstore.workflows.genes import build_genes

    table = build_genes(
        out,
        text=text,
        cells=symbols_of,
        gene_info=gene_info,
        gene_summary=gene_summary,
        orthologs=orthologs,
        ortholog_gene_info=ortholog_gene_info,
        template=template,
        organism=organism,
        encoder=encoder,
        revision=revision,
        device=device,
        dtype=dtype,
        overwrite=overwrite,
        progress=state.output.reporter,
    )
    state.output.result(
        {"genes": str(out), "n_genes": len(table), "width": table.width, "digest": table.digest},
        f"{out}: {len(table):,} genes × {table.width}",
        f"next: scstore extract CELLS -o STORE --genes {out}",
    )
