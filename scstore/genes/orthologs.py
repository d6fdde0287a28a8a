"""One-to-one orthologs of human and mouse, and cells of one species read with the gene names of the other."""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.cells.gene_names import ENSEMBL_ID
from scstore.errors import GenesError, OptionError, show, show_some
from scstore.genes import matching
from scstore.genes.matching import GeneMatch, common_name, describe_genes, gene_names, guess_organism, match_genes
from scstore.genes.published import TAXA, read_columns, read_gene_info
from scstore.genes.table import DescribedGenes
from scstore.progress import Reporter
from scstore.sealed import canonical_json
from scstore.untrusted.guards import open_unpacked, read_unpacked, reading

KEYS = ("symbol", "ensembl_id")
COLUMNS = ("human_symbol", "human_ensembl_id", "mouse_symbol", "mouse_ensembl_id")
NCBI_COLUMNS = ("#tax_id", "GeneID", "relationship", "Other_tax_id", "Other_GeneID")
GENE_INFO_FILES = {"human": "Homo_sapiens.gene_info", "mouse": "Mus_musculus.gene_info"}
KNOWN = "NCBI's gene_orthologs, and a CSV or TSV of two columns, human gene and mouse gene (symbols or Ensembl ids)"


def other_organism(organism: str) -> str:
    return next(name for name in TAXA if name != organism)


@dataclass(frozen=True, eq=False)
class Orthologs:
    """Pairs of human and mouse genes, each gene in one pair; strings, empty where unknown."""

    pairs: pd.DataFrame

    @cached_property
    def digest(self) -> str:
        return fsio.digest_bytes(canonical_json(sorted(self.pairs[list(COLUMNS)].to_numpy().tolist())).encode())

    def symbols(self, organism: str) -> dict[str, str]:
        return {name: symbol for name, (symbol, _) in self.names(organism, ("symbol",)).items() if symbol}

    def names(self, organism: str, keys: Sequence[str] = KEYS) -> dict[str, tuple[str, str]]:
        """The other organism's symbol and Ensembl id (either may be empty) by symbol or Ensembl id of this one."""
        other, found = other_organism(organism), dict[str, tuple[str, str]]()
        for names in (self.pairs[f"{organism}_{key}"] for key in keys):
            clear = (names != "") & ~names.duplicated(keep=False)  # a symbol of two genes is ambiguous
            targets = self.pairs.loc[clear, [f"{other}_symbol", f"{other}_ensembl_id"]]
            found |= dict(zip(names[clear], targets.itertuples(index=False, name=None), strict=True))
        return found


def read_orthologs(path: str | os.PathLike[str], *, gene_info: Mapping[str, pd.DataFrame] | None = None) -> Orthologs:
    """Read one-to-one pairs from NCBI's ``gene_orthologs`` (symbols from ``gene_info``) or a CSV of two columns."""
    file = Path(path)
    with reading(file, "the table of orthologs", error=GenesError, cure=f"Known are {KNOWN}."):
        with open_unpacked(file) as handle:
            is_ncbi = handle.read(7) == b"#tax_id"
        found = _from_ncbi(file, gene_info) if is_ncbi else _from_two_columns(file)
    if found.empty:
        raise GenesError(f"{file}: contains no pair of one human and one mouse gene. Known are {KNOWN}.")
    return Orthologs(found)


def _one_to_one(human: pd.Series, mouse: pd.Series) -> pd.DataFrame:
    """Return the pairs of which neither gene is missing or occurs in another pair."""
    pairs = pd.DataFrame({"human": human, "mouse": mouse}).drop_duplicates()
    pairs = pairs[(pairs != "").all(axis=1)]
    single = ~pairs["human"].duplicated(keep=False) & ~pairs["mouse"].duplicated(keep=False)
    return pairs[single].reset_index(drop=True)


def _from_ncbi(file: Path, gene_info: Mapping[str, pd.DataFrame] | None) -> pd.DataFrame:
    taxa = {organism: str(taxon) for organism, taxon in TAXA.items()}
    rows = read_columns(file, NCBI_COLUMNS, taxa=set(taxa.values()))
    rows = rows[rows["Other_tax_id"].isin(taxa.values()) & (rows["relationship"] == "Ortholog")]
    rows = rows[rows["#tax_id"] != rows["Other_tax_id"]]
    one, other = rows["GeneID"], rows["Other_GeneID"]
    forwards = rows["#tax_id"] == taxa["human"]
    pairs = _one_to_one(one.where(forwards, other), other.where(forwards, one))
    named = {}
    for organism in TAXA:
        genes = (gene_info or {}).get(organism)
        genes = _gene_info_beside(file, organism) if genes is None else genes
        named[organism] = genes.drop_duplicates("gene_id").set_index("gene_id")
    return pd.DataFrame({f"{o}_{key}": pairs[o].map(named[o][key]).fillna("") for o in TAXA for key in KEYS})


def _gene_info_beside(file: Path, organism: str) -> pd.DataFrame:
    name = GENE_INFO_FILES[organism]
    for candidate in (file.with_name(f"{name}.gz"), file.with_name(name)):
        if candidate.is_file():
            return read_gene_info(candidate, organism=organism)
    cure = f"Put NCBI's {name}.gz beside it, or give a CSV of human and mouse symbols."
    raise GenesError(f"{file}: identifies genes by NCBI's GeneID only. {cure}")


