"""One-to-one orthologs of human and mouse, from the files that NCBI, MGI and Ensembl publish, or a table of symbols."""

from __future__ import annotations

import csv
import io
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from scstore import fsio
from scstore.errors import GenesError
from scstore.genes.ncbi import TAXA, read_columns, read_gene_info
from scstore.spec import canonical_json
from scstore.untrusted.unpacking import open_unpacked

__all__ = ["Orthologs", "other_organism", "read_orthologs"]

KEYS = ("gene_id", "ensembl_id", "symbol")
"""What a gene may be told apart by, the surest first."""

COLUMNS = tuple(f"{organism}_{key}" for organism in TAXA for key in KEYS)
NCBI_COLUMNS = ("#tax_id", "GeneID", "relationship", "Other_tax_id", "Other_GeneID")
GENE_INFO_FILES = {"human": "Homo_sapiens.gene_info", "mouse": "Mus_musculus.gene_info"}
BIOMART = re.compile(r"(?:(human|mouse) )?gene (name|stable id)( version)?", re.IGNORECASE)
KNOWN = (
    "NCBI's gene_orthologs, MGI's HOM_MouseHumanSequence.rpt, an Ensembl BioMart export with a header (Gene name, "
    "Mouse gene name), and a CSV of two columns, human symbol and mouse symbol"
)


def other_organism(organism: str) -> str:
    """Mouse for human, human for mouse."""
    return next(name for name in TAXA if name != organism)


@dataclass(frozen=True, eq=False)
class Orthologs:
    """Pairs of human and mouse genes, each gene in one pair.

    Attributes
    ----------
    pairs
        ``(n_pairs,)`` rows of ``human_symbol``, ``human_ensembl_id``, ``human_gene_id`` and the same of the mouse, all
        strings, empty where the file does not say.
    """

    pairs: pd.DataFrame

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the pairs, in any order."""
        rows = sorted(self.pairs[list(COLUMNS)].itertuples(index=False, name=None))
        return fsio.digest_bytes(canonical_json([list(row) for row in rows]).encode())

    def symbols(self, organism: str) -> dict[str, str]:
        """The other organism's symbol by the symbol of this one, where each has one."""
        return {name: symbol for name, (symbol, _) in self._named(organism, "symbol").items() if symbol}

    def names(self, organism: str) -> dict[str, tuple[str, str]]:
        """The other organism's symbol and Ensembl id (either may be empty) by symbol or Ensembl id of this one."""
        return {**self._named(organism, "symbol"), **self._named(organism, "ensembl_id")}

    def _named(self, organism: str, key: str) -> dict[str, tuple[str, str]]:
        names = self.pairs[f"{organism}_{key}"]
        # a symbol that two genes share says nothing about which of them is meant
        clear = self.pairs[(names != "") & ~names.duplicated(keep=False)]
        other = other_organism(organism)
        targets = zip(clear[f"{other}_symbol"], clear[f"{other}_ensembl_id"], strict=True)
        return dict(zip(clear[f"{organism}_{key}"], targets, strict=True))


def read_orthologs(path: str | os.PathLike[str], *, gene_info: Mapping[str, pd.DataFrame] | None = None) -> Orthologs:
    """Read one-to-one orthologs of human and mouse; what the file is, is told by its header.

    Parameters
    ----------
    path
        NCBI's ``gene_orthologs``, MGI's ``HOM_MouseHumanSequence.rpt``, an Ensembl BioMart export (TSV or CSV with a
        header such as ``Gene stable ID``, ``Gene name``, ``Mouse gene stable ID``, ``Mouse gene name``, ``Mouse
        homology type``), or a CSV of human symbol and mouse symbol, with or without a header. Any of them gzipped.
    gene_info
        Genes by organism (:func:`scstore.genes.ncbi.read_gene_info`), which give NCBI's GeneIDs their symbols. By
        default NCBI's ``gene_info`` files that lie beside a ``gene_orthologs``.

    Returns
    -------
    Orthologs
        Genes with several orthologs, and those without one, are left out.

    Raises
    ------
    GenesError
        If the file is of no such form, or holds no pair.
    """
    file = Path(path)
    header = _header(file)
    if {"#tax_id", "Other_GeneID"} <= set(header):
        found = _from_ncbi(file, gene_info)
    elif {"NCBI Taxon ID", "Symbol"} <= set(header):
        found = _from_mgi(file, header[0])
    elif any(match and match[1] for match in map(BIOMART.fullmatch, header)):
        found = _from_biomart(file)
    else:
        found = _from_symbols(file)
    pairs = _one_to_one(found.reindex(columns=list(COLUMNS), fill_value=""))
    if pairs.empty:
        msg = f"{file}: holds no pair of one human and one mouse gene. Known are {KNOWN}."
        raise GenesError(msg)
    return Orthologs(pairs)


def _one_to_one(found: pd.DataFrame) -> pd.DataFrame:
    """The rows in which either gene occurs in no other pair."""
    keys = {}
    for organism in TAXA:
        key = pd.Series("", index=found.index)
        for column in reversed(KEYS):
            named = found[f"{organism}_{column}"]
            key = key.where(named == "", named)
        keys[organism] = key
    both = pd.DataFrame(keys)
    # the same pair may stand there once a transcript
    complete = (both != "").all(axis=1) & ~both.duplicated()
    both, found = both[complete], found[complete]
    single = ~both["human"].duplicated(keep=False) & ~both["mouse"].duplicated(keep=False)
    return found[single].reset_index(drop=True)


