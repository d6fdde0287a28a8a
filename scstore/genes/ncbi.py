"""Gene descriptions from NCBI's own files: ``gene_info`` and ``gene_summary``.

Both are tab-separated, gzipped or not, with a header that begins with ``#tax_id``; they lie in ``gene/DATA`` of NCBI's
file server. Few mouse genes have a summary of their own; a human ortholog's stands in for it.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from scstore.errors import GenesError
from scstore.genes.table import COLUMNS, unique_names
from scstore.genes.templates import check_template, fill_template
from scstore.untrusted.text import open_unpacked

__all__ = [
    "FIELDS",
    "NCBI_TEMPLATE",
    "TAXA",
    "coverage",
    "describe_by_ncbi",
    "read_columns",
    "read_gene_info",
    "read_summaries",
]

TAXA = {"human": 9606, "mouse": 10090}
NCBI_TEMPLATE = "{symbol}: {name}. {summary}"
NOT_GENES = frozenset({"biological-region"})
INFO_COLUMNS = {
    "#tax_id": "tax_id",
    "GeneID": "gene_id",
    "Symbol": "symbol",
    "Synonyms": "synonyms",
    "dbXrefs": "xrefs",
    "description": "description",
    "type_of_gene": "type",
    "Full_name_from_nomenclature_authority": "full_name",
}
MORE_COLUMNS = {
    "chromosome": "chromosome",
    "map_location": "map_location",
    "Other_designations": "other_designations",
}
"""Of whole ``gene_info`` files; extracts of them may lack these, which are then empty."""

FIELDS = (
    "symbol", "name", "summary", "type", "organism", "synonyms", "other_designations", "chromosome", "map_location",
    "gene_id", "ensembl_id",
)  # fmt: skip
"""What a template may use."""

LISTS = ("synonyms", "other_designations")
"""Fields that hold several names, separated by ``|``."""

CHUNK_ROWS = 200_000

SUMMARY_COLUMNS = ("#tax_id", "GeneID", "Source", "Summary")


def read_gene_info(path: str | os.PathLike[str], *, organism: str) -> pd.DataFrame:
    """Read the genes of one organism from a ``gene_info`` file.

    Parameters
    ----------
    path
        The file.
    organism
        ``human`` or ``mouse``.

    Returns
    -------
    DataFrame
        One row a gene, all strings, empty where unknown: ``gene_id``, ``symbol``, ``synonyms`` and
        ``other_designations`` (separated by ``|``), ``ensembl_id``, ``name`` (full name of the nomenclature authority,
        else NCBI's description), ``type``, ``chromosome``, ``map_location``. Regions that are no genes are left out.

    Raises
    ------
    GenesError
        If the file is not of that form, or has no gene of the organism.
    """
    taxa = {str(TAXA[organism])}
    frame = read_columns(path, tuple(INFO_COLUMNS), optional=tuple(MORE_COLUMNS), taxa=taxa)
    frame = frame.rename(columns=INFO_COLUMNS | MORE_COLUMNS)
    frame = frame[~frame["type"].isin(NOT_GENES)]
    if frame.empty:
        msg = f"{path}: no gene of {organism} (tax id {TAXA[organism]}). Give NCBI's gene_info of that organism."
        raise GenesError(msg)
    frame = frame.replace("-", "").drop_duplicates("gene_id").reset_index(drop=True)
    frame["ensembl_id"] = frame["xrefs"].str.extract(r"Ensembl:(ENS[A-Z]*G\d+)", expand=False).fillna("")
    frame["name"] = frame["full_name"].where(frame["full_name"] != "", frame["description"])
    return frame[["gene_id", "symbol", "synonyms", "ensembl_id", "name", "type", *MORE_COLUMNS.values()]]


def read_summaries(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a ``gene_summary`` file: summary by NCBI GeneID, of the genes of human and mouse.

    Raises
    ------
    GenesError
        If the file is not of that form.
    """
    frame = read_columns(path, SUMMARY_COLUMNS, taxa=set(map(str, TAXA.values())))
    return dict(zip(frame["GeneID"], frame["Summary"].str.strip(), strict=True))


def describe_by_ncbi(
    genes: pd.DataFrame,
    summaries: Mapping[str, str],
    *,
    organism: str,
    template: str = NCBI_TEMPLATE,
    orthologs: Mapping[str, str] | None = None,
    ortholog_genes: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, str]:
    """Put the texts of genes together.

    Parameters
    ----------
    genes
        From :func:`read_gene_info`.
    summaries
        From :func:`read_summaries`.
    organism
        Of the genes.
    template
        May use :data:`FIELDS`. A part in square brackets is left out where one of its fields is empty.
    orthologs, ortholog_genes
        Symbols of the other organism by symbols of this one (:meth:`scstore.genes.orthologs.Orthologs.symbols`), and
        the other organism's genes: their summaries stand in for those that are missing.

    Returns
    -------
    obs
        Rows of a gene table. ``text_source`` says what each text rests on: ``summary``, ``ortholog summary``, ``name``
        or ``symbol``.
    template
        The one that was used.

    Raises
    ------
    GenesError
        If the template names a field that is not there.
    """
    borrowed = _by_symbol(ortholog_genes, summaries) if ortholog_genes is not None else {}
    check_template(template, FIELDS, source="NCBI's files")
    texts, sources = [], []
    for row in genes.to_dict("records"):
        summary, source = summaries.get(row["gene_id"], ""), "summary"
        if not summary and orthologs is not None:
            summary, source = borrowed.get(orthologs.get(row["symbol"], ""), ""), "ortholog summary"
        if not summary:
            source = "name" if row["name"] else "symbol"
        lists = {name: row[name].replace("|", ", ") for name in LISTS}
        text = fill_template(template, {**row, **lists, "summary": summary, "organism": organism})
        texts.append(_tidy(text) or row["symbol"])
        sources.append(source)
    obs = pd.DataFrame({column: genes.get(column, "") for column in COLUMNS}, dtype=str)
    obs = obs.assign(text=texts, text_source=sources, organism=organism)
    obs.index = pd.Index(unique_names(list(obs["symbol"])), name="gene")
    return obs, template


def coverage(obs: pd.DataFrame) -> str:
    """What the texts rest on, in one line: ``summary 15,123 (25 %), name …``."""
    counts = Counter(obs["text_source"])
    return ", ".join(f"{name} {count:,} ({count / len(obs):.0%})" for name, count in counts.most_common())


def _by_symbol(genes: pd.DataFrame, summaries: Mapping[str, str]) -> dict[str, str]:
    pairs = zip(genes["symbol"], genes["gene_id"], strict=True)
    return {symbol: summaries[gene] for symbol, gene in pairs if summaries.get(gene)}


def _tidy(text: str) -> str:
    """Without the punctuation that an empty field leaves behind."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"([:,(])\s*(?=[.,:)])", "", text)
    return re.sub(r"(?:\s*\.)+(?=\s*\.)", "", text).strip(" :,")


def read_columns(
    path: str | os.PathLike[str], columns: tuple[str, ...], *, taxa: Collection[str], optional: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Read columns of one of NCBI's tab-separated files, gzipped or not, as strings; memory is that of the rows kept.

    Parameters
    ----------
    path
        The file, whose first column is ``#tax_id``.
    columns
        Must be there.
    taxa
        Rows whose ``#tax_id`` is one of these are kept.
    optional
        Empty where they are not there.

    Raises
    ------
    GenesError
        If it cannot be read or lacks a column.
    """
    file = Path(path)
    try:
        with (
            open_unpacked(file) as handle,
            pd.read_csv(
                handle,
                sep="\t",
                dtype=str,
                usecols=lambda name: name in columns or name in optional,
                keep_default_na=False,
                quoting=3,
                chunksize=CHUNK_ROWS,
            ) as chunks,
        ):
            kept = []
            for chunk in chunks:
                if lacking := [name for name in columns if name not in chunk]:
                    msg = f"no column {lacking[0]}"
                    raise GenesError(msg)
                kept.append(chunk[chunk["#tax_id"].isin(taxa)])
        frame = pd.concat(kept, ignore_index=True)
    except (OSError, UnicodeDecodeError, ValueError, EOFError, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        msg = (
            f"{file}: cannot be read as NCBI's file with the columns {', '.join(columns)} ({reason}). "
            "Fetch it again from NCBI's gene/DATA."
        )
        raise GenesError(msg) from error
    return frame.assign(**{name: "" for name in optional if name not in frame})