def _from_two_columns(file: Path) -> pd.DataFrame:
    """Read human and mouse genes side by side; a header that mentions the organisms sets their order."""
    with io.BytesIO(read_unpacked(file)) as handle:
        separator = "\t" if b"\t" in handle.readline(1 << 16) else ","
        handle.seek(0)
        rows = pd.read_csv(handle, sep=separator, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    if rows.shape[1] != 2:
        raise ValueError(f"it has {rows.shape[1]} columns")
    titles = [str(title).casefold() for title in rows.iloc[0]]
    order = list(TAXA)
    if any(organism in title for organism in TAXA for title in titles):
        order = order[::-1] if "mouse" in titles[0] or "human" in titles[1] else order
        rows = rows.iloc[1:]
    names = rows.apply(lambda column: column.str.strip().str.replace(f"^{ENSEMBL_ID.pattern}$", r"\1", regex=True))
    names = names.set_axis(order, axis=1)
    pairs = _one_to_one(names["human"], names["mouse"])
    is_id = pairs.apply(lambda column: column.str.fullmatch(ENSEMBL_ID.pattern))
    found = {(o, key): pairs[o].where(is_id[o] == (key == "ensembl_id"), "") for o in TAXA for key in KEYS}
    return pd.DataFrame({f"{o}_{key}": column for (o, key), column in found.items()})


@dataclass(frozen=True, eq=False)
class Translation:
    orthologs: Orthologs
    organism: str

    @property
    def record(self) -> dict[str, str]:
        return {"digest": self.orthologs.digest, "from": self.organism, "to": other_organism(self.organism)}


@dataclass(frozen=True, eq=False)
class RenamedGenes:
    var: pd.DataFrame  # of the genes that have an ortholog, with its names
    columns: NDArray[np.int64]  # theirs in the input, ascending
    report: str


def rename_by_orthologs(var: pd.DataFrame, translation: Translation, *, source: str = "cells") -> RenamedGenes:
    """Give each gene of an input the names of its ortholog, looked up by Ensembl id, else by symbol."""
    names, _ = gene_names(var, sum_duplicates=True, source=source)
    organism, known = translation.organism, translation.orthologs.names(translation.organism)
    keys = zip(names["ensembl_id"], names["symbol"], names["name"], strict=True)
    pairs = [next((known[key] for key in own if key in known), ("", "")) for own in keys]
    found = pd.DataFrame(pairs, columns=["symbol", "gene_ids"])
    columns = np.flatnonzero((found != "").any(axis=1))
    if not len(columns):
        none = f"none of {len(var):,} genes ({show_some(names['name'])}) is among the {organism} genes of orthologs="
        raise GenesError(f"{source}: {none}. Check organism=, or give a table with the names that the cells have.")
    found = found.iloc[columns]
    symbols = found["symbol"].where(found["symbol"] != "", found["gene_ids"])
    other, dropped = other_organism(organism), np.delete(names["name"].to_numpy(), columns)
    report = f"orthologs: {len(columns):,} of {len(var):,} {organism} genes are read as their {other} orthologs"
    if len(dropped):
        report += f"; without one, and left out: {len(dropped):,}, e.g. {show_some(dropped)}"
    return RenamedGenes(found[["gene_ids"]].set_axis(symbols.tolist()), columns, report)


def needed_translation(
    path: str | os.PathLike[str],
    var: pd.DataFrame,
    *,
    organism: str | None,
    table: pd.DataFrame | None,
    panel: pd.DataFrame | None,
    source: str,
    progress: Reporter,
) -> Translation | None:
    """Read orthologs if the cells are of another species than the gene table or, without one, the panel."""
    if table is None and panel is None:
        raise OptionError(f"orthologs={str(path)!r} needs genes= or panel=, which have the species to translate into.")
    held = [matching.organism_of_table(genes) for genes in (table, panel) if genes is not None]
    target = next(filter(None, held), None)
    if target not in TAXA:
        like = f"are of {show(target)}" if target else "look like neither"
        raise GenesError(f"orthologs= gives human or mouse genes, and those of genes= or panel= {like}.")
    names = gene_names(var, sum_duplicates=True)[0].to_numpy().ravel()
    own = common_name(organism) if organism else guess_organism(names)
    if own not in TAXA:
        like = f"are of {show(own)}" if own else "look like neither"
        cure = "Name them by symbols or Ensembl ids, or set organism=."
        raise GenesError(f"{source}: orthologs= translates human and mouse genes, and these {like}. {cure}")
    if own == target:
        progress.note(f"orthologs: not needed, the cells are {target} like the genes they are matched with")
        return None
    return Translation(read_orthologs(path), own)


def match_translated(
    var: pd.DataFrame, table: pd.DataFrame, *, translation: Translation, source: str = "cells", **how: Any
) -> GeneMatch:
    """Find the cells' genes by their orthologs' names; those without one do not count for ``min_match``."""
    renamed = rename_by_orthologs(var, translation, source=source)
    match = match_genes(renamed.var, table, source=source, **how)
    rows, groups = np.full(len(var), -1, dtype=np.int64), None
    rows[renamed.columns] = match.table_rows
    if match.groups is not None:
        groups = np.arange(len(var), dtype=np.int64)
        groups[renamed.columns] = renamed.columns[match.groups]
    return replace(match, table_rows=rows, groups=groups, report=f"{renamed.report}\n{match.report}")


def describe_translated(var: pd.DataFrame, translation: Translation) -> DescribedGenes:
    renamed = rename_by_orthologs(var, translation).var
    return describe_genes(renamed, organism=other_organism(translation.organism))
