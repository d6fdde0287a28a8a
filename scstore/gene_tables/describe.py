"""Gene tables that are there: what is in them, genes that are alike, several in one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pandas as pd

from scstore import fsio
from scstore.errors import OptionError
from scstore.genes.merging import merge_tables
from scstore.genes.ncbi import coverage
from scstore.genes.neighbours import nearest_genes
from scstore.genes.table import GeneTable, load_gene_table, save_gene_table

__all__ = ["describe_genes", "merge_genes", "neighbours"]


def describe_genes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a gene table holds, as JSON values.

    Returns
    -------
    dict
        ``n_genes``, ``width``, ``encoder`` (its identity), ``template``, ``organisms`` (genes by organism), ``texts``
        (genes by what their text rests on), ``coverage`` (the same in words), ``digest``.

    Raises
    ------
    GenesError
        If the file is no gene table.
    """
    table = load_gene_table(path)
    counts = {column: table.obs[column].value_counts() for column in ("organism", "text_source")}
    organisms, texts = ({str(name): int(n) for name, n in values.items()} for values in counts.values())
    return {
        "n_genes": len(table),
        "width": table.width,
        "encoder": dict(table.encoder),
        "template": table.template,
        "organisms": organisms,
        "texts": texts,
        "coverage": coverage(table.obs),
        "digest": table.digest,
    }


def neighbours(gene: str, *, genes: str | os.PathLike[str], k: int = 10) -> pd.DataFrame:
    """Find the genes of a table that are most like one gene, by the cosine of whitened vectors.

    Parameters
    ----------
    gene
        Symbol, Ensembl id or synonym.
    genes
        The gene table.
    k
        How many.

    Returns
    -------
    ``(k,)`` rows, the most alike first: index = name in the table, ``symbol``, ``organism``, ``cosine``, ``text``.

    Raises
    ------
    GenesError
        If the table has no such gene; names that come close are given.
    OptionError
        If ``k`` is less than one.
    """
    if k < 1:
        msg = f"-k {k}: must be at least 1."
        raise OptionError(msg)
    return nearest_genes(load_gene_table(genes), gene, k=k)


def merge_genes(
    tables: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], *, overwrite: bool = False
) -> GeneTable:
    """Put gene tables of several organisms into one; extraction then takes the rows of the cells' organism.

    Parameters
    ----------
    tables
        Two or more gene tables of the same encoder and template.
    output
        The table to write.
    overwrite
        Replace an existing one.

    Returns
    -------
    GeneTable
        As written.

    Raises
    ------
    GenesError
        If encoders or templates differ, or two tables hold the same symbol of the same organism.
    OptionError
        If fewer than two tables are given.
    """
    if len(tables) < 2:
        msg = "Give two or more gene tables to merge."
        raise OptionError(msg)
    fsio.check_output(output, overwrite=overwrite)
    merged = merge_tables([load_gene_table(path) for path in tables], [str(path) for path in tables])
    save_gene_table(merged, output, overwrite=overwrite)
    return merged
