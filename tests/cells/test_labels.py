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
    obs = pd.DataFrame({"x": ["T cell", "T-cell", "T cell", "unknown", None, "B", "NA", "NA"]})
    notes = Notes()
    report_labels(obs, "x", read_labels(obs, "x", source="s"), source="s", progress=notes)
    missing, similar = notes.said
    assert "4 of 8 cells have no x" in missing
    assert "'NA' 2, 'unknown' 1" in missing
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


@pytest.mark.parametrize("word", ["NA", "None", "unassigned", "Unknown", "nan", "null", "N/A", "n/a", " ", "NaN", "-"])
@pytest.mark.parametrize("dtype", ["object", "category", "string"])
def test_words_for_a_missing_label(word: str, dtype: str) -> None:
    """RELIABILITY 53: none of them is learned unless the user says so."""
    obs = pd.DataFrame({"x": pd.Series(["a", "b", word] * 3, dtype=dtype)})
    assert read_labels(obs, "x", source="s") == ["a", "b", None] * 3
    assert read_labels(obs, "x", missing=["other"], source="s") == ["a", "b", word] * 3


MANY = {
    "nUMI": np.arange(1000, 1400),
    "percent": np.linspace(0, 1, 400),
    "few percents": np.tile(np.linspace(0, 1, 40), 10),
    "text": [f"{i / 7:.3f}" for i in range(400)],
    "categories": pd.Categorical(np.arange(400) % 250),
    "barcodes": [f"AAAC{i}-1" for i in range(400)],
    "days": pd.to_datetime(["2020-01-01", "2021-01-01"] * 200).astype(str),
}


@pytest.mark.parametrize("name", MANY)
def test_measurements_names_and_dates_are_no_labels(name: str) -> None:
    """RELIABILITY 53: the error names columns that may be meant."""
    obs = pd.DataFrame({"x": MANY[name], "donor": ["d1", "d2"] * 200, "cell_type": ["T", "B"] * 200, "n": 1})
    with pytest.raises(LabelsError, match=r"cell_type, donor\.$"):
        read_labels(obs, "x", source="s")
    assert None not in read_labels(obs, "x", learned=False, source="s")  # such as days of batches


@pytest.mark.parametrize(
    "values",
    [
        [str(i % 45) for i in range(400)],
        np.arange(400) % 30,
        (np.arange(400) % 30).astype(float),
        pd.Categorical(np.arange(400) % 150),
        [f"type {i % 90}" for i in range(400)],
        np.tile([0.1, 1.5, 10.0, 100.0], 100),
        np.arange(400) % 2 == 0,
    ],
)
def test_numbers_of_clusters_are_labels(values: object) -> None:
    labels = read_labels(pd.DataFrame({"x": values}), "x", source="s")
    assert None not in labels
    assert len(set(labels)) == pd.Series(values).nunique()


def test_all_cells_of_a_few_may_differ() -> None:
    assert read_labels(pd.DataFrame({"x": [f"t{i}" for i in range(20)]}), "x", source="s")[0] == "t0"
