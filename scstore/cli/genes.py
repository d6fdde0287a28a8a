"""The commands of gene tables: genes build, info."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scstore.cli.shared import Device, Dtype, Overwrite, Revision, genes_app, state

__all__: list[str] = []

Table = Annotated[Path, typer.Argument(help="A gene table.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="The table to write, an .h5ad.", show_default=False)]


@genes_app.command("build")
def genes_build(
    out: Output,
    *,
    gene_info: Annotated[Path | None, typer.Option(help="NCBI's gene_info file.")] = None,
    gene_summary: Annotated[Path | None, typer.Option(help="NCBI's gene_summary file.")] = None,
    orthologs: Annotated[
        Path | None,
        typer.Option(help="NCBI's gene_orthologs, or a CSV of human and mouse genes."),
    ] = None,
    ortholog_gene_info: Annotated[
        Path | None, typer.Option(help="gene_info of the other organism, whose summaries stand in.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="TSV or JSON of gene texts, with a column symbol.")] = None,
    symbols_of: Annotated[Path | None, typer.Option(help="Cells whose symbols are the texts.")] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Published vectors (GenePT's): pickle, .npz, .parquet, .h5ad.")
    ] = None,
    only_genes_of: Annotated[
        list[Path] | None, typer.Option(help="Cells whose genes alone are encoded; repeat.", show_default=False)
    ] = None,
    template: Annotated[str | None, typer.Option(help='Such as "{symbol}: {name}. {summary}".')] = None,
    organism: Annotated[str | None, typer.Option(help="human or mouse.")] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="minilm (the default), a folder, a hub name, openai:MODEL, or random:WIDTH."),
    ] = None,
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
) -> None:
    """Encode descriptions of genes into a gene table.

    Examples
    --------
        scstore genes build --organism human --gene-info gene_info.gz --gene-summary gene_summary.gz -o genes/human.h5ad

        scstore genes build --text genes.tsv --only-genes-of cells.h5ad -o genes/cells.h5ad

        scstore genes build --text genes.tsv --encoder openai:text-embedding-ada-002 -o genes/ada.h5ad

        scstore genes build --vectors GenePT_gene_embedding_ada_text.pickle --organism human -o genes/genept.h5ad

        scstore genes build --text genes.tsv --template "{symbol}: {name}. {summary}" -o genes/mine.h5ad
    """
    from scstore.gene_tables.build import build_genes

    table = build_genes(
        out,
        text=text,
        cells=symbols_of,
        gene_info=gene_info,
        gene_summary=gene_summary,
        orthologs=orthologs,
        ortholog_gene_info=ortholog_gene_info,
        vectors=vectors,
        only_genes_of=only_genes_of,
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


@genes_app.command("info")
def genes_info(table: Table) -> None:
    """Say what a gene table holds and what made it.

    Example:

        scstore genes info genes/human.h5ad
    """
    from scstore.genes.table import describe_genes

    found = describe_genes(table)
    organisms = ", ".join(f"{name or 'not named'} {count:,}" for name, count in found["organisms"].items())
    state.output.result(
        found,
        f"{table}: {found['n_genes']:,} genes × {found['width']}",
        f"encoder: {', '.join(f'{name} {value}' for name, value in found['encoder'].items())}",
        f"template: {found['template'] or 'none'}",
        f"organisms: {organisms}",
        f"texts rest on: {found['coverage']}",
        f"digest: {found['digest']}",
    )
