"""Whose genes the cells have, and whose the gene table and panel are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from scstore.errors import GenesError, OptionError
from scstore.escaping import show
from scstore.extraction.options import ExtractOptions
from scstore.genes.descriptions import describe_by_symbol
from scstore.genes.matching import GeneMatch, gene_names, match_genes
from scstore.genes.ncbi import TAXA
from scstore.genes.orthologs import Orthologs, other_organism, read_orthologs
from scstore.genes.species import common_name, guess_organism
from scstore.genes.translation import match_orthologs, rename_by_orthologs
from scstore.progress import Reporter

__all__ = ["Translation", "describe_cells_genes", "match_cells", "needed_translation", "translate_to_one"]


@dataclass(frozen=True)
class Translation:
    """Cells whose genes are read as their orthologs.

    Attributes
    ----------
    orthologs
        The pairs.
    organism
        Of the cells.
    """

    orthologs: Orthologs
    organism: str

    @property
    def record(self) -> dict[str, str]:
        """What a run's record says of it."""
        return {"digest": self.orthologs.digest, "from": self.organism, "to": other_organism(self.organism)}


def needed_translation(
    path: str | os.PathLike[str] | None,
    var: pd.DataFrame,
    *,
    organism: str | None,
    table: pd.DataFrame | None,
    panel: pd.DataFrame | None,
    source: str,
    progress: Reporter,
) -> Translation | None:
    """Read ``--orthologs`` where the cells are of another species than the gene table, else the panel.

    Parameters
    ----------
    path
        The file; ``None`` gives ``None``.
    var
        The cells' genes.
    organism
        Of the cells; guessed from their genes by default.
    table, panel
        ``obs`` of the gene table and of the panel, where they are named.
    source
        What the cells are called.
    progress
        Told where orthologs are not needed.

    Raises
    ------
    GenesError
        If it cannot be told whose genes the cells, or the table and panel, have.
    OptionError
        If neither a table nor a panel is named.
    """
    if path is None:
        return None
    held = set[str]() if table is None else _organisms(table)
    target = held.pop() if len(held) == 1 else None
    if target is None and panel is not None:
        target = next(iter(_organisms(panel)), None)
    if target is None and table is None and panel is None:
        msg = "--orthologs needs --genes or --panel: into whose species the cells' genes are renamed."
        raise OptionError(msg)
    ours = _organism_of(var, organism, source=source, cure="Give --organism human or mouse.")
    if target not in TAXA:
        said = f"are {show(target)}" if target else "do not look like either"
        msg = (
            "--orthologs translates into human or mouse genes, and those of the gene table and panel "
            f"{said}. Give a table that names its organism (scstore genes build --organism …)."
        )
        raise GenesError(msg)
    if ours == target:
        progress.note(f"orthologs: not needed, the cells are {ours} like the genes they are matched with")
        return None
    return Translation(read_orthologs(path), ours)


def translate_to_one(
    path: str | os.PathLike[str],
    genes: Sequence[pd.DataFrame],
    *,
    organism: str | None,
    sources: Sequence[str],
    progress: Reporter,
) -> list[Translation | None]:
    """Read ``--orthologs`` for several inputs that are to be of one species.

    Parameters
    ----------
    path
        The file.
    genes
        ``var`` of each input; what species it is of is told from its names.
    organism
        The one species, human or mouse; that of the first input by default.
    sources
        What the inputs are called.
    progress
        Told where orthologs are not needed.

    Returns
    -------
    For each input its translation, ``None`` where it is of that species.

    Raises
    ------
    OptionError
        If the one species is neither human nor mouse.
    GenesError
        If it cannot be told whose genes an input has.
    """
    target = common_name(organism) if organism else None
    if target is not None and target not in TAXA:
        msg = f"--organism {organism}: --orthologs translates into human or mouse genes. Give one of these."
        raise OptionError(msg)
    cure = "Name its genes by their symbols or Ensembl ids."
    own = [_organism_of(var, None, source=source, cure=cure) for var, source in zip(genes, sources, strict=True)]
    target = target or own[0]
    if set(own) == {target}:
        progress.note(f"orthologs: not needed, all cells are {target}")
        return [None] * len(own)
    orthologs = read_orthologs(path)
    return [None if one == target else Translation(orthologs, one) for one in own]


def match_cells(
    var: pd.DataFrame, table: pd.DataFrame, options: ExtractOptions, translation: Translation | None, *, source: str
) -> GeneMatch:
    """Find the cells' genes in a gene table, by their orthologs' names where they are translated."""
    if translation is None:
        return match_genes(
            var,
            table,
            min_fraction=options.min_match,
            sum_duplicates=options.sum_duplicate_genes,
            source=source,
            organism=options.organism,
        )
    return match_orthologs(
        var,
        table,
        translation.orthologs,
        organism=translation.organism,
        min_fraction=options.min_match,
        sum_duplicates=options.sum_duplicate_genes,
        source=source,
    )


def describe_cells_genes(
    var: pd.DataFrame, options: ExtractOptions, translation: Translation | None
) -> tuple[pd.DataFrame, str]:
    """Rows of a gene table whose texts are the cells' own symbols, or their orthologs' where they are translated."""
    organism = options.organism
    if translation is not None:
        var = rename_by_orthologs(var, translation.orthologs, organism=translation.organism).var
        organism = other_organism(translation.organism)
    names = list(dict.fromkeys(str(name) for name in var.get("symbol", var.index)))
    return describe_by_symbol(names, organism=organism or guess_organism(names) or "")


def _organism_of(var: pd.DataFrame, organism: str | None, *, source: str, cure: str) -> str:
    """The species of an input, human or mouse, as said or else guessed from its genes' names."""
    names = gene_names(var, sum_duplicates=True)[0].to_numpy().ravel()
    found = common_name(organism) if organism else guess_organism(names)
    if found not in TAXA:
        said = f"are {show(found)}" if found else "do not look like either"
        msg = f"{source}: --orthologs translates human and mouse genes, and these {said}. {cure}"
        raise GenesError(msg)
    return str(found)


def _organisms(genes: pd.DataFrame) -> set[str]:
    """The organisms of a table's rows, as written there, else guessed."""
    said = {common_name(str(name)) for name in genes["organism"]} - {""} if "organism" in genes else set()
    return said or {guess for guess in [guess_organism(map(str, genes["symbol"]))] if guess is not None}
