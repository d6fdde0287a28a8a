"""Gene tables: names, texts and vectors of genes, as an AnnData of genes × dimensions on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.sealed import FileKind, read_sealed_file, write_sealed_file
from scstore.spec import canonical_json

__all__ = ["COLUMNS", "GeneTable", "load_gene_table", "save_gene_table", "unique_names"]

KIND = FileKind("gene table", "genes", "scstore genes build")
COLUMNS = ("symbol", "ensembl_id", "gene_id", "synonyms", "organism", "text", "text_source")
"""Columns of ``obs``, all strings, empty where unknown: official symbol, Ensembl id without version, NCBI GeneID,
synonyms
separated by ``|``, organism, the text that was encoded, and what it was taken from."""


@dataclass(frozen=True)
class GeneTable:
    """Genes with the vectors of their texts.

    Attributes
    ----------
    obs
        ``(n_genes,)`` rows with :data:`COLUMNS`; the index holds unique names.
    vectors
        ``(n_genes, width) float32``.
    encoder
        Identity of what encoded the texts.
    template
        How the texts were put together.
    """

    obs: pd.DataFrame
    vectors: NDArray[np.float32]
    encoder: Mapping[str, Any]
    template: str

    def __len__(self) -> int:
        return len(self.obs)

    @property
    def width(self) -> int:
        """Dimensions of the vectors."""
        return int(self.vectors.shape[1])

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, texts, encoder and vectors: what a fingerprint holds."""
        names = {column: list(self.obs[column]) for column in COLUMNS} | {"name": list(self.obs.index)}
        header = canonical_json({"encoder": dict(self.encoder), "template": self.template, "genes": names})
        vectors = np.ascontiguousarray(self.vectors, dtype="<f4")
        return fsio.digest_bytes(f"{fsio.digest_bytes(header.encode())} {fsio.digest_bytes(vectors.data)}".encode())


def unique_names(symbols: list[str]) -> list[str]:
    """Symbols with ``-1``, ``-2``, … behind repeats, as AnnData's ``var_names_make_unique`` does."""
    seen = set(symbols)
    used: set[str] = set()
    names = []
    for symbol in symbols:
        name, i = symbol, 0
        while name in used or (i and name in seen):
            i += 1
            name = f"{symbol}-{i}"
        used.add(name)
        names.append(name)
    return names


def save_gene_table(table: GeneTable, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a gene table as ``.h5ad``, atomically.

    Raises
    ------
    OutputError
        If the file exists and ``overwrite`` is not set.
    """
    adata = anndata.AnnData(
        X=np.ascontiguousarray(table.vectors, dtype=np.float32), obs=table.obs[list(COLUMNS)].astype(str)
    )
    header = {"encoder": dict(table.encoder), "template": table.template}
    return write_sealed_file(path, KIND, table, adata, header, overwrite=overwrite)


def load_gene_table(path: str | os.PathLike[str]) -> GeneTable:
    """Read a gene table and compare it with its digest.

    Raises
    ------
    GenesError
        If the file is not there or no gene table.
    NewerFormatError
        If a newer scstore wrote it.
    DamagedError
        If its content does not match its digest.
    """

    def build(adata: anndata.AnnData, header: Mapping[str, Any]) -> GeneTable:
        obs = adata.obs[list(COLUMNS)].astype(str)
        return GeneTable(obs, np.asarray(adata.X, dtype=np.float32), header["encoder"], header["template"])

    return read_sealed_file(path, KIND, build)
