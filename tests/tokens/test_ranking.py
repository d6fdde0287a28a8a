from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix

from scstore.tokens.ranking import (
    RankedCells,
    count_genes,
    drop_genes,
    expressed_genes,
    join_cells,
    rank_genes,
    reordered,
    shuffled_order,
    take_cells,
)

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


Lists = list[list[int]]


def ranked(lists: Lists) -> RankedCells:
    offsets = np.concatenate([[0], np.cumsum([len(genes) for genes in lists])]).astype(np.int64)
    genes = np.array([gene for genes in lists for gene in genes], dtype=np.int64)
    return RankedCells(offsets, genes, (genes + 0.5).astype(np.float32))


def lists_of(cells: RankedCells) -> Lists:
    assert cells.values.tolist() == (cells.genes + 0.5).tolist()
    return [cells.genes[a:b].tolist() for a, b in zip(cells.offsets, cells.offsets[1:], strict=False)]


CELLS = st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=6)


@given(CELLS, CELLS)
def test_joined_cells_are_taken_apart_again(first: Lists, second: Lists) -> None:
    joined = join_cells([ranked(first), ranked(second)])
    assert lists_of(joined) == first + second
    rows = np.arange(len(first), len(first) + len(second))
    assert lists_of(take_cells(joined, rows)) == second
    assert lists_of(take_cells(joined, rows[::-1])) == second[::-1]


def test_nothing_joined_is_no_cell() -> None:
    assert len(join_cells([])) == 0


@given(CELLS, st.floats(0, 0.9), st.integers(0, 9))
def test_what_is_left_of_a_cell_is_in_order_and_never_nothing(cells: Lists, rate: float, seed: int) -> None:
    left = lists_of(drop_genes(ranked(cells), rate=rate, rng=np.random.default_rng(seed)))
    for before, after in zip(cells, left, strict=True):
        assert after[:1] == before[:1]
        remaining = iter(before)
        assert all(gene in remaining for gene in after)


def test_genes_are_dropped_at_the_rate_asked_for() -> None:
    cells = ranked([list(range(2000))] * 5)
    left = drop_genes(cells, rate=0.3, rng=np.random.default_rng(0))
    assert left.lengths.mean() / 2000 == pytest.approx(0.7, abs=0.02)
    assert len({tuple(genes) for genes in lists_of(left)}) == 5


SYMBOLS = [f"GENE{i}" for i in range(30)]


def test_a_place_is_of_the_symbol_alone() -> None:
    places = shuffled_order(SYMBOLS, seed=0)
    assert sorted(places) == list(range(30))
    few = shuffled_order(SYMBOLS[10:20][::-1], seed=0)
    assert np.argsort(few).tolist() == [9 - i for i in np.argsort(places[10:20])]
    assert not np.array_equal(places, shuffled_order(SYMBOLS, seed=1))
    assert not np.array_equal(places, np.arange(30))


def test_every_cell_keeps_its_genes_and_values() -> None:
    rows = csr_matrix(np.array([[3, 1, 2, 0], [0, 0, 0, 0], [0, 4, 5, 6]], dtype=np.float32))
    shuffled = reordered(rank_genes(rows, top_genes=3), np.array([2, 3, 0, 1]))
    assert shuffled.offsets.tolist() == [0, 3, 3, 6]
    assert shuffled.genes.tolist() == [2, 0, 1, 2, 3, 1]
    assert shuffled.values.tolist() == [2, 3, 1, 5, 6, 4]
