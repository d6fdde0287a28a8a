from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from scstore.cells.labels import missing_labels
from scstore.errors import LabelsError
from scstore.heads.labels import encode_known_labels, encode_labels


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
    with pytest.raises(LabelsError, match=r"1 of 4 labels are missing \(first: row 2\)"):
        encode_labels(y, 4)


def test_nan_that_numpy_turned_into_text_is_missing() -> None:
    """RELIABILITY 42: a label column with missing values."""
    with pytest.raises(LabelsError, match="missing"):
        encode_labels(np.array(["a", np.nan, "b"]), 3)
    with pytest.raises(LabelsError, match="missing"):
        encode_labels(np.array([1.0, np.nan, 2.0]), 3)


@pytest.mark.parametrize(
    ("y", "n", "told"),
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
def test_labels_that_cannot_be_learned_from_are_refused(y: Any, n: int, told: str) -> None:
    """RELIABILITY 42: one class."""
    y = np.array(y, dtype=object) if y == ["a", 1] else y
    with pytest.raises(LabelsError, match=told):
        encode_labels(y, n)


@pytest.mark.parametrize(
    "y", [["b", "a", "b"], pd.Categorical(["b", "a", "b"]), np.array(["b", "a", "b"], dtype=object)]
)
def test_labels_of_classes_that_are_known(y: Any) -> None:
    assert encode_known_labels(y, 3, np.array(["a", "b", "c"])).codes.tolist() == [1, 0, 1]


def test_numbers_of_classes_that_are_known() -> None:
    assert encode_known_labels([5, 2], 2, np.array([2, 5])).codes.tolist() == [1, 0]
    with pytest.raises(LabelsError, match="7 is none"):
        encode_known_labels([5, 7], 2, np.array([2, 5]))
    with pytest.raises(LabelsError, match="another kind"):
        encode_known_labels(["many", "few"], 2, np.array([2, 5]))
    with pytest.raises(LabelsError, match="missing"):
        encode_known_labels(["a", None], 2, np.array(["a", "b"]))
    with pytest.raises(LabelsError, match="1 labels for 2 cells"):
        encode_known_labels(["a"], 2, np.array(["a", "b"]))
