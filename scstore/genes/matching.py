"""Genes of an input found in a gene table by Ensembl id, symbol or synonym; their organism; the report of the match."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scstore.cells.gene_names import ENSEMBL_ID, PLACEHOLDER, find_names, name_columns, stable_id, strings
from scstore.errors import GenesError, show, show_some
from scstore.genes.table import DescribedGenes, describe_by_symbol

# CD3D, HLA-A, AL627309.1, C1orf112
HUMAN = re.compile(r"[A-Z0-9][A-Z0-9.-]*[A-Z][A-Z0-9.-]*|[A-Z][A-Z0-9.-]+|C(\d+|X|Y)orf\d+")
# Cd3d, H2-Ab1, mt-Nd1, 1700001A01Rik
MOUSE = re.compile(r"[A-Z][A-Za-z0-9.-]*[a-z][A-Za-z0-9.-]*|mt-[A-Z]\w*|\w+Rik")
COMMON = {"homo sapiens": "human", "9606": "human", "mus musculus": "mouse", "10090": "mouse"}
ENSEMBL = re.compile(r"ENS([A-Z]*)G\d+")


def guess_organism(names: Iterable[str]) -> str | None:
    """Return ``"human"`` or ``"mouse"`` if over half of the telling names say so; rat is known by Ensembl ids alone."""
    votes = Counter(vote for name in names if (vote := _vote(str(name))))
    if not votes:
        return None
    winner, most = votes.most_common(1)[0]
    return winner if winner != "other" and 2 * most > votes.total() else None


def organism_of_table(table: pd.DataFrame) -> str | None:
    """Return the organism of a gene table, as written there or else guessed; ``None`` for several, or if unclear."""
    held = organisms_of(table)
    return guess_organism(table["symbol"]) if not held else held[0] if len(held) == 1 else None


def organisms_of(table: pd.DataFrame) -> list[str]:
    return sorted({*map(common_name, strings(table["organism"]))} - {""}) if "organism" in table else []


def common_name(organism: str) -> str:
    """Return ``"human"`` or ``"mouse"`` for the usual ways to write these two, other organisms in small letters."""
    name = organism.strip().casefold().replace("_", " ")
    return COMMON.get(name, name)


def _vote(name: str) -> str:
    if found := ENSEMBL.match(name):
        return {"": "human", "MUS": "mouse"}.get(found[1], "other")
    # one letter, or one letter and digits (C3, F2), is spelled alike in both
    if len(re.findall("[A-Za-z]", name)) < 2:
        return ""
    if HUMAN.fullmatch(name):
        return "human"
    return "mouse" if MOUSE.fullmatch(name) else ""


Mask = NDArray[np.bool_]
KINDS = {"ensembl": "Ensembl id", "symbol": "symbol", "synonym": "synonym"}  # of match, the best first
EXAMPLES = 5
OTHER_TABLE = "Use a table of the same organism and naming (genes=)"


@dataclass(frozen=True, eq=False)
class GeneMatch:
    table_rows: NDArray[np.int64]  # (n_input_genes,): rows of the table, or -1
    n_table: int
    genes: NDArray[np.int64]  # rows of the table that are present, ascending
    report: str
    groups: NDArray[np.int64] | None = None  # (n_input_genes,): the column that each one's counts are added to

    def apply(self, rows: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the matched columns of summed rows as (n, len(genes)) float32, in the order of the table."""
        if self.groups is not None and (self.groups[rows.indices] != rows.indices).any():
            raise GenesError("Columns of one gene are not summed yet: use lognorm_rows(…, groups=match.groups).")
        matched = np.flatnonzero(self.table_rows >= 0)
        taken = rows[:, matched[np.argsort(self.table_rows[matched])]].astype(np.float32)
        taken.sort_indices()
        return taken

    def align(self, rows: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return all columns of the table as (n, n_table) float32, those without a match zero."""
        taken = self.apply(rows)
        parts = (taken.data, self.genes[taken.indices], taken.indptr)
        return sparse.csr_matrix(parts, shape=(taken.shape[0], self.n_table))


def _find(columns: Mapping[str, Sequence[str]], known: Mapping[str, Mapping[str, int]]) -> pd.DataFrame:
    """Return ``row`` of the table (-1 for none), ``kind`` and ``source`` of each gene: best kind, then first column."""
    n_genes = len(next(iter(columns.values())))
    row, kind, source = np.full(n_genes, -1), np.full(n_genes, "", dtype=object), np.full(n_genes, "", dtype=object)
    for this_kind, row_of in known.items():
        for this_source, names in columns.items():
            looked_up = map(stable_id, names) if this_kind == "ensembl" else names
            rows = np.array([row_of.get(name, -1) for name in looked_up], dtype=np.int64)
            new = (row < 0) & (rows >= 0)
            row[new], kind[new], source[new] = rows[new], this_kind, this_source
    return pd.DataFrame({"row": row, "kind": kind, "source": source})


def match_genes(
    var: pd.DataFrame,
    table: pd.DataFrame,
    *,
    min_match: float = 0.3,
    sum_duplicates: bool = False,
    source: str = "cells",
    cure: str = OTHER_TABLE,
) -> GeneMatch:
    """Find each input gene in a gene table, the ``obs`` of one; at least ``min_match`` of the smaller side must match.

    By its Ensembl id (without version), else by its exact symbol, else by a synonym that means one gene only and is no
    other gene's symbol, in the index of ``var`` and its usual columns. Of two input genes that are one gene of the
    table, the better kind of match wins, then the first. Genes of one name are refused, or summed.
    """
    columns = _identifier_columns(var)
    groups = _group_duplicates(columns, sum_duplicates=sum_duplicates, source=source)
    if len(held := organisms_of(table)) > 1:
        raise GenesError(f"{source}: the gene table has genes of {' and '.join(held)}. Give a table of one of them.")
    known = _table_names(table)
    leads = np.ones(len(var), bool) if groups is None else groups == np.arange(len(var))
    found = _find(columns, known)
    found.loc[~leads, "row"] = -1
    # each gene of the table is left to one input gene: the best kind of match, then the first
    best = found[found["row"] >= 0].sort_values("kind", kind="stable", key=lambda kinds: kinds.map(list(KINDS).index))
    kept = found.index.isin(best.drop_duplicates("row").index)
    n_matched = int(kept.sum())
    if not n_matched or n_matched < min_match * min(len(var), len(table)):
        about = _refusal(var, table, columns, n_matched=n_matched, min_match=min_match, known=known, cure=cure)
        raise GenesError(f"{source}: {about}")
    rows = np.where(kept, found["row"], -1)
    report = _describe_match(columns, found, kept, leads, n_table=len(table))
    return GeneMatch(rows, len(table), np.unique(rows[kept]), report, groups)


def match_columns(
    genes: pd.DataFrame, wanted: Mapping[str, Sequence[str]], *, min_match: float = 0.0, source: str
) -> GeneMatch:
    table = pd.DataFrame({key: list(wanted[key]) for key in ("symbol", "ensembl_id")}, dtype=str)
    return match_genes(genes, table.rename(index=str), min_match=min_match, source=source)


def gene_names(
    var: pd.DataFrame, *, sum_duplicates: bool = False, source: str = "cells"
) -> tuple[pd.DataFrame, NDArray[np.int64] | None]:
    """Return ``name``, ``symbol`` (else the name) and ``ensembl_id`` of an input's genes, and ``groups``."""
    columns = _identifier_columns(var)
    groups = _group_duplicates(columns, sum_duplicates=sum_duplicates, source=source)
    found, _ = find_names(var)
    names = pd.DataFrame({"name": strings(var.index.to_series()), "ensembl_id": found["ensembl_id"].tolist()})
    names.insert(1, "symbol", np.where(found["symbol"] != "", found["symbol"], found.index).astype(object))
    return names, groups


def _identifier_columns(var: pd.DataFrame) -> dict[str, list[str]]:
    columns = {"the var index": strings(var.index.to_series())}
    return columns | {f"var column {str(title)!r}": strings(var[title]) for title in name_columns(var).values()}


def _group_duplicates(
    columns: Mapping[str, Sequence[str]], *, sum_duplicates: bool, source: str
) -> NDArray[np.int64] | None:
    """Return for each input gene the first gene of the same name; ``None`` if no name repeats."""
    per_gene = list(zip(*columns.values(), strict=True))
    # one symbol with two Ensembl ids is two genes
    ids = [next((stable_id(name) for name in names if ENSEMBL_ID.fullmatch(name)), "") for names in per_gene]
    numbers = pd.Series(range(len(per_gene)), dtype=np.int64)
    first = numbers.groupby([[stable_id(names[0]) for names in per_gene], ids], sort=False).transform("first")
    groups: NDArray[np.int64] = first.to_numpy()
    repeated = np.flatnonzero(groups != np.arange(len(groups)))
    if not len(repeated):
        return None
    if not sum_duplicates:
        shared = list(dict.fromkeys(per_gene[column][0] for column in repeated.tolist()))
        cure = "Make them unique, or add up their counts with sum_duplicate_genes=True."
        if 3 * len(repeated) > len(groups):
            cure = f"If they are probes, give filtered_feature_bc_matrix.h5 of the same run. {cure}"
        found = f"{show_some(shared)} ({len(shared):,} in all)"
        raise GenesError(f"{source}: gene names occur more than once: {found}. {cure}")
    return groups


def _table_names(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return the rows of a table by name, for each kind of match, the best first."""
    read = ("symbol", "ensembl_id", "synonyms")
    symbols, ids, synonyms = (strings(table[name]) if name in table else [""] * len(table) for name in read)
    ensembl, symbol = _first_rows(map(stable_id, ids)), _first_rows(symbols)
    pairs = pd.Series(synonyms, dtype=object).str.split("|").explode().str.strip().reset_index().drop_duplicates()
    single = pairs[~pairs[0].duplicated(keep=False)].itertuples(index=False, name=None)
    synonym = {name: row for row, name in single if name and name not in symbol}
    return dict(zip(KINDS, (ensembl, symbol, synonym), strict=True))


def _first_rows(names: Iterable[str]) -> dict[str, int]:
    return {name: row for row, name in reversed(list(enumerate(names))) if name}


def _describe_match(
    columns: Mapping[str, Sequence[str]], found: pd.DataFrame, kept: Mask, leads: Mask, *, n_table: int
) -> str:
    """Report how many genes match, by what, and which do not; genes that do not lead are added to an earlier one."""
    n_kept, index = int(kept.sum()), np.array(next(iter(columns.values())), dtype=object)
    kinds, sources = Counter(found.loc[kept, "kind"]), Counter(found.loc[kept, "source"])
    by = ", ".join(f"{kinds[kind]:,} by {word}" for kind, word in KINDS.items())
    smaller = min(len(found), n_table)
    here, table = f"{len(found):,} here", f"the table's {n_table:,}"
    of, among = (table, here) if n_table < len(found) else (here, table)
    lines = [
        f"genes: {n_kept:,} of {of} match, among {among} ({n_kept / max(1, smaller):.1%} of the smaller side): {by}",
        f"names found in {', '.join(f'{name} ({sources[name]:,})' for name in columns if sources[name])}",
    ]
    hit = found["row"].to_numpy() >= 0
    for names, what in (
        (index[~hit & leads], "not in the table"),
        (index[hit & ~kept], "left out, being the same gene of the table as another one here"),
    ):
        if len(names):
            lines.append(f"{what}: {len(names):,}, e.g. {show_some(names, limit=EXAMPLES)}")
    if not leads.all():
        lines.append(f"added to an earlier gene of the same name: {(~leads).sum():,}")
    return "\n".join(lines)


def _refusal(
    var: pd.DataFrame,
    table: pd.DataFrame,
    columns: Mapping[str, Sequence[str]],
    *,
    n_matched: int,
    min_match: float,
    known: Mapping[str, Mapping[str, int]],
    cure: str,
) -> str:
    """Report that too few genes match, and the likely reason; ``known`` are the names in the table by kind."""
    n_input, index = len(var), next(iter(columns.values()))
    matched = f"{n_matched:,} of {n_input:,} genes ({n_matched / max(1, n_input):.1%})"
    here, there = (show_some(names, limit=EXAMPLES) for names in (index, table["symbol"].astype(str)))
    begin = f"{matched} match the gene table's {len(table):,}; wanted are {min_match:.0%} of the smaller."
    begin += f" Names here: {here}; in the table: {there}."
    theirs = guess_organism(name for names in columns.values() for name in names)
    ours = organism_of_table(table)
    if theirs and ours and theirs != ours:
        table_too = f"Give a table for {theirs} as genes=, or extract" if cure == OTHER_TABLE else "Extract"
        other = f"{table_too} the cells as their {ours} orthologs with orthologs=."
        return f"{begin} The cells look like {theirs} and the table like {ours}. {other}"
    for column in var.columns:
        if f"var column {str(column)!r}" in columns or pd.api.types.is_numeric_dtype(var[column]):
            continue
        hits = int((_find({"": strings(var[column])}, known)["row"] >= 0).sum())
        if hits > n_matched and hits >= min_match * min(n_input, len(table)):
            knows = f"{show(column)} has names that the table knows ({hits / n_input:.1%})"
            return f"{begin} The var column {knows}: rename it to 'gene_ids' or 'gene_symbols'."
    share = np.floor(100 * n_matched / max(1, min(n_input, len(table)))) / 100
    looked = [name for name, names in columns.items() if any(names)]
    lower = f", or let these in with min_match={share:g}" if share else ""
    return f"{begin} Names are looked for in {', '.join(looked)}. {cure}{lower}."


def describe_genes(var: pd.DataFrame, *, organism: str | None = None, source: str = "cells") -> DescribedGenes:
    """Describe the cells' genes by their symbols; other names say nothing to a language model (GenesError)."""
    names = gene_names(var, sum_duplicates=True)[0].drop_duplicates("symbol")
    unknown = [name for name in names["symbol"] if ENSEMBL_ID.fullmatch(name) or PLACEHOLDER.fullmatch(name)]
    if 2 * len(unknown) > len(names):
        why = f"{len(unknown):,} of {len(names):,} genes have no symbol, only names like {show(unknown[0])}"
        cure = "Put symbols into a column 'gene_symbols' of var, or give a table that knows the ids (genes=)."
        raise GenesError(f"{source}: {why}, which tell a language model nothing. {cure}")
    return describe_by_symbol(
        names["symbol"], ensembl_ids=names["ensembl_id"], organism=organism or guess_organism(names["symbol"]) or ""
    )
