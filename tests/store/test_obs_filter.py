from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scstore.errors import OptionError
from scstore.store.obs_filter import cells_where

OBS = pd.DataFrame(
    {
        "tissue": pd.Categorical(["lung", "liver", None, "lung"]),
        "age": [30, 40.5, np.nan, 7],
        "n": [1, 2, 3, 4],
        "sick": [True, False, True, False],
        "cell type": ["T's", "B", "B", None],
        "in.vivo": ["a", "b", "c", "d"],
    },
    index=list("wxyz"),
)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("tissue == 'lung'", "wz"),
        ('tissue != "lung"', "x"),
        ("tissue in ('lung', 'liver')", "wxz"),
        ("tissue not in ['lung']", "x"),
        ("not tissue in ['lung']", "xy"),
        ("age > 7", "wx"),
        ("age<=7", "z"),
        ("n >= 2 and n < 4", "xy"),
        ("n == -1 or n == 4e0", "z"),
        ("n in (1, 3) or sick == false", "wxyz"),
        ("sick == true and not (n == 1)", "y"),
        ('`cell type` == "T\'s"', "w"),
        ("in.vivo == 'c'", "y"),
        ("n == 1 or n == 2 and n == 3", "w"),  # and binds closer
        ("(n == 1 or n == 2) and n == 2", "x"),
        ("not not n == 1", "w"),
        ("tissue < 'lung'", "x"),
    ],
)
def test_conditions(condition: str, rows: str) -> None:
    assert "".join(OBS.index[cells_where(OBS, condition)]) == rows


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("", "at the end, a column of obs"),
        ("tissue", "at the end, ==, !="),
        ("tissue = 'lung'", "'= '|character 8"),
        ("tissue == lung", "'lung' .character 11.*in quotes"),
        ("organ == 'lung'", "no obs column 'organ'. There are: tissue"),
        ("n == '1'", "'n' wants a number, not '1'"),
        ("tissue == 1", "'tissue' wants text in quotes, not '1'"),
        ("sick == 1", "wants true or false"),
        ("n == 1 n == 2", "and, or, or the end"),
        ("(n == 1", "[)] was expected"),
        ("n in 1, 2", "[(] or"),
        ("n in (1, 2]", ", or [)]"),
        ("n not == 2", "in was expected"),
        ("and == 1", "a column of obs"),
        ("__import__('os').system('true')", "[.]system"),
        ("@n == 1", "character 1"),
        ("(" * 60 + "n == 1" + ")" * 60, "more than 50"),
        ("n == 1 or " * 2000 + "n == 1", "characters; at most"),
    ],
)
def test_what_cannot_be_read_is_said(condition: str, told: str) -> None:
    with pytest.raises(OptionError, match=rf"--where.*(?:{told})"):
        cells_where(OBS, condition)


@given(st.text(alphabet="n12 ='\"()[],<>!`andornotin.-e", max_size=40))
def test_any_text_gives_a_mask_or_a_plain_error(text: str) -> None:
    try:
        mask = cells_where(OBS, text)
    except OptionError:
        return
    assert mask.shape == (4,)
    assert mask.dtype == bool
