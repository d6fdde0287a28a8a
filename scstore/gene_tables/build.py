"""Gene tables from texts: describe genes in words, encode the words, write the table."""

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from scstore.cells.opening import open_cells
from scstore.errors import OptionError
from scstore.gene_tables.encoding import ENDPOINT, encode_table, open_encoder
from scstore.genes.matching import describe_genes, match_genes
from scstore.genes.orthologs import other_organism, read_orthologs
from scstore.genes.published import (
    NCBI_TEMPLATE,
    TAXA,
    describe_by_ncbi,
    read_gene_info,
    read_published,
    read_summaries,
)
from scstore.genes.table import KIND, DescribedGenes, GeneTable, coverage, read_descriptions, save_gene_table
from scstore.options import Option, Overwrite, Progress, public
from scstore.panels.panel import KIND as PANEL
from scstore.panels.panel import load_panel
from scstore.progress import Reporter
from scstore.sealed import check_sealed_output
from scstore.untrusted.guards import FILES, what_is

File = str | os.PathLike[str]
ENCODING = ("encoder", "revision", "device", "dtype")
# Options that have an effect, by source of the genes.
GOES_WITH = {
    "text": {"template", "only_genes_of", *ENCODING},
    "gene_info": {"gene_summary", "orthologs", "ortholog_gene_info", "template", "only_genes_of", *ENCODING},
    "cells": {*ENCODING},
    "vectors": set(),
}
ALWAYS = ("output", "organism", "overwrite", "progress")  # options that have an effect with every source


@public
def build_genes(
    output: Annotated[File, Option("The table to write, an .h5ad of genes × dimensions.", flags=("--output", "-o"))],
    *,
    text: Annotated[File | None, Option("Gene texts: a TSV with a column symbol, or JSON {symbol: text}.")] = None,
    cells: Annotated[File | None, Option("Cells whose gene symbols are the texts.", flags=("--symbols-of",))] = None,
    gene_info: Annotated[File | None, Option("NCBI's gene_info file.")] = None,
    gene_summary: Annotated[File | None, Option("NCBI's gene_summary file.")] = None,
    orthologs: Annotated[
        File | None, Option("NCBI's gene_orthologs, or a CSV of human and mouse genes, for missing summaries.")
    ] = None,
    ortholog_gene_info: Annotated[File | None, Option("The other organism's gene_info file.", advanced=True)] = None,
    vectors: Annotated[File | None, Option("Published vectors: a pickle or .parquet.")] = None,
    only_genes_of: Annotated[
        Sequence[File] | None,
        Option("Cells: only their genes are encoded, and no others are known to later steps.", advanced=True),
    ] = None,
    template: Annotated[
        str | None, Option('A gene\'s text, such as "{symbol}: {name}.[ {summary}]".', advanced=True)
    ] = None,
    organism: Annotated[str | None, Option("human or mouse; needed with NCBI's files, else guessed.")] = None,
    encoder: Annotated[
        str | None, Option("minilm (the default), a model folder or hub name, openai:MODEL (endpoint) or random:WIDTH.")
    ] = None,
    revision: Annotated[str | None, Option("Branch, tag or commit of a hub model.", advanced=True)] = None,
    device: Annotated[str | None, Option("Where the model runs, such as cpu or cuda.", advanced=True)] = None,
    dtype: Annotated[str | None, Option("Precision of the model, such as float32 or bfloat16.", advanced=True)] = None,
    overwrite: Overwrite = False,
    progress: Progress = None,
) -> GeneTable:
    """Describe genes in words, encode the words, and write the gene table.

    Give one source of the genes: a table of texts, NCBI's gene_info, cells with their symbols, or published vectors.

    Returns
    -------
    GeneTable
        As written.

    Raises
    ------
    OptionError
        If not exactly one source is given, or an option has no effect with it.
    GenesError
        If the texts cannot be read, or too few genes of the cells are among them.
    NetworkError
        If the endpoint does not answer as it should. Finished vectors are kept for all later calls.
    """
    _check(locals())  # all options, before anything else has a name here
    progress = progress or Reporter()
    only = [only_genes_of] if isinstance(only_genes_of, str | os.PathLike) else list(only_genes_of or ())
    target = check_sealed_output(output, KIND, overwrite=overwrite)
    if vectors is not None:
        table = read_published(vectors, organism=organism)
        progress.note(f"genes: {len(table):,}, published vectors {table.width} wide")
        save_gene_table(table, target, overwrite=overwrite)
        return table
    if text is not None:
        genes = read_descriptions(text, template=template, organism=organism or "")
    elif cells is not None:
        with open_cells(cells) as opened:
            slot = next(iter(opened.slots))
            for line in opened.notes(slot):
                progress.note(line)
            genes = describe_genes(opened.var(slot), organism=organism, source=opened.source)
    else:
        here, other = str(organism), other_organism(str(organism))
        files = {here: gene_info, other: ortholog_gene_info}
        infos = {name: read_gene_info(file, organism=name) for name, file in files.items() if file is not None}
        genes = describe_by_ncbi(
            infos[here],
            {} if gene_summary is None else read_summaries(gene_summary),
            organism=here,
            template=template or NCBI_TEMPLATE,
            orthologs=None if orthologs is None else read_orthologs(orthologs, gene_info=infos).symbols(here),
            ortholog_genes=infos.get(other),
        )
    progress.note(f"genes: {len(genes.obs):,}, their texts rest on: {coverage(genes.obs)}")
    enter = _genes_of(only, genes) if only else None
    if enter is not None:
        progress.note(f"genes: {enter.sum():,} of {len(enter):,} are genes of {', '.join(map(str, only))}")
    how: dict[str, Any] = {"revision": revision, "device": device, "dtype": dtype, "progress": progress}
    with open_encoder(encoder or "minilm", **how) as (made, kept):
        table = encode_table(genes, made, kept=kept, enter=enter, progress=progress)
        save_gene_table(table, target, overwrite=overwrite)
    return table


