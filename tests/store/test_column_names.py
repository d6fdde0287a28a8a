from __future__ import annotations

import pytest

from scstore.errors import CellsError
from scstore.store.column_names import check_columns


def test_names_that_a_store_can_hold() -> None:
    check_columns(["cell_type", "label:fine", "c:", "a.b", "naïve T cell (%)", "é" * 100, "no\u00a0break", 7])


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["a/b"], "'a/b'.*a slash"),
        (["..\\b"], "a slash"),
        (["a\0"], "control character"),
        ([".."], "reserved"),
        (["_index"], "reserved"),
        (["zarr.json"], "reserved"),
        (["é" * 101], "202 bytes"),
        (["1", 1], "two columns"),
    ],
)
def test_others_are_refused_by_name(names: list[object], why: str) -> None:
    """RELIABILITY 15: names are never paths."""
    with pytest.raises(CellsError, match=why):
        check_columns(names)
