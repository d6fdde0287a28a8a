"""Gene tables (names, texts and vectors of genes, as AnnData on disk), and the texts that they are made from."""

import io
import json
import os
import re
import string
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
from anndata.utils import make_index_unique
from numpy.typing import NDArray

from scstore import fsio
from scstore.errors import FeatureSpaceError, GenesError
from scstore.options import did_you_mean
from scstore.remote import there
from scstore.sealed import FileKind, canonical_json, read_sealed_file, write_sealed_file
from scstore.store.reader import Store
from scstore.untrusted.guards import read_unpacked, reading

KIND = FileKind("gene table", "genes", "scstore genes build")
# Columns of ``obs``, all strings, empty where unknown: official symbol, Ensembl id without version, NCBI GeneID,
# synonyms separated by ``|``, organism, the encoded text, and its source.
COLUMNS = ("symbol", "ensembl_id", "gene_id", "synonyms", "organism", "text", "text_source")


@dataclass(frozen=True)
class GeneTable:
    """Genes with the vectors ``(n_genes, width)`` of their texts: zeros for those that enter no sequence."""

    obs: pd.DataFrame  # COLUMNS, and unique names in the index
    vectors: NDArray[np.float32]
    encoder: Mapping[str, Any]  # identity of the texts' encoder
    template: str

    def __len__(self) -> int:
        return len(self.obs)

    @property
    def width(self) -> int:
        return int(self.vectors.shape[1])

    @cached_property
    def encoded(self) -> NDArray[np.bool_]:
        return np.asarray(self.vectors.any(axis=1))

    @property
    def centre(self) -> NDArray[np.float32]:
        return np.asarray(self.vectors[self.encoded].mean(axis=0))

    def changed(self, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> NDArray[np.float32]:
        """What ``change`` makes of the vectors that there are, ``(n_genes, …) float32``; zeros for the other genes."""
        made = change(self.vectors[self.encoded])
        whole = np.zeros((len(self), made.shape[1]), dtype=np.float32)
        whole[self.encoded] = made
        return whole

    @property
    def info(self) -> dict[str, Any]:
        organisms = {str(name): int(n) for name, n in self.obs["organism"].value_counts().items()}
        numbers = {"n_genes": len(self), "n_encoded": int(self.encoded.sum()), "width": self.width}
        made = {"encoder": dict(self.encoder), "template": self.template, "digest": self.digest}
        return {**numbers, **made, "organisms": organisms, "coverage": coverage(self.obs)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, texts, encoder and vectors, as in a store's fingerprints."""
        names = {column: list(self.obs[column]) for column in COLUMNS} | {"name": list(self.obs.index)}
        header = canonical_json({"encoder": dict(self.encoder), "template": self.template, "genes": names})
        vectors = np.ascontiguousarray(self.vectors, dtype="<f4")
        return fsio.digest_bytes(f"{fsio.digest_bytes(header.encode())} {fsio.digest_bytes(vectors.data)}".encode())


def unique_names(symbols: Iterable[str]) -> pd.Index:
    """Return an index of symbols, with ``-1``, ``-2``, … after those that repeat."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of symbols that end like that
        return make_index_unique(pd.Index(list(symbols), dtype=object, name="gene"))


def save_gene_table(table: GeneTable, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    vectors = np.ascontiguousarray(table.vectors, dtype=np.float32)
    adata = anndata.AnnData(X=vectors, obs=table.obs[list(COLUMNS)].astype(str))
    header = {"encoder": dict(table.encoder), "template": table.template}
    return write_sealed_file(path, KIND, table, adata, header, overwrite=overwrite)


def load_gene_table(path: str | os.PathLike[str]) -> GeneTable:
    """Read a gene table and compare it with its digest (GenesError, NewerFormatError, DamagedError)."""

    def build(adata: anndata.AnnData, header: Mapping[str, Any]) -> GeneTable:
        obs = adata.obs[list(COLUMNS)].astype(str)
        return GeneTable(obs, np.asarray(adata.X, dtype=np.float32), header["encoder"], header["template"])

    return read_sealed_file(path, KIND, build)


def coverage(obs: pd.DataFrame) -> str:
    """Return the sources of the texts in one line: ``summary 15,123 (25 %), name …``."""
    counts = obs["text_source"].value_counts()
    return ", ".join(f"{name} {count:,} ({count / len(obs):.0%})" for name, count in counts.items())


def expression_genes(store: Store, *, purpose: str, all_encoded: bool = True) -> tuple[GeneTable, NDArray[np.int64]]:
    """Return the gene table that a store was extracted with, and the row in it of each column of ``X``."""
    record = store.record
    if record is None or "X" not in store.views:
        why = "scstore did not extract it" if record is None else "it was extracted with keep_expression=False"
        raise FeatureSpaceError(f"{purpose}: the genes of {store.path} are unknown, since {why}.")
    path = there(store.path.parent / record["options"]["genes"])
    if not path.is_file():
        raise FeatureSpaceError(f"{purpose}: {store.path} lacks its gene table {path}. Put it back beside the store.")
    table = load_gene_table(path)
    rows: NDArray[np.int64] = pd.Index(table.obs.index).get_indexer(pd.Index(store.var.index.astype(str)))
    if table.digest != record["genes"]["digest"] or (rows < 0).any():
        raise FeatureSpaceError(f"{purpose}: {store.path} was not extracted with {path}. Put its own table back.")
    if all_encoded and (lacking := int((~table.encoded[rows]).sum())):
        raise FeatureSpaceError(
            f"{purpose}: {lacking:,} of the {len(rows):,} genes of {store.path} have no vector, since only the panel's "
            "texts were encoded. Build a table of all (scstore genes build --symbols-of CELLS, or from texts), and "
            "extract the cells with it: genes=; with pool=() no model need read them."
        )
    return table, rows


SYMBOL_TEMPLATE = "{symbol}"
TEXT_TEMPLATE = "{text}"
# A part in square brackets with a field in it: left out if one of its fields is empty.
OPTIONAL = re.compile(r"\[([^\[\]]*\{[^\[\]]*)\]")


class DescribedGenes(NamedTuple):
    """Genes with texts: rows of a gene table (:data:`~scstore.genes.table.COLUMNS`), and the template of the texts."""

    obs: pd.DataFrame
    template: str


def describe_by_symbol(
    symbols: Iterable[str], *, ensembl_ids: Iterable[str] | None = None, organism: str = ""
) -> DescribedGenes:
    frame = pd.DataFrame({"symbol": [str(symbol) for symbol in symbols]}, dtype=str)
    if ensembl_ids is not None:
        frame["ensembl_id"] = [str(name) for name in ensembl_ids]
    return described_genes(frame, SYMBOL_TEMPLATE, frame["symbol"], ["symbol"] * len(frame), organism)


def read_descriptions(
    path: str | os.PathLike[str], *, template: str | None = None, organism: str = ""
) -> DescribedGenes:
    """Read gene texts from a TSV with a header, or JSON (``{symbol: text}``); a gene without one has its symbol."""
    file = Path(path)
    frame = _read_frame(file)
    if "symbol" not in frame:
        raise GenesError(f"{file}: no column `symbol`. It has: {', '.join(frame.columns)}.")
    if (blank := frame["symbol"].str.strip() == "").any():
        raise GenesError(f"{file}: row {int(blank.to_numpy().argmax()) + 1} has no symbol.")
    if template is None:
        template = TEXT_TEMPLATE if "text" in frame else SYMBOL_TEMPLATE
    check_template(template, list(frame.columns), source=str(file))
    texts = [fill_template(template, row) for row in frame.to_dict("records")]
    source = "symbol" if template == SYMBOL_TEMPLATE else "template"
    return described_genes(frame, template, texts, [source if text else "symbol" for text in texts], organism)


def _read_frame(file: Path) -> pd.DataFrame:
    with reading(file, "gene texts", error=GenesError, cure="Give a TSV with a header, or JSON: {symbol: text}."):
        if file.suffix == ".json":
            content: Any = json.loads(read_unpacked(file))
            if not isinstance(content, Mapping):
                raise ValueError("expected {symbol: text}")
            frame = pd.DataFrame({"symbol": list(content), "text": list(content.values())})
        else:
            with io.BytesIO(read_unpacked(file)) as handle:
                frame = pd.read_csv(handle, sep="\t", dtype=str, keep_default_na=False, quoting=3)
    if frame.empty:
        raise GenesError(f"{file}: contains no genes.")
    return frame.fillna("").astype(str)


def described_genes(
    frame: pd.DataFrame, template: str, texts: Iterable[str], sources: Iterable[str], organism: str
) -> DescribedGenes:
    """Return genes with texts, those without one described by their symbol."""
    obs = pd.DataFrame({column: frame.get(column, "") for column in COLUMNS}, dtype=str)
    obs["text"] = [text or symbol for text, symbol in zip(texts, obs["symbol"], strict=True)]
    obs["text_source"] = list(sources)
    obs.loc[obs["organism"] == "", "organism"] = organism
    return DescribedGenes(obs.set_axis(unique_names(obs["symbol"])), template)


def check_template(template: str, known: Collection[str], *, source: str) -> None:
    """Refuse a template that is malformed or names a field that ``source`` does not have."""
    try:
        fields = _fields(template)
        template.format_map(dict.fromkeys(fields, ""))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise GenesError(f"template={template!r} is malformed: {error}.") from error
    if lacking := [name for name in fields if name not in known]:
        have = f"{did_you_mean(lacking[0], known)} It has: {', '.join(f'{{{name}}}' for name in known)}."
        raise GenesError(f"template={template!r}: {source} has no column {lacking[0]!r}.{have}")


def fill_template(template: str, row: Mapping[str, str]) -> str:
    """Return the text of one gene; a part in square brackets is left out if one of its fields is empty."""

    def part(found: re.Match[str]) -> str:
        return found[1] if all(row[name] for name in _fields(found[1])) else ""

    return OPTIONAL.sub(part, template).format_map(row).strip()


def _fields(template: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