def _check(options: Mapping[str, Any]) -> None:
    unset = [name for name, value in options.items() if value is None or (isinstance(value, list) and not value)]
    given = {name: value for name, value in options.items() if name not in (*ALWAYS, *unset)}
    sources = [name for name in GOES_WITH if name in given]
    if len(sources) != 1:
        found = " and ".join(f"{name}=" for name in sources) or "none of them"
        raise OptionError(
            f"The genes come from one of text=, gene_info= (NCBI), cells= (symbols) and vectors=. You gave {found}."
        )
    source = sources[0]
    if idle := [name for name in given if name != source and name not in GOES_WITH[source]]:
        value = given[idle[0]] if isinstance(given[idle[0]], list) else str(given[idle[0]])
        raise OptionError(f"{idle[0]}={value!r} has no effect with {source}=. Leave it out.")
    if ("orthologs" in given) != ("ortholog_gene_info" in given):
        raise OptionError("orthologs= and ortholog_gene_info= go together: the pairs, and the other organism's genes.")
    if "gene_info" in given and options["organism"] not in TAXA:
        raise OptionError(f"gene_info={str(given['gene_info'])!r} needs organism='human' or organism='mouse'.")
    local = [name for name in ENCODING[1:] if name in given]
    if local and str(given.get("encoder", "")).startswith(ENDPOINT):
        raise OptionError(f"{local[0]}={given[local[0]]!r} has no effect with an endpoint. Leave it out.")


def _genes_of(inputs: Sequence[File], genes: DescribedGenes) -> NDArray[np.bool_]:
    """Return which genes extraction would find for any of these cells or panels, ``(n_genes,)``."""
    found = np.zeros(len(genes.obs), dtype=bool)
    for one in inputs:
        if what_is(one) == FILES[PANEL.key]:
            var = load_panel(one).obs
        else:
            with open_cells(one) as opened:
                var = opened.var(next(iter(opened.slots)))
        found[match_genes(var, genes.obs, sum_duplicates=True, source=str(one)).genes] = True
    return found
