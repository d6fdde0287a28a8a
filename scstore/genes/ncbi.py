"""Gene descriptions from NCBI's own files, ``gene_info`` and ``gene_summary``: tab-separated, gzipped or not."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from scstore.errors import GenesError
from scstore.genes.table import DescribedGenes, check_template, described_genes, fill_template
from scstore.untrusted.guards import reading
from scstore.untrusted.text import open_unpacked

TAXA = {"human": 9606, "mouse": 10090}
NCBI_TEMPLATE = "{symbol}: {name}. {summary}"
NOT_GENES = frozenset({"biological-region"})
INFO_COLUMNS = {
    "#tax_id": "tax_id", "GeneID": "gene_id", "Symbol": "symbol", "Synonyms": "synonyms", "dbXrefs": "xrefs",
    "description": "description", "type_of_gene": "type", "Full_name_from_nomenclature_authority": "full_name",
    "chromosome": "chromosome", "map_location": "map_location", "Other_designations": "other_designations",
}  # fmt: skip
SUMMARY_COLUMNS = ("#tax_id", "GeneID", "Source", "Summary")
# Fields that a template may use.
FIELDS = (
    "symbol", "name", "summary", "type", "organism", "synonyms", "other_designations", "chromosome", "map_location",
    "gene_id", "ensembl_id",
)  # fmt: skip
LISTS = ("synonyms", "other_designations")  # fields with several names, separated by ``|``
CHUNK_ROWS = 200_000


def read_gene_info(path: str | os.PathLike[str], *, organism: str) -> pd.DataFrame:
    """Read the genes of one organism, no regions, from a ``gene_info`` file, as strings; lists keep their ``|``."""
    taxa = {str(TAXA[organism])}
    frame = read_columns(path, tuple(INFO_COLUMNS), taxa=taxa).rename(columns=INFO_COLUMNS)
    frame = frame[~frame["type"].isin(NOT_GENES)]
    if frame.empty:
        raise GenesError(f"{path}: no gene of {organism} (tax id {TAXA[organism]}). Give that organism's gene_info.")
    frame = frame.replace("-", "").drop_duplicates("gene_id").reset_index(drop=True)
    frame["ensembl_id"] = frame["xrefs"].str.extract(r"Ensembl:(ENS[A-Z]*G\d+)", expand=False).fillna("")
    frame["name"] = frame["full_name"].where(frame["full_name"] != "", frame["description"])
    return frame.drop(columns=["tax_id", "xrefs", "description", "full_name"])


def read_summaries(path: str | os.PathLike[str]) -> dict[str, str]:
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
) -> DescribedGenes:
    """Describe genes with their summaries, or those of ``orthologs``: symbols of the other organism by symbols."""
    borrowed = {}
    if ortholog_genes is not None:
        pairs = zip(ortholog_genes["symbol"], ortholog_genes["gene_id"], strict=True)
        borrowed = {symbol: summaries[gene] for symbol, gene in pairs if summaries.get(gene)}
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
        texts.append(_tidy(text))
        sources.append(source)
    return described_genes(genes, template, texts, sources, organism)


def _tidy(text: str) -> str:
    """Remove the punctuation that an empty field leaves behind."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"([:,(])\s*(?=[.,:)])", "", text)
    return re.sub(r"(?:\s*\.)+(?=\s*\.)", "", text).strip(" :,")


def read_columns(path: str | os.PathLike[str], columns: tuple[str, ...], *, taxa: Collection[str]) -> pd.DataFrame:
    """Read columns of one of NCBI's files as strings; only the rows of these taxa are kept in memory."""
    file = Path(path)
    plain: dict[str, Any] = {"sep": "\t", "dtype": str, "keep_default_na": False, "quoting": 3}
    plain["usecols"] = lambda name: name in columns
    what, cure = f"NCBI's file with the columns {', '.join(columns)}", "Fetch it again from NCBI's gene/DATA."
    with (
        reading(file, what, error=GenesError, cure=cure),
        open_unpacked(file) as handle,
        pd.read_csv(handle, chunksize=CHUNK_ROWS, **plain) as chunks,
    ):
        kept = []
        for chunk in chunks:
            if lacking := [name for name in columns if name not in chunk]:
                raise ValueError(f"no column {lacking[0]}")
            kept.append(chunk[chunk["#tax_id"].isin(taxa)])
        return pd.concat(kept, ignore_index=True)
