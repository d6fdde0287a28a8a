"""What is said about a match of genes: how good it is, or why it is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from scstore.escaping import show, show_some
from scstore.genes.species import common_name, guess_organism

__all__ = ["KINDS", "NOT_FOUND", "Found", "describe_match", "refusal"]

KINDS = ("ensembl", "symbol", "synonym")
"""Kinds of match, the best first."""

EXAMPLES = 5


@dataclass(frozen=True)
class Found:
    """One input gene in the table.

    Attributes
    ----------
    how
        One of :data:`KINDS`, or ``""``.
    row
        Row of the table, or -1.
    place
        Which of the gene's names it was found by, counted from 0; -1 for none.
    """

    how: str
    row: int
    place: int


NOT_FOUND = Found("", -1, -1)


def describe_match(
    columns: Mapping[str, Sequence[str]],
    found: Sequence[Found],
    settled: Sequence[Found],
    *,
    n_table: int,
    summed: Sequence[bool],
) -> str:
    """Say how many genes match, by what, and which do not.

    Parameters
    ----------
    columns
        Names of the input genes, each (n_input_genes,), by where they stand.
    found
        (n_input_genes,) what each gene was found as.
    settled
        (n_input_genes,) the same after each gene of the table was left to one of them.
    n_table
        Genes of the table.
    summed
        (n_input_genes,) whether a gene is added to an earlier one of the same name.
    """
    n_input = len(settled)
    hits = [one for one in settled if one.row >= 0]
    kinds = Counter(one.how for one in hits)
    places = Counter(one.place for one in hits)
    sources = list(columns)
    index = next(iter(columns.values()))
    head = (
        f"genes: {len(hits):,} of {n_input:,} match the table's {n_table:,} ({len(hits) / max(1, n_input):.1%}): "
        f"{kinds['ensembl']:,} by Ensembl id, {kinds['symbol']:,} by symbol, {kinds['synonym']:,} by synonym"
    )
    where = ", ".join(f"{sources[place]} ({n:,})" for place, n in sorted(places.items()))
    lines = [head, f"names found in {where}"]
    missed = [index[i] for i, one in enumerate(found) if one.row < 0 and not summed[i]]
    if missed:
        lines.append(f"not in the table: {len(missed):,}, e.g. {show_some(missed, limit=EXAMPLES)}")
    lost = [index[i] for i, one in enumerate(settled) if one.row < 0 <= found[i].row]
    if lost:
        examples = show_some(lost, limit=EXAMPLES)
        lines.append(f"left out, being the same gene of the table as another one here: {len(lost):,}, e.g. {examples}")
    if any(summed):
        lines.append(f"added to an earlier gene of the same name: {sum(summed):,}")
    return "\n".join(lines)


def refusal(
    var: pd.DataFrame,
    table: pd.DataFrame,
    columns: Mapping[str, Sequence[str]],
    *,
    n_matched: int,
    min_match: float,
    source: str,
    is_known: Callable[[str], bool],
) -> str:
    """Say that too few genes match, and the likely reason.

    Parameters
    ----------
    var
        (n_input_genes, …) all that is known of the input genes.
    table
        (n_table, …) ``obs`` of the gene table.
    columns
        Names of the input genes, by where they stand.
    n_matched
        How many matched.
    min_match
        What was wanted.
    source
        What the input is called.
    is_known
        Whether the table knows a name.
    """
    n_input = len(var)
    index = next(iter(columns.values()))
    symbols = [str(name) for name in table["symbol"]]
    share = n_matched / n_input if n_input else 0.0
    begin = (
        f"{source}: {n_matched:,} of {n_input:,} genes ({share:.1%}) match the gene table's {len(table):,}; "
        f"wanted are {min_match:.0%} of the smaller. Names here: {show_some(index, limit=EXAMPLES)}; in "
        f"the table: {show_some(symbols, limit=EXAMPLES)}."
    )
    theirs = guess_organism(name for names in columns.values() for name in names)
    ours = _table_organism(table)
    if theirs and ours and theirs != ours:
        return (
            f"{begin} The cells look like {theirs} and the table like {ours}: build a table for {theirs} "
            f"with 'scstore genes build --organism {theirs}' and pass it with --genes; or extract them as their "
            f"{ours} orthologs (--orthologs FILE)."
        )
    for column in var.columns:
        if f"var column {str(column)!r}" in columns or not _holds_text(var[column]):
            continue
        names = [str(name) for name in var[column].dropna()]
        hits = sum(map(is_known, names))
        if hits > n_matched and hits >= min_match * min(n_input, len(table)):
            return (
                f"{begin} The var column {show(column)} holds names that the table knows "
                f"({hits / n_input:.1%}), but its title does not say so: rename it to 'gene_ids' or "
                "'gene_symbols'."
            )
    if all(name.isdecimal() for name in index):
        return f"{begin} The genes are only numbered: put their symbols or Ensembl ids into the index of var."
    return (
        f"{begin} Use a table of the same organism and naming (--genes); names are looked for in "
        f"{', '.join(columns)}. If so few are expected, lower --min-match."
    )


def _table_organism(table: pd.DataFrame) -> str | None:
    if "organism" in table:
        said = {common_name(str(name)) for name in table["organism"].dropna()} - {""}
        if len(said) == 1:
            return said.pop()
    return guess_organism(str(name) for name in table["symbol"])


def _holds_text(column: pd.Series) -> bool:
    return column.dtype == object or isinstance(column.dtype, (pd.CategoricalDtype, pd.StringDtype))
