from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scstore.heads.folds import stratified_folds, stratified_part, stratified_sample

CODES = st.lists(st.integers(0, 5), min_size=2, max_size=80).map(np.array)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(codes=CODES, n_folds=st.integers(2, 8), seed=st.integers(0, 99))
def test_no_fold_takes_a_class_away(codes: np.ndarray, n_folds: int, seed: int) -> None:
    """RELIABILITY 42: a class seen once stays on the training side of every fold."""
    folds = stratified_folds(codes, n_folds=n_folds, rng=np.random.default_rng(seed))
    held_out = np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *folds]))
    several = np.flatnonzero(np.bincount(codes)[codes] > 1)
    np.testing.assert_array_equal(held_out, several)
    for fold in folds:
        assert len(fold)
        assert (np.diff(fold) > 0).all()
        assert set(np.delete(codes, fold)) == set(codes)
    sizes = [len(fold) for fold in folds]
    assert not sizes or max(sizes) - min(sizes) <= 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(codes=CODES, share=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_part_and_a_sample_leave_every_class_a_cell(codes: np.ndarray, share: float, seed: int) -> None:
    size = round(share * len(codes))
    part = stratified_part(codes, size=size, rng=np.random.default_rng(seed))
    assert set(np.delete(codes, part)) == set(codes)
    assert abs(len(part) - size) <= 6 * 1.5
    sample = stratified_sample(codes, size=size, rng=np.random.default_rng(seed))
    assert set(codes[sample]) == set(codes)
    assert len(sample) <= size + 6


def test_the_same_seed_gives_the_same_folds() -> None:
    codes = np.arange(50) % 4
    first, second = (stratified_folds(codes, n_folds=5, rng=np.random.default_rng(3)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
