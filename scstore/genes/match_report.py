"""Reports of a match of genes: how good it is, or why it is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from scstore.escaping import show, show_some
from scstore.genes.species import common_name, guess_organism

# Kinds of match, the best first.
KINDS = ("ensembl", "symbol", "synonym")

EXAMPLES = 5


@dataclass(frozen=True)
class Found:
    """An input gene in the table: kind of match, row of the table, and which of the gene's names was found."""

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
    """Report how many genes match, by what, and which do not.

    ``columns`` are the names of the input genes by their source; ``found`` is each gene's match, ``settled`` the same
    after each gene of the table was left to one of them; ``summed`` marks genes that are added to an earlier one.
    """
    hits = [one for one in settled if one.row >= 0]
    kinds, places = Counter(one.how for one in hits), Counter(one.place for one in hits)
    sources, index = list(columns), next(iter(columns.values()))
    where = ", ".join(f"{sources[place]} ({n:,})" for place, n in sorted(places.items()))
    head = (
        f"genes: {len(hits):,} of {len(settled):,} match the table's {n_table:,} "
        f"({len(hits) / max(1, len(settled)):.1%}): {kinds['ensembl']:,} by Ensembl id, {kinds['symbol']:,} by symbol, "
        f"{kinds['synonym']:,} by synonym"
    )
    lines = [head, f"names found in {where}"]
    missed = [index[i] for i, one in enumerate(found) if one.row < 0 and not summed[i]]
    lost = [index[i] for i, one in enumerate(settled) if one.row < 0 <= found[i].row]
    for names, what in (
        (missed, "not in the table"),
        (lost, "left out, being the same gene of the table as another one here"),
    ):
        if names:
            lines.append(f"{what}: {len(names):,}, e.g. {show_some(names, limit=EXAMPLES)}")
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
    """Report that too few genes match, and the likely reason; ``is_known`` looks a name up in the table."""
    n_input, index = len(var), next(iter(columns.values()))
    begin = (
        f"{source}: {n_matched:,} of {n_input:,} genes ({n_matched / max(1, n_input):.1%}) match the gene table's "
        f"{len(table):,}; wanted are {min_match:.0%} of the smaller. Names here: {show_some(index, limit=EXAMPLES)}; "
        f"in the table: {show_some(table['symbol'].astype(str), limit=EXAMPLES)}."
    )
    theirs = guess_organism(name for names in columns.values() for name in names)
    ours = _table_organism(table)
    if theirs and ours and theirs != ours:
        return (
            f"{begin} The cells look like {theirs} and the table like {ours}: build a table for {theirs} (scstore "
            f"genes build --organism {theirs}) and give it as genes=, or extract the cells as their {ours} orthologs "
            "with orthologs=."
        )
    for column in var.columns:
        if f"var column {str(column)!r}" in columns or not _holds_text(var[column]):
            continue
        hits = sum(is_known(str(name)) for name in var[column].dropna())
        if hits > n_matched and hits >= min_match * min(n_input, len(table)):
            return (
                f"{begin} The var column {show(column)} has names that the table knows ({hits / n_input:.1%}), but its "
                "title does not show it: rename it to 'gene_ids' or 'gene_symbols'."
            )
    if all(name.isdecimal() for name in index):
        return f"{begin} The genes are only numbered: put their symbols or Ensembl ids into the index of var."
    return (
        f"{begin} Use a table of the same organism and naming (genes=); names are looked for in {', '.join(columns)}. "
        f"If so few are expected, lower min_match={min_match:g}."
    )


def _table_organism(table: pd.DataFrame) -> str | None:
    if "organism" in table:
        named = {common_name(str(name)) for name in table["organism"].dropna()} - {""}
        if len(named) == 1:
            return named.pop()
    return guess_organism(map(str, table["symbol"]))


def _holds_text(column: pd.Series) -> bool:
    return column.dtype == object or isinstance(column.dtype, (pd.CategoricalDtype, pd.StringDtype))
