from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from scstore.tokens.batches import POOLINGS, Frame, assemble, batch_unit, plan_batches
from scstore.tokens.ranking import rank_genes

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
def ranked():
    return rank_genes(csr_matrix(np.array([[3, 1, 0, 0], [0, 0, 0, 2], [1, 4, 2, 0]], dtype=np.float32)), top_genes=4)


def test_a_sequence_is_prefix_genes_suffix_padding(ranked) -> None:
    frame = Frame(n_prefix=1, n_suffix=2, readout_at_end=True)
    batch = assemble(ranked, np.array([2, 0, 1]), frame=frame, poolings=POOLINGS)
    # slots: 0 padding, 1 prefix, 2 and 3 suffix, 4… genes
    assert batch.slots.tolist() == [[1, 5, 6, 4, 2, 3], [1, 4, 5, 2, 3, 0], [1, 7, 2, 3, 0, 0]]
    assert batch.lengths.tolist() == [6, 5, 4]
    assert batch.scale.tolist() == [[0, 4, 2, 1, 0, 0], [0, 3, 1, 0, 0, 0], [0, 2, 0, 0, 0, 0]]


def test_pooling_weights_by_hand(ranked) -> None:
    """RELIABILITY 19: padding is never pooled."""
    frame = Frame(n_prefix=1, n_suffix=2, readout_at_end=True)
    batch = assemble(ranked, np.array([2, 0]), frame=frame, poolings=("last", "mean", "wmean"))
    last, mean, wmean = batch.pooling[1]
    assert last.tolist() == [0, 0, 0, 0, 1, 0]
    assert mean.tolist() == [0, 0.5, 0.5, 0, 0, 0]
    assert wmean.tolist() == [0, 0.75, 0.25, 0, 0, 0]
    np.testing.assert_allclose(batch.pooling.sum(axis=2), 1, rtol=1e-6)


def test_an_encoder_is_read_at_its_first_token(ranked) -> None:
    batch = assemble(ranked, np.array([0]), frame=Frame(1, 2, readout_at_end=False), poolings=("last",))
    assert batch.pooling[0, 0].tolist() == [1, 0, 0, 0, 0]
