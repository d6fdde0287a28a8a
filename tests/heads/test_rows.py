from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scstore.errors import CellsError
from scstore.heads.rows import (
    ConcatRows,
    MappedRows,
    RowSubset,
    StackedRows,
    fetch,
    fits,
    is_lazy,
    iter_blocks,
    iter_raw_blocks,
    materialise,
    read,
    to_dense,
    widest,
)

VALUES = np.arange(60, dtype=np.float64).reshape(12, 5)


def test_what_is_read_in_pieces(disk_rows: Any) -> None:
    assert is_lazy(disk_rows(VALUES))
    assert is_lazy(RowSubset(VALUES, np.arange(3)))
    for loaded in (VALUES, sparse.csr_matrix(VALUES), pd.DataFrame(VALUES), VALUES.tolist(), 3):
        assert not is_lazy(loaded)


@pytest.mark.parametrize("form", ["array", "float16", "csr", "disk", "disk csr"])
def test_reading_gives_the_same_rows_whatever_they_are(form: str, disk_rows: Any) -> None:
    rows = {
        "array": VALUES,
        "float16": VALUES.astype(np.float16),
        "csr": sparse.csr_matrix(VALUES),
        "disk": disk_rows(VALUES),
        "disk csr": disk_rows(sparse.csr_matrix(VALUES)),
    }[form]
    for key in (slice(2, 7), np.array([3, 4, 9]), np.array([9, 3, 3, 0]), np.array([], dtype=np.int64)):
        block = read(rows, key)
        assert block.dtype == np.float32
        np.testing.assert_array_equal(block, VALUES[key])
    np.testing.assert_array_equal(materialise(rows), VALUES)
    assert materialise(rows) is not rows


@settings(max_examples=40)
@given(block_bytes=st.integers(1, 400), index=st.lists(st.integers(0, 11), max_size=30))
def test_blocks_join_to_the_whole(block_bytes: int, index: list[int]) -> None:
    rows = RowSubset(VALUES, np.array(index, dtype=np.int64))
    blocks = list(iter_blocks(rows, block_bytes=block_bytes))
    assert [start for start, _ in blocks] == np.cumsum([0, *(len(b) for _, b in blocks)])[:-1].tolist()
    assert all(block.nbytes <= max(block_bytes, 20) for _, block in blocks)
    np.testing.assert_array_equal(np.concatenate([np.empty((0, 5)), *(b for _, b in blocks)]), VALUES[index])


def test_raw_blocks_stay_sparse() -> None:
    blocks = list(iter_raw_blocks(sparse.csr_matrix(VALUES), block_bytes=100))
    assert all(sparse.issparse(block) for _, block in blocks)
    assert len(blocks) == 3


def test_a_block_of_narrow_rows_made_of_wide_ones_counts_the_wide_ones(disk_rows: Any) -> None:
    wide = disk_rows(np.ones((100, 1000), dtype=np.float32))
    narrow = MappedRows(RowSubset(wide, np.arange(100)), lambda block: block[:, :2], width=2)
    assert widest(narrow) == 1000
    assert widest(ConcatRows([narrow, narrow])) == 2000
    assert sum(len(block) for _, block in iter_blocks(narrow, block_bytes=40_000)) == 100
    assert wide.most == 10


def test_subset_of_subset_mapped_and_joined() -> None:
    inner = RowSubset(RowSubset(VALUES, np.array([8, 2, 5])), np.array([2, 0]))
    np.testing.assert_array_equal(read(inner, slice(None)), VALUES[[5, 8]])
    doubled = MappedRows(inner, lambda block: block * 2, width=5)
    joined = ConcatRows([doubled, inner])
    assert joined.shape == (2, 10)
    np.testing.assert_array_equal(read(joined, np.array([1])), [[*VALUES[8] * 2, *VALUES[8]]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_bad_value_is_refused_with_the_row_of_the_users_matrix(bad: float) -> None:
    values = VALUES.copy()
    values[8, 1] = bad
    subset = RowSubset(values, np.array([1, 8]))
    mapped = MappedRows(subset, lambda block: block - np.float32(3), width=5)
    for rows in (subset, mapped, ConcatRows([mapped, mapped])):
        with pytest.raises(CellsError, match=r"Row 8 of the features"):
            list(iter_blocks(rows))
    np.testing.assert_array_equal(read(subset, np.array([0])), VALUES[[1]])


def test_a_sum_beyond_float32_is_no_bad_value() -> None:
    values = np.full((4, 4), 3e38, dtype=np.float32)
    np.testing.assert_array_equal(read(values, slice(None)), values)


def test_memory_budget_counts_float32() -> None:
    assert fits(VALUES, 240)
    assert not fits(VALUES, 239)


def test_fetch_keeps_a_slice_a_slice(disk_rows: Any) -> None:
    rows = disk_rows(VALUES)
    np.testing.assert_array_equal(fetch(rows, slice(0, 4)), VALUES[:4])
    assert rows.read == 4


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_stacked_rows_are_one_matrix(kind: Any) -> None:
    whole = np.arange(30, dtype=np.float32).reshape(10, 3)
    stacked = StackedRows([kind(whole[:4]), kind(whole[4:5]), kind(whole[5:])])
    assert stacked.shape == (10, 3)
    for key in (slice(2, 7), slice(0, 0), np.array([9, 0, 4, 4, 5])):
        np.testing.assert_array_equal(to_dense(stacked[key]), whole[key])
    np.testing.assert_array_equal(materialise(RowSubset(stacked, np.array([8, 1]))), whole[[8, 1]])


def test_values_whose_sum_is_too_large_are_not_bad_ones() -> None:
    rows = np.full((4, 3), 3e38)
    np.testing.assert_array_equal(read(rows, slice(None)), rows.astype(np.float32))
    rows[2, 1] = np.nan
    with pytest.raises(CellsError, match="Row 2 "):
        read(rows, slice(None))
