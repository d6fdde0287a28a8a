"""What others publish of genes: NCBI's descriptions, gene_info and gene_summary, and vectors such as GenePT's."""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.cells.gene_names import ENSEMBL_ID
from scstore.errors import GenesError
from scstore.genes.matching import guess_organism
from scstore.genes.table import (
    COLUMNS,
    DescribedGenes,
    GeneTable,
    check_template,
    described_genes,
    fill_template,
    unique_names,
)
from scstore.untrusted.guards import EXHAUSTS, FLOOR, RATIO, check_path, open_unpacked, reading
from scstore.untrusted.pickles import read_pickle

TAXA = {"human": 9606, "mouse": 10090}
NCBI_TEMPLATE = "{symbol}: {name}. {summary}"
NOT_GENES = frozenset({"biological-region"})
INFO_COLUMNS = {
    "#tax_id": "tax_id", "GeneID": "gene_id", "Symbol": "symbol", "Synonyms": "synonyms", "dbXrefs": "xrefs",
    "description": "description", "type_of_gene": "type", "Full_name_from_nomenclature_authority": "full_name",
    "chromosome": "chromosome", "map_location": "map_location", "Other_designations": "other_designations",
}  # fmt: skip
SUMMARY_COLUMNS = ("#tax_id", "GeneID", "Source", "Summary")
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


PUBLISHED = "published"  # ``text_source`` of genes with unknown texts, and the kind of their encoder
FORMS = "a pickle of {symbol: vector} or .parquet"


def read_published(path: str | os.PathLike[str], *, organism: str | None = None) -> GeneTable:
    """Read published vectors of genes, by symbols or Ensembl ids, as a gene table; the first bytes decide the form."""
    file = Path(path)
    names, rows = _read(file)
    vectors = _matrix(file, names, rows)
    ids = [found[1] if (found := ENSEMBL_ID.fullmatch(name)) else "" for name in names]
    plain = [gene or name for gene, name in zip(ids, names, strict=True)]
    if "" in plain:
        raise GenesError(f"{file}: gene {plain.index('') + 1} has no name.")
    if repeated := list(dict.fromkeys(pd.Series(plain)[pd.Index(plain).duplicated()])):
        raise GenesError(f"{file}: genes occur more than once: {', '.join(repeated[:3])} ({len(repeated):,} in all).")
    known = {"symbol": plain, "ensembl_id": ids, "text_source": PUBLISHED}
    obs = pd.DataFrame(known, index=unique_names(plain), dtype=str).reindex(columns=COLUMNS, fill_value="")
    obs["organism"] = (guess_organism(plain) or "") if organism is None else organism
    identity = {"kind": PUBLISHED, "file": file.name, "digest": fsio.digest_file(file)}
    return GeneTable(obs, vectors, identity, "")


def _read(file: Path) -> tuple[list[str], Any]:
    check_path(file, error=GenesError)
    with reading(file, "it", error=GenesError, cure=f"Give {FORMS}."), file.open("rb") as handle:
        head = handle.read(8)
    if head.startswith(b"\x80") or file.suffix in (".pickle", ".pkl"):
        vectors = read_pickle(file)
        if other := [name for name in vectors if not isinstance(name, str)]:
            raise GenesError(f"{file}: the key {other[0]!r:.60} is not a gene name.")
        return list(vectors), list(vectors.values())
    if head.startswith(b"PAR1"):
        with reading(file, "it", error=GenesError, cure="Make it anew."):
            return _from_parquet(file)
    unpack = ": unpack it first (gunzip)" if head.startswith(b"\x1f\x8b") else ""
    raise GenesError(f"{file}: is not {FORMS}{unpack}.")


def _from_parquet(file: Path) -> tuple[list[str], Any]:
    from pyarrow.parquet import read_metadata

    about = read_metadata(file)
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    # of one value, thousands pack into a byte
    _check_size(file, 2, sum(group.column(i).num_values for group in groups for i in range(group.num_columns)))
    frame = pd.read_parquet(file)
    if "gene" in frame:
        frame = frame.set_index("gene")
    elif isinstance(frame.index, pd.RangeIndex) and frame.shape[1]:
        frame = frame.set_index(frame.columns[0])
    return list(map(str, frame.index)), frame.to_numpy(dtype=np.float64)


def _check_size(file: Path, n_genes: int, width: int) -> None:
    """Refuse vectors that take far more memory than the file has bytes: one may stand under many names."""
    if (size := 4 * n_genes * width) > max(FLOOR, RATIO * file.stat().st_size):
        raise GenesError(f"{file}: its {n_genes:,} vectors of {width:,} numbers would take {size:,} bytes. {EXHAUSTS}")


def _matrix(file: Path, names: Sequence[str], rows: Iterable[Any]) -> NDArray[np.float32]:
    if not len(names):
        raise GenesError(f"{file}: contains no genes.")
    matrix: NDArray[np.float32] = np.empty((len(names), 0), dtype=np.float32)
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        try:  # numbers alone: a list of one list under many names would unfold
            is_flat = isinstance(row, np.ndarray) or not isinstance(row[0], (list, tuple, str, bytes, dict))
            vector = np.asarray(row, dtype=None if isinstance(row, np.ndarray) else float) if is_flat else np.empty(0)
        except (TypeError, ValueError, LookupError):  # a ragged list, or no list
            vector = np.empty(0)
        if vector.ndim != 1 or not vector.size or vector.dtype.kind not in "fiu":
            raise GenesError(f"{file}: the vector of gene {name!r:.60} is not a list of numbers.")
        if i == 0:
            _check_size(file, len(names), len(vector))
            matrix = np.empty((len(names), len(vector)), dtype=np.float32)
        if len(vector) != matrix.shape[1]:
            raise GenesError(f"{file}: gene {name!r:.60} has {len(vector):,} numbers, not {matrix.shape[1]:,}.")
        with np.errstate(over="ignore"):
            matrix[i] = vector
        if not np.isfinite(matrix[i]).all():
            raise GenesError(f"{file}: the vector of gene {name!r:.60} is not finite.")
    return matrix
