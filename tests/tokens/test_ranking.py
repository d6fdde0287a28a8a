from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix

from scstore.tokens.ranking import count_genes, expressed_genes, rank_genes

MATRICES = arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 8)), elements=st.sampled_from([0, 0, 1, 2, 3])
)


@given(MATRICES, st.integers(1, 9))
def test_it_equals_sorting_each_cell_by_hand(matrix: np.ndarray, top: int) -> None:
    """RELIABILITY 16: ties break by gene-table order; genes that are not expressed never enter."""
    ranked = rank_genes(csr_matrix(matrix), top_genes=top)
    for cell, row in enumerate(matrix):
        expected = sorted(np.flatnonzero(row), key=lambda gene: (-row[gene], gene))[:top]
        here = slice(ranked.offsets[cell], ranked.offsets[cell + 1])
        assert ranked.genes[here].tolist() == expected
        assert ranked.values[here].tolist() == [row[gene] for gene in expected]


@given(MATRICES)
def test_a_cell_is_ranked_alike_alone_and_among_others(matrix: np.ndarray) -> None:
    together = rank_genes(csr_matrix(matrix), top_genes=4)
    for cell in range(len(matrix)):
        alone = rank_genes(csr_matrix(matrix[cell : cell + 1]), top_genes=4)
        assert alone.genes.tolist() == together.genes[together.offsets[cell] : together.offsets[cell + 1]].tolist()


@given(MATRICES, st.integers(1, 9), st.integers(0, 2**8 - 1))
def test_genes_are_counted_as_they_are_ranked(matrix: np.ndarray, top: int, mask: int) -> None:
    admitted = np.array([bool(mask >> gene & 1) for gene in range(matrix.shape[1])])
    rows = csr_matrix(matrix)
    for allowed in (None, admitted):
        ranked = rank_genes(rows, top_genes=top, admitted=allowed)
        assert count_genes(rows, top_genes=top, admitted=allowed).tolist() == ranked.lengths.tolist()


def test_only_admitted_genes_enter() -> None:
    rows = csr_matrix(np.array([[5, 4, 3, 2]], dtype=np.float32))
    ranked = rank_genes(rows, top_genes=2, admitted=np.array([False, True, False, True]))
    assert ranked.genes.tolist() == [1, 3]


def test_explicit_zeros_never_enter() -> None:
    rows = csr_matrix((np.array([0, 2], dtype=np.float32), [0, 1], [0, 2]), shape=(1, 3))
    assert rank_genes(rows, top_genes=3).genes.tolist() == [1]


def test_expressed_genes_are_all_that_may_enter() -> None:
    rows = csr_matrix(np.array([[1, 0, 3, 2], [0, 0, 0, 0], [0, 4, 5, 0]], dtype=np.float32))
    found = expressed_genes(rows, admitted=np.array([True, True, True, False]))
    assert found.offsets.tolist() == [0, 2, 2, 4]
    assert found.genes.tolist() == [0, 2, 1, 2]
    assert found.values.tolist() == [1, 3, 4, 5]
