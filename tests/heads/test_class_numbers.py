from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scstore.cells.labels import missing_labels
from scstore.errors import LabelsError
from scstore.heads.class_numbers import (
    encode_groups,
    encode_labels,
    group_folds,
    stratified_folds,
    stratified_part,
    stratified_sample,
)


@pytest.mark.parametrize(
    "y",
    [
        ["b", "a", "b"],
        np.array(["b", "a", "b"], dtype=object),
        pd.Series(["b", "a", "b"]),
        pd.Categorical(["b", "a", "b"], categories=["c", "b", "a"]),
    ],
    ids=["list", "objects", "series", "categorical"],
)
def test_text_labels_are_numbered_in_sorted_order(y: Any) -> None:
    labels = encode_labels(y, 3)
    assert labels.classes.tolist() == ["a", "b"]
    assert labels.classes.dtype.kind == "U"
    assert labels.codes.tolist() == [1, 0, 1]


def test_numbers_are_labels_too() -> None:
    assert encode_labels([3, 1, 3], 3).classes.tolist() == [1, 3]


@pytest.mark.parametrize("hole", [None, np.nan, pd.NA, pd.NaT, "", "  ", "nan", "<NA>"])
def test_missing_labels_are_refused(hole: Any) -> None:
    """RELIABILITY 42: a label column with missing values."""
    y = np.array(["a", "b", hole, "a"], dtype=object)
    assert missing_labels(y).tolist() == [False, False, True, False]
    with pytest.raises(LabelsError, match="row 2"):
        encode_labels(y, 4)


def test_nan_that_numpy_turned_into_text_is_missing() -> None:
    """RELIABILITY 42: a label column with missing values."""
    with pytest.raises(LabelsError):
        encode_labels(np.array(["a", np.nan, "b"]), 3)
    with pytest.raises(LabelsError):
        encode_labels(np.array([1.0, np.nan, 2.0]), 3)


@pytest.mark.parametrize(
    ("y", "n", "named"),
    [
        (["a", "a"], 2, "one class only"),
        (["a"], 1, "1 labelled cells"),
        ([], 0, "0 labelled cells"),
        (["a", "b"], 3, "2 labels for 3 cells"),
        (None, 3, "target y is None"),
        ([0.5, 1.5], 2, "Unknown label type"),
        (["a", 1], 2, "mixed|mix of|Unknown"),
    ],
)
def test_labels_that_cannot_be_learned_from_are_refused(y: Any, n: int, named: str) -> None:
    """RELIABILITY 42: one class."""
    y = np.array(y, dtype=object) if y == ["a", 1] else y
    with pytest.raises(LabelsError, match=named):
        encode_labels(y, n)


CODES = st.lists(st.integers(0, 5), min_size=2, max_size=80).map(np.array)


@settings(max_examples=100)
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


@settings(max_examples=60)
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


@settings(max_examples=60)
@given(groups=CODES, n_folds=st.integers(2, 8))
def test_a_group_lies_in_one_fold_whole(groups: np.ndarray, n_folds: int) -> None:
    groups = np.unique(groups, return_inverse=True)[1]
    folds = group_folds(groups, n_folds=n_folds)
    if not groups.any():
        assert folds == []
        return
    np.testing.assert_array_equal(np.sort(np.concatenate(folds)), np.arange(len(groups)))
    assert len(folds) == min(n_folds, groups.max() + 1)
    assert all(len(fold) for fold in folds)
    inside = [set(groups[fold]) for fold in folds]
    assert sum(map(len, inside)) == len(set(groups))


@pytest.mark.parametrize("groups", [["d"] * 4, ["a", None, "b", "b"], ["a", "b"], None])
def test_groups_that_cannot_be_held_out_are_refused(groups: object) -> None:
    with pytest.raises(LabelsError):
        encode_groups(groups, 4)
    assert encode_groups([7, 3, 7, 7], 4).tolist() == [1, 0, 1, 1]
