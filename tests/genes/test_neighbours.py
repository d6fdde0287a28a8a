from __future__ import annotations

import numpy as np
import pytest

from scstore.errors import GenesError
from scstore.genes.descriptions import describe_by_symbol
from scstore.genes.neighbours import find_gene, nearest_genes
from scstore.genes.table import GeneTable
from scstore.genes.vectors import whiten


@pytest.fixture
def table() -> GeneTable:
    """Twelve genes; E is D turned a little; all lie far from the origin, as a language model's vectors do."""
    symbols = [*"ABCDEFGHIJ", "CD3D", "CD3D"]
    obs, template = describe_by_symbol(symbols, ensembl_ids=[f"ENSG{i:011d}" for i in range(12)], organism="human")
    obs["synonyms"] = ["", "old|both", "both", *[""] * 9]
    vectors = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32) * [1, 9, 1, 3, 1] + 100
    vectors[4] = vectors[3] + 0.1
    return GeneTable(obs, vectors.astype(np.float32), {"kind": "test"}, template)


def test_neighbours_are_those_of_whitened_vectors(table: GeneTable) -> None:
    found = nearest_genes(table, "D", k=3)
    assert list(found.columns) == ["symbol", "organism", "cosine", "text"]
    assert found.index[0] == "E"
    white = whiten(table.vectors).astype(np.float64)
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    cosines = np.delete(white @ white[3], 3)
    np.testing.assert_allclose(found["cosine"], np.sort(cosines)[::-1][:3], rtol=1e-4)
    assert len(nearest_genes(table, "D", k=99)) == 11


def test_genes_are_found_by_every_name(table: GeneTable) -> None:
    names = {"A": 0, "CD3D": 10, "CD3D-1": 11, "ENSG00000000002": 2, "ENSG00000000002.7": 2, "old": 1}
    assert {name: find_gene(table, name) for name in names} == names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("CD3E", r"no such gene in the table\. Close to it: CD3D\."),
        ("cd3d", r"Close to it: CD3D\."),
        ("ZZZZZZ", r"no such gene in the table\.$"),
        ("", "no such gene"),
        ("both", r"names 2 genes of the table: B \(human\), C \(human\)"),
    ],
)
def test_other_names_are_answered(table: GeneTable, name: str, said: str) -> None:
    with pytest.raises(GenesError, match=said):
        nearest_genes(table, name)


def test_symbols_without_vectors_are_said(table: GeneTable) -> None:
    bare = GeneTable(table.obs, np.zeros((12, 0), dtype=np.float32), {"kind": "none"}, table.template)
    with pytest.raises(GenesError, match="without vectors"):
        nearest_genes(bare, "A")
