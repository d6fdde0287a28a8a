from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scstore.cells.labels import read_labels
from scstore.errors import LabelsError


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["a", None, " ", "b"]),
        pd.Series(["a", np.nan, "", "b"], dtype="category"),
        pd.Series(["a", pd.NA, "", "b"], dtype="string"),
    ],
)
def test_missing_labels_are_none(column: pd.Series) -> None:
    assert read_labels(pd.DataFrame({"x": column}), "x", source="s") == ["a", None, None, "b"]


def test_numbers_become_text() -> None:
    assert read_labels(pd.DataFrame({"x": [1, 2]}), "x", source="s") == ["1", "2"]


def test_a_missing_or_blank_column_is_refused() -> None:
    frame = pd.DataFrame({"x": [None, ""]})
    with pytest.raises(LabelsError, match="no obs column 'y'. It has: x"):
        read_labels(frame, "y", source="cells.h5ad")
    with pytest.raises(LabelsError, match="no cell has a 'x'"):
        read_labels(frame, "x", source="cells.h5ad")
