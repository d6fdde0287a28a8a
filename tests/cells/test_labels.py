from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support import Notes

from scstore.cells.labels import missing_labels, read_labels, report_labels, similar_labels
from scstore.errors import LabelsError


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["a", None, " ", "b", "Unknown"]),
        pd.Series(["a", np.nan, "", "b", " n/a "], dtype="category"),
        pd.Series(["a", pd.NA, "<NA>", "b", "NONE"], dtype="string"),
    ],
)
def test_missing_labels_are_none(column: pd.Series) -> None:
    assert read_labels(pd.DataFrame({"x": column}), "x", source="s") == ["a", None, None, "b", None]


def test_words_that_count_as_missing_are_chosen() -> None:
    obs = pd.DataFrame({"x": ["a", "unknown", "Doublet", None]})
    assert read_labels(obs, "x", missing=["doublet"], source="s") == ["a", "unknown", None, None]


def test_numbers_become_text() -> None:
    assert read_labels(pd.DataFrame({"x": [1, 2]}), "x", source="s") == ["1", "2"]
    assert missing_labels([1.0, np.nan, np.inf]).tolist() == [False, True, True]


def test_an_absent_or_blank_column_is_refused() -> None:
    frame = pd.DataFrame({"kind": [None, "unknown"]})
    with pytest.raises(LabelsError, match="Did you mean kind"):
        read_labels(frame, "kinds", source="cells.h5ad")
    with pytest.raises(LabelsError, match="no cell has a 'kind'"):
        read_labels(frame, "kind", source="cells.h5ad")


def test_words_left_out_and_similar_labels_are_reported() -> None:
    obs = pd.DataFrame({"x": ["T cell", "T-cell", "T cell", "unknown", None, "B"]})
    notes = Notes()
    report_labels(obs, "x", read_labels(obs, "x", source="s"), source="s", progress=notes)
    missing, similar = notes.said
    assert "'unknown' (1 cells)" in missing
    assert "'T cell' (2 cells), 'T-cell' (1 cells)" in similar


@pytest.mark.parametrize(
    "same", [["B cell", "B cells"], ["NK cell", "nk_cell", "NK-cell", " NK  Cell"], ["Tregs", "Treg"], ["DC1", "DC 1"]]
)
def test_near_identical_labels_are_found(same: list[str]) -> None:
    groups = similar_labels([*same, *same[:1], None, "mast cell"])
    assert [sorted(label for label, _ in group) for group in groups] == [sorted(same)]
    assert groups[0][0] == (same[0], 2)


@pytest.mark.parametrize(
    "different", [["CD4+ T", "CD4- T"], ["DC1", "DC2"], ["1.5", "15"], ["mass", "mas"], ["T", "Ts"], ["NK", "NKT"]]
)
def test_labels_that_mean_something_else_are_not(different: list[str]) -> None:
    assert similar_labels(different) == []
