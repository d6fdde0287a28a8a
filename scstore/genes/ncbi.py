"""Gene descriptions from NCBI's own files: ``gene_info`` and ``gene_summary``.

Both are tab-separated, gzipped or not, with a header that begins with ``#tax_id``; they lie in ``gene/DATA`` of NCBI's
file server. Few mouse genes have a summary of their own; a human ortholog's stands in for it.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from scstore.errors import GenesError
from scstore.genes.table import COLUMNS, unique_names

__all__ = [
    "NCBI_TEMPLATE",
    "TAXA",
    "coverage",
    "describe_by_ncbi",
    "read_gene_info",
    "read_orthologs",
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
        One row a gene, all strings: ``gene_id``, ``symbol``, ``synonyms`` (separated by ``|``), ``ensembl_id``,
        ``name`` (full name
        of the nomenclature authority, else NCBI's description), ``type``. Regions that are no genes are left out.

    Raises
    ------
    GenesError
        If the file is not of that form, or has no gene of the organism.
    """
    frame = _read(path, tuple(INFO_COLUMNS)).rename(columns=INFO_COLUMNS)
    frame = frame[(frame["tax_id"] == str(TAXA[organism])) & ~frame["type"].isin(NOT_GENES)]
    if frame.empty:
        msg = f"{path}: no gene of {organism} (tax id {TAXA[organism]}). Give NCBI's gene_info of that organism."
        raise GenesError(msg)
    frame = frame.replace("-", "").drop_duplicates("gene_id").reset_index(drop=True)
    frame["ensembl_id"] = frame["xrefs"].str.extract(r"Ensembl:(ENS[A-Z]*G\d+)", expand=False).fillna("")
    frame["name"] = frame["full_name"].where(frame["full_name"] != "", frame["description"])
    return frame[["gene_id", "symbol", "synonyms", "ensembl_id", "name", "type"]]


def read_summaries(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a ``gene_summary`` file: summary by NCBI GeneID, of all organisms in it.

    Raises
    ------
    GenesError
        If the file is not of that form.
    """
    frame = _read(path, SUMMARY_COLUMNS)
    return dict(zip(frame["GeneID"], frame["Summary"].str.strip(), strict=True))


def read_orthologs(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read one-to-one orthologs: a CSV of human symbol, mouse symbol; a header may be there, blanks are skipped.

    Returns
    -------
    dict
        Mouse symbol by human symbol and human symbol by mouse symbol.

    Raises
    ------
    GenesError
        If it has not two columns, or no pair.
    """
    try:
        frame = pd.read_csv(path, header=None, dtype=str, keep_default_na=False)
    except (OSError, UnicodeDecodeError, ValueError, EOFError, zlib.error) as error:
        msg = f"{path}: cannot be read as a CSV of orthologs ({str(error).splitlines()[0]})."
        raise GenesError(msg) from error
    if frame.shape[1] != 2:
        msg = f"{path}: {frame.shape[1]} columns; a table of orthologs has two, human symbol and mouse symbol."
        raise GenesError(msg)
    pairs = frame[(frame[0].str.strip() != "") & (frame[1].str.strip() != "")]
    pairs = pairs[pairs[0].str.lower() != "human"]
    pairs = pairs[~pairs[0].duplicated(keep=False) & ~pairs[1].duplicated(keep=False)]
    if pairs.empty:
        msg = f"{path}: holds no pair of human and mouse symbols."
        raise GenesError(msg)
    human, mouse = pairs[0].str.strip(), pairs[1].str.strip()
    return {**dict(zip(human, mouse, strict=True)), **dict(zip(mouse, human, strict=True))}


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
        May use ``symbol``, ``name``, ``summary``, ``type``, ``synonyms``, ``organism``.
    orthologs, ortholog_genes
        From :func:`read_orthologs`, and the other organism's genes: their summaries stand in for those that are
        missing.

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
    texts, sources = [], []
    for row in genes.to_dict("records"):
        summary, source = summaries.get(row["gene_id"], ""), "summary"
        if not summary and orthologs is not None:
            summary, source = borrowed.get(orthologs.get(row["symbol"], ""), ""), "ortholog summary"
        if not summary:
            source = "name" if row["name"] else "symbol"
        try:
            text = template.format(**{**row, "summary": summary, "organism": organism})
        except (KeyError, IndexError, ValueError) as error:
            msg = (
                f"--template {template!r}: {error} cannot be filled. It may use {{symbol}}, {{name}}, {{summary}}, "
                f"{{type}}, "
                "{synonyms}, {organism}."
            )
            raise GenesError(msg) from error
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


def _read(path: str | os.PathLike[str], columns: tuple[str, ...]) -> pd.DataFrame:
    file = Path(path)
    try:
        return pd.read_csv(
            file,
            sep="\t",
            dtype=str,
            usecols=list(columns),
            keep_default_na=False,
            quoting=3,
            compression="gzip" if file.read_bytes()[:2] == b"\x1f\x8b" else None,
        )
    except (OSError, UnicodeDecodeError, ValueError, EOFError, zlib.error) as error:
        msg = (
            f"{file}: cannot be read as NCBI's file with the columns {', '.join(columns)} "
            f"({str(error).splitlines()[0]}). "
            "Fetch it again from NCBI's gene/DATA."
        )
        raise GenesError(msg) from error
