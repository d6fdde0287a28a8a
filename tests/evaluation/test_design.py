from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scstore.errors import OptionError
from scstore.evaluation.design import Split, draw_few, group_folds, k_folds

CODES = st.lists(st.integers(0, 4), min_size=8, max_size=80).map(np.array)


@settings(max_examples=40)
@given(codes=CODES, n_groups=st.integers(2, 12), n_folds=st.integers(2, 6), run=st.integers(0, 3), data=st.data())
def test_no_group_is_on_both_sides(
    codes: np.ndarray, n_groups: int, n_folds: int, run: int, data: st.DataObject
) -> None:
    groups = np.array(data.draw(st.lists(st.integers(0, n_groups - 1), min_size=len(codes), max_size=len(codes))))
    if len(np.unique(groups)) < 2:
        groups[0] = (groups[0] + 1) % n_groups
    splits = group_folds(codes, groups, n_folds=n_folds, run=run, seed=0)
    for split in splits:
        assert len(split.test)
        assert not set(groups[split.train]) & set(groups[split.test])
        assert len(split.train) + len(split.test) == len(codes)
    tested = np.concatenate([split.test for split in splits])
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(codes)))
    present = len(np.unique(groups))
    if present <= n_folds:
        assert [split.fold for split in splits] == [str(group) for group in np.unique(groups)]


def test_one_group_cannot_be_held_out() -> None:
    with pytest.raises(OptionError, match="group="):
        group_folds(np.array([0, 1, 0]), np.zeros(3, dtype=int), n_folds=5, run=0, seed=0)


def test_every_run_deals_anew_and_a_seed_deals_the_same() -> None:
    codes, groups = np.arange(60) % 3, np.arange(60) % 10
    for make in (
        lambda run, seed: k_folds(codes, n_folds=4, run=run, seed=seed),
        lambda run, seed: group_folds(codes, groups, n_folds=4, run=run, seed=seed),
    ):
        first, again, other, elsewhere = (
            [s.test.tolist() for s in make(*key)] for key in [(0, 1), (0, 1), (1, 1), (0, 2)]
        )
        assert first == again
        assert first != other != elsewhere != first


@settings(max_examples=60)
@given(codes=CODES, n_cells=st.integers(1, 9), run=st.integers(0, 5))
def test_few_cells_are_exactly_so_many_a_class(codes: np.ndarray, n_cells: int, run: int) -> None:
    every = np.arange(len(codes))
    split = Split(0, "fold é", every[::2], every[1::2])
    few = draw_few(split, codes, n_cells=n_cells, run=run, seed=3)
    available, drawn = (np.bincount(codes[rows], minlength=5) for rows in (split.train, few.train))
    np.testing.assert_array_equal(drawn, np.minimum(available, n_cells))
    assert set(few.train) <= set(split.train)
    assert few.test is split.test
    assert few.run == run
    again = draw_few(split, codes, n_cells=n_cells, run=run, seed=3)
    np.testing.assert_array_equal(few.train, again.train)


def test_draws_of_other_runs_and_folds_differ() -> None:
    codes, every = np.zeros(100, dtype=int), np.arange(100)
    keys = [(0, "0"), (1, "0"), (0, "1")]
    drawn = [draw_few(Split(0, fold, every, every), codes, n_cells=10, run=run, seed=0).train for run, fold in keys]
    assert len({tuple(rows) for rows in drawn}) == 3