def _from_ncbi(file: Path, gene_info: Mapping[str, pd.DataFrame] | None) -> pd.DataFrame:
    taxa = {organism: str(taxon) for organism, taxon in TAXA.items()}
    rows = read_columns(file, NCBI_COLUMNS, taxa=set(taxa.values()))
    rows = rows[rows["Other_tax_id"].isin(taxa.values()) & (rows["relationship"] == "Ortholog")]
    forwards = rows["#tax_id"] == taxa["human"]
    rows = rows[rows["#tax_id"] != rows["Other_tax_id"]]
    ids = pd.DataFrame(
        {
            "human_gene_id": rows["GeneID"].where(forwards, rows["Other_GeneID"]),
            "mouse_gene_id": rows["Other_GeneID"].where(forwards, rows["GeneID"]),
        }
    )
    for organism in TAXA:
        genes = (gene_info or {}).get(organism)
        genes = _gene_info_beside(file, organism) if genes is None else genes
        named = genes.drop_duplicates("gene_id").set_index("gene_id")
        for key in ("symbol", "ensembl_id"):
            ids[f"{organism}_{key}"] = ids[f"{organism}_gene_id"].map(named[key]).fillna("")
    return ids


def _gene_info_beside(file: Path, organism: str) -> pd.DataFrame:
    name = GENE_INFO_FILES[organism]
    for candidate in (file.with_name(f"{name}.gz"), file.with_name(name)):
        if candidate.is_file():
            return read_gene_info(candidate, organism=organism)
    msg = (
        f"{file}: names genes by NCBI's GeneID alone. Put NCBI's {name}.gz beside it, which holds their symbols "
        "(scstore genes build --download FOLDER fetches all of them), or give MGI's or BioMart's table."
    )
    raise GenesError(msg)


def _from_mgi(file: Path, group: str) -> pd.DataFrame:
    rows = _read(file)
    sides = {}
    for organism, taxon in TAXA.items():
        side = rows[rows["NCBI Taxon ID"].str.strip() == str(taxon)]
        side = side[~side[group].duplicated(keep=False)].set_index(group)
        renamed = {"Symbol": f"{organism}_symbol", "EntrezGene ID": f"{organism}_gene_id"}
        sides[organism] = side[[name for name in renamed if name in side]].rename(columns=renamed)
    # classes with several genes of one organism are no pairs, even if the other has one
    return sides["human"].join(sides["mouse"], how="inner").reset_index(drop=True)


def _from_biomart(file: Path) -> pd.DataFrame:
    rows = _read(file)
    columns = {str(name): match for name in rows.columns if (match := BIOMART.fullmatch(str(name)))}
    named = {match[1].lower() for match in columns.values() if match[1]}
    if len(named) == 2 and any(not match[1] for match in columns.values()):
        msg = f"{file}: {', '.join(columns)}: whose genes are those without `Mouse` or `Human` before them?"
        raise GenesError(msg)
    unnamed = other_organism(next(iter(named)))
    found = pd.DataFrame(index=rows.index)
    for name, match in columns.items():
        key = "symbol" if match[2].lower() == "name" else "ensembl_id"
        column = f"{(match[1] or unnamed).lower()}_{key}"
        if column not in found:
            found[column] = rows[name].str.replace(r"\.\d+$", "", regex=True) if key == "ensembl_id" else rows[name]
    for name in rows.columns:
        if re.fullmatch(r"(human|mouse) homology type", str(name), re.IGNORECASE):
            found = found[rows[name].isin(("ortholog_one2one", ""))]
    return found


def _from_symbols(file: Path) -> pd.DataFrame:
    rows = _read(file, header=None)
    if rows.shape[1] != 2:
        msg = f"{file}: {rows.shape[1]} columns. Known are {KNOWN}."
        raise GenesError(msg)
    titles = [str(name).lower() for name in rows.iloc[0]]
    order = titles if set(titles) == set(TAXA) else list(TAXA)
    rows = rows.iloc[1:] if titles[0] in TAXA else rows
    return rows.set_axis([f"{organism}_symbol" for organism in order], axis=1)


def _header(file: Path) -> list[str]:
    try:
        with open_unpacked(file) as handle:
            line = handle.readline(1 << 16).decode("utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise _unreadable(file, error) from error
    return [name.strip() for name in next(csv.reader(io.StringIO(line), delimiter=_delimiter(line)), [])]


def _delimiter(line: str) -> str:
    return "\t" if "\t" in line else ","


def _read(file: Path, *, header: int | None = 0) -> pd.DataFrame:
    """All cells of a TSV or CSV as stripped strings."""
    try:
        with open_unpacked(file) as handle:
            text = handle.read().decode("utf-8-sig")
        rows = pd.read_csv(
            io.StringIO(text),
            sep=_delimiter(text.split("\n", 1)[0]),
            header=header,
            dtype=str,
            keep_default_na=False,
        )
    except (OSError, UnicodeDecodeError, ValueError, EOFError, zlib.error) as error:
        raise _unreadable(file, error) from error
    return rows.apply(lambda column: column.str.strip()).rename(columns=lambda name: str(name).strip())


def _unreadable(file: Path, error: Exception) -> GenesError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return GenesError(f"{file}: cannot be read as a table of orthologs ({reason}). Known are {KNOWN}.")
