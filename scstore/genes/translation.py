"""Cells of one species under the gene names of another, one ortholog for one gene."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import GenesError
from scstore.escaping import show_some
from scstore.genes.matching import GeneMatch, gene_names, match_genes
from scstore.genes.orthologs import Orthologs, other_organism

__all__ = ["RenamedGenes", "match_orthologs", "rename_by_orthologs"]


@dataclass(frozen=True, eq=False)
class RenamedGenes:
    """The genes of an input that have an ortholog, under its names.

    Attributes
    ----------
    var
        ``(n_renamed,)`` rows: the index is the ortholog's symbol (its Ensembl id where it has no symbol), ``gene_ids``
        its Ensembl id, empty where unknown.
    columns
        ``(n_renamed,) int64``, ascending: which genes of the input they are. Counts are normalised over all genes of
        a cell before the other columns are left out.
    report
        A line that says how many were renamed and how many have no ortholog.
    """

    var: pd.DataFrame
    columns: NDArray[np.int64]
    report: str

    def in_input(self, groups: NDArray[np.int64], n_genes: int) -> NDArray[np.int64]:
        """Groups of the renamed genes, as :func:`scstore.genes.matching.gene_names` gives them, of all ``n_genes``."""
        whole = np.arange(n_genes, dtype=np.int64)
        whole[self.columns] = self.columns[groups]
        return whole


def rename_by_orthologs(
    var: pd.DataFrame, orthologs: Orthologs, *, organism: str, source: str = "cells"
) -> RenamedGenes:
    """Give each gene of an input the names of its ortholog in the other species.

    A gene is looked up by its Ensembl id (without version), else by its symbol, in the index of ``var`` and in its
    usual columns.

    Parameters
    ----------
    var
        ``(n_input_genes, …)`` from :meth:`scstore.cells.opening.CellFile.var`.
    orthologs
        From :func:`scstore.genes.orthologs.read_orthologs`.
    organism
        Of the input: ``human`` or ``mouse``.
    source
        What the input is called in messages.

    Raises
    ------
    GenesError
        If none of the genes has an ortholog.
    """
    names, _ = gene_names(var, sum_duplicates=True, source=source)
    known = orthologs.names(organism)
    nothing = ("", "")
    found = [
        known.get(own.ensembl_id) or known.get(own.symbol) or known.get(own.name) or nothing
        for own in names.itertuples(index=False)
    ]
    columns = np.flatnonzero([target != nothing for target in found])
    target = other_organism(organism)
    if not len(columns):
        msg = (
            f"{source}: none of its {len(var):,} genes ({show_some(names['name'])}) is a {organism} gene of "
            "--orthologs. Check --organism, or give a table of orthologs that names genes as the cells do."
        )
        raise GenesError(msg)
    symbols = [found[column][0] or found[column][1] for column in columns]
    renamed = pd.DataFrame(
        {"gene_ids": [found[column][1] for column in columns]}, index=pd.Index(symbols, dtype=object)
    )
    dropped = names["name"].to_numpy()[np.setdiff1d(np.arange(len(var)), columns)]
    report = f"orthologs: {len(columns):,} of {len(var):,} {organism} genes are read as their {target} orthologs"
    if len(dropped):
        report += f"; without one, and left out: {len(dropped):,}, e.g. {show_some(dropped)}"
    return RenamedGenes(renamed, columns, report)


def match_orthologs(
    var: pd.DataFrame,
    table: pd.DataFrame,
    orthologs: Orthologs,
    *,
    organism: str,
    min_fraction: float = 0.3,
    sum_duplicates: bool = False,
    source: str = "cells",
) -> GeneMatch:
    """Find each input gene in a gene table of the other species, by its ortholog's names.

    Parameters
    ----------
    var, table, min_fraction, sum_duplicates, source
        As for :func:`scstore.genes.matching.match_genes`; the fraction is that of the genes with an ortholog.
    orthologs, organism
        As for :func:`rename_by_orthologs`.

    Returns
    -------
    GeneMatch
        Of all input genes; those without an ortholog match nothing.

    Raises
    ------
    GenesError
        If no gene has an ortholog, names repeat, or too few genes match.
    """
    renamed = rename_by_orthologs(var, orthologs, organism=organism, source=source)
    match = match_genes(
        renamed.var,
        table,
        min_fraction=min_fraction,
        sum_duplicates=sum_duplicates,
        source=source,
        organism=other_organism(organism),
    )
    rows = np.full(len(var), -1, dtype=np.int64)
    how = np.full(len(var), "", dtype=match.how.dtype)
    rows[renamed.columns], how[renamed.columns] = match.table_rows, match.how
    groups = None if match.groups is None else renamed.in_input(match.groups, len(var))
    return replace(match, table_rows=rows, how=how, groups=groups, report=f"{renamed.report}\n{match.report}")
