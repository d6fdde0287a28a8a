"""``scstore genes build``: gene texts into a table of gene vectors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from scstore import fsio
from scstore.cells.formats import open_cells
from scstore.cells.matching import guess_organism
from scstore.errors import OptionError
from scstore.genes.descriptions import describe_by_symbol, read_descriptions
from scstore.genes.ncbi import (
    NCBI_TEMPLATE,
    TAXA,
    coverage,
    describe_by_ncbi,
    read_gene_info,
    read_orthologs,
    read_summaries,
)
from scstore.genes.table import GeneTable, save_gene_table
from scstore.progress import Reporter
from scstore.workflows.models import encode_table, make_encoder

__all__ = ["build_genes"]


def build_genes(
    output: str | os.PathLike[str],
    *,
    text: str | os.PathLike[str] | None = None,
    cells: str | os.PathLike[str] | None = None,
    gene_info: str | os.PathLike[str] | None = None,
    gene_summary: str | os.PathLike[str] | None = None,
    orthologs: str | os.PathLike[str] | None = None,
    ortholog_gene_info: str | os.PathLike[str] | None = None,
    template: str | None = None,
    organism: str | None = None,
    encoder: str = "minilm",
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    progress: Reporter | None = None,
) -> GeneTable:
    """Describe genes in words, encode the words, and write the gene table.

    Parameters
    ----------
    output
        The table, an ``.h5ad`` of genes × dimensions.
    text
        A TSV or JSON file of gene texts.
    cells
        Instead: an input of cells whose gene symbols are the texts.
    gene_info, gene_summary
        Instead: NCBI's files of genes and their summaries, as they come.
    orthologs, ortholog_gene_info
        Pairs of human and mouse symbols (CSV) and the other organism's ``gene_info``: its summaries stand in for those
        that are missing.
    template
        How a gene's text is put together from the columns of ``text``, or from NCBI's ``symbol``, ``name``,
        ``summary``, ``type``, ``synonyms``.
    organism
        ``human`` or ``mouse``; needed with ``gene_info``, else guessed from the symbols.
    encoder
        A Hugging Face model by name or folder, ``minilm``, or ``random:WIDTH`` for the control that knows nothing.
    revision, device, dtype
        Of the encoder.
    overwrite
        Replace an existing table.
    progress
        Told what happens.

    Returns
    -------
    GeneTable
        As written.

    Raises
    ------
    OptionError
        If not exactly one of ``text``, ``cells`` and ``gene_info`` is given, or options do not go together.
    GenesError
        If the texts cannot be read.
    """
    if sum(source is not None for source in (text, cells, gene_info)) != 1:
        msg = (
            "Give one of --text FILE (gene texts), --gene-info FILE (NCBI's descriptions) and --symbols-of CELLS (the "
            "symbols "
            "are the texts)."
        )
        raise OptionError(msg)
    fsio.check_output(output, overwrite=overwrite)
    progress = progress or Reporter()
    if text is not None:
        obs, used = read_descriptions(text, template=template, organism=organism or "")
    elif gene_info is not None:
        ortholog_files = None if orthologs is None or ortholog_gene_info is None else (orthologs, ortholog_gene_info)
        if (orthologs is None) != (ortholog_gene_info is None):
            msg = "--orthologs and --ortholog-gene-info go together: the pairs, and the other organism's gene_info."
            raise OptionError(msg)
        obs, used = _from_ncbi(gene_info, gene_summary, ortholog_files, organism=organism, template=template)
    else:
        if template is not None:
            msg = "--template goes with --text or --gene-info; the symbols of cells are encoded as they are."
            raise OptionError(msg)
        obs, used = _from_symbols(cells, Path(output).parent, organism)
    progress.note(f"genes: {len(obs):,}, their texts rest on: {coverage(obs)}")
    table = encode_table(
        obs, used, make_encoder(encoder, revision=revision, device=device, dtype=dtype), progress=progress
    )
    save_gene_table(table, output, overwrite=overwrite)
    return table


def _from_symbols(cells: Any, scratch: Path, organism: str | None) -> tuple[pd.DataFrame, str]:
    with open_cells(cells, scratch=scratch) as opened:
        var = opened.var(next(iter(opened.slots)))
    names = list(dict.fromkeys(str(name) for name in var.get("symbol", var.index)))
    return describe_by_symbol(names, organism=organism or guess_organism(names) or "")


def _from_ncbi(
    gene_info: str | os.PathLike[str],
    gene_summary: str | os.PathLike[str] | None,
    orthologs: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None,
    *,
    organism: str | None,
    template: str | None,
) -> tuple[pd.DataFrame, str]:
    if organism not in TAXA:
        msg = f"--gene-info needs --organism {' or '.join(TAXA)}: which genes of the file to take."
        raise OptionError(msg)
    other = next(name for name in TAXA if name != organism)
    return describe_by_ncbi(
        read_gene_info(gene_info, organism=organism),
        {} if gene_summary is None else read_summaries(gene_summary),
        organism=organism,
        template=template or NCBI_TEMPLATE,
        orthologs=None if orthologs is None else read_orthologs(orthologs[0]),
        ortholog_genes=None if orthologs is None else read_gene_info(orthologs[1], organism=other),
    )
