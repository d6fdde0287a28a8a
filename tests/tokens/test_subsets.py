from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scstore.tokens.ranking import RankedCells
from scstore.tokens.subsets import drop_genes, join_cells, take_cells

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
