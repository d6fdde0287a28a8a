from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix

from scstore.model.loading import load_tokenizer, locate_model
from scstore.tokens.sequences import (
    POOLINGS,
    Frame,
    RankedCells,
    assemble,
    batch_unit,
    count_genes,
    drop_genes,
    expressed_genes,
    join_cells,
    plan_batches,
    rank_genes,
    reordered,
    shuffled_order,
    take_cells,
    write_sentences,
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


LENGTHS = st.lists(st.integers(0, 50), max_size=60).map(lambda values: np.array(values, dtype=np.int64))


@given(LENGTHS, st.integers(1, 200))
def test_every_cell_with_genes_is_in_exactly_one_batch(lengths: np.ndarray, tokens: int) -> None:
    batches = plan_batches(lengths, tokens=tokens)
    together = np.concatenate([np.zeros(0, dtype=np.int64), *batches])
    assert sorted(together.tolist()) == np.flatnonzero(lengths).tolist()


@given(LENGTHS, st.integers(1, 200))
def test_no_batch_is_larger_than_allowed_unless_it_is_one_cell(lengths: np.ndarray, tokens: int) -> None:
    for batch in plan_batches(lengths, tokens=tokens):
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= tokens


@given(LENGTHS, st.integers(1, 200), st.sampled_from([1, 2, 4, 8]))
def test_in_units_cells_have_the_same_neighbours_however_they_are_cut(
    lengths: np.ndarray, tokens: int, unit: int
) -> None:
    """RELIABILITY 70."""
    whole = [batch.tolist() for batch in plan_batches(lengths, tokens=tokens, unit=unit)]
    for rows in (8, 16):
        starts = range(0, len(lengths), rows)
        parts = [plan_batches(lengths[i : i + rows], tokens=tokens, unit=unit) for i in starts]
        cut = [(start + batch).tolist() for start, batches in zip(starts, parts, strict=True) for batch in batches]
        assert cut == whole


@pytest.mark.parametrize(("longest", "tokens", "unit"), [(215, 4096, 512), (2063, 32768, 256), (9000, 4096, 1)])
def test_a_unit_is_a_power_of_two(longest: int, tokens: int, unit: int) -> None:
    assert batch_unit(longest, tokens) == unit


def test_neighbours_in_a_batch_are_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(20, 200, 4096)
    batches = plan_batches(lengths, tokens=2048)
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    assert padded / lengths.sum() < 1.01


@pytest.fixture
def three_cells():
    return rank_genes(csr_matrix(np.array([[3, 1, 0, 0], [0, 0, 0, 2], [1, 4, 2, 0]], dtype=np.float32)), top_genes=4)


def test_a_sequence_is_prefix_genes_suffix_padding(three_cells) -> None:
    frame = Frame(n_prefix=1, n_suffix=2, readout_at_end=True)
    batch = assemble(three_cells, np.array([2, 0, 1]), frame=frame, poolings=POOLINGS)
    # slots: 0 padding, 1 prefix, 2 and 3 suffix, 4… genes
    assert batch.slots.tolist() == [[1, 5, 6, 4, 2, 3], [1, 4, 5, 2, 3, 0], [1, 7, 2, 3, 0, 0]]
    assert batch.lengths.tolist() == [6, 5, 4]
    assert batch.scale.tolist() == [[0, 4, 2, 1, 0, 0], [0, 3, 1, 0, 0, 0], [0, 2, 0, 0, 0, 0]]


def test_pooling_weights_by_hand(three_cells) -> None:
    """RELIABILITY 19: padding is never pooled."""
    frame = Frame(n_prefix=1, n_suffix=2, readout_at_end=True)
    batch = assemble(three_cells, np.array([2, 0]), frame=frame, poolings=("last", "mean", "wmean"))
    last, mean, wmean = batch.pooling[1]
    assert last.tolist() == [0, 0, 0, 0, 1, 0]
    assert mean.tolist() == [0, 0.5, 0.5, 0, 0, 0]
    assert wmean.tolist() == [0, 0.75, 0.25, 0, 0, 0]
    np.testing.assert_allclose(batch.pooling.sum(axis=2), 1, rtol=1e-6)


def test_an_encoder_is_read_at_its_first_token(three_cells) -> None:
    batch = assemble(three_cells, np.array([0]), frame=Frame(1, 2, readout_at_end=False), poolings=("last",))
    assert batch.pooling[0, 0].tolist() == [1, 0, 0, 0, 0]


SPELLED = ["CD3E", "NKG7", "B2M"]  # 4, 4 and 3 tokens of a tokenizer that spells
ROWS = csr_matrix(np.array([[1, 2, 3], [0, 0, 0], [5, 0, 4]], dtype=np.float32))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_symbols_in_descending_expression(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = load_tokenizer(locate_model(str(request.getfixturevalue(kind))))
    texts, lengths = write_sentences(rank_genes(ROWS, top_genes=3), SPELLED, tokenizer=tokenizer, max_tokens=128)
    assert texts == ["B2M NKG7 CD3E", "", "CD3E B2M"]
    assert lengths.tolist() == [13, 0, 9]


@pytest.mark.parametrize(
    ("max_tokens", "text"), [(13, "B2M NKG7 CD3E"), (12, "B2M NKG7"), (9, "B2M NKG7"), (8, "B2M"), (3, "B2M")]
)
def test_only_whole_symbols_that_fit(llama: Path, max_tokens: int, text: str) -> None:
    tokenizer = load_tokenizer(locate_model(str(llama)))
    texts, _ = write_sentences(rank_genes(ROWS, top_genes=3), SPELLED, tokenizer=tokenizer, max_tokens=max_tokens)
    assert texts[0] == text


def test_another_order_is_of_the_same_symbols(llama: Path) -> None:
    tokenizer = load_tokenizer(locate_model(str(llama)))
    texts, _ = write_sentences(
        rank_genes(ROWS, top_genes=3), SPELLED, tokenizer=tokenizer, max_tokens=9, places=np.array([0, 1, 2])
    )
    assert texts == ["NKG7 B2M", "", "CD3E B2M"]
