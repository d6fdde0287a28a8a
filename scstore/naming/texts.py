"""What the package knows of genes and of cell types: vectors of their texts, small enough to ship.

The files in ``data`` are made by ``benchmarks/naming_data.py``; ``data/README.md`` names their sources and licences.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

GENES, TERMS, VECTORS = "genes.parquet", "terms.parquet", "vectors.safetensors"
KINDS = ("genes", "terms")


@dataclass(frozen=True, eq=False)
class Texts:
    """Genes of human and mouse and terms of the Cell Ontology, with the vectors ``(n, width)`` of their texts."""

    genes: pd.DataFrame  # as a gene table's obs, and vector, the row of gene_vectors (of the human ortholog)
    terms: pd.DataFrame  # by id: synonyms and ancestors (its own first), by |; general, common: lists of CELLxGENE's
    gene_vectors: NDArray[np.float32]
    term_vectors: NDArray[np.float32]
    centre: NDArray[np.float32]
    projection: NDArray[np.float32]  # brings the encoder's own vectors of length one here, less the centre

    def place(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the places of vectors ``(n, encoder's width)`` among those of the terms."""
        unit = encoded / np.linalg.norm(encoded, axis=1, keepdims=True)
        placed: NDArray[np.float32] = (unit - self.centre) @ self.projection
        return placed

    def within(self, lineage: str) -> list[str]:
        """Return the ids of a term and of all below it."""
        return [str(name) for name, text in self.terms["ancestors"].items() if lineage in text.split("|")]


@cache
def load_texts() -> Texts:
    """Read the texts' vectors; they are rounded to whole numbers, with a factor for each row."""
    with as_file(files("scstore.naming") / "data") as folder:
        arrays = load_file(folder / VECTORS)
        genes, terms = (pd.read_parquet(folder / name) for name in (GENES, TERMS))
    of_genes, of_terms = (arrays[kind].astype(np.float32) * arrays[f"{kind}_scale"][:, None] for kind in KINDS)
    return Texts(genes, terms.set_index("id"), of_genes, of_terms, arrays["centre"], arrays["projection"])
