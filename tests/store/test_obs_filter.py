from __future__ import annotations

from pathlib import Path

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
        "ex.vivo": ["a", "b", "c", "d"],
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
        ("`in.vivo` == 'c'", "y"),
        ("ex.vivo == 'c'", "y"),
        ("sick == True", "wy"),
        ("tissue in ()", ""),
        ("tissue == '`n`'", ""),
        ("n == 1 or n == 2 and n == 3", "w"),  # and binds closer
        ("(n == 1 or n == 2) and n == 2", "x"),
        ("not not n == 1", "w"),
        ("tissue < 'lung'", "x"),
    ],
)
def test_conditions(condition: str, rows: str) -> None:
    assert "".join(OBS.index[cells_where(OBS, condition)]) == rows


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "tissue",
        "tissue = 'lung'",
        "tissue == lung",
        "n == '1'",
        "tissue == 1",
        "sick == 1",
        "n == True",
        "n == 1 n == 2",
        "(n == 1",
        "n in 1, 2",
        "n in 'text'",
        "n in (1, 2]",
        "n in (1, '2')",
        "1 == n",
        "1 < n < 3",
        "n == 1j",
        "n == None",
        "n == 1e999 - 1",
        "n == " + "9" * 5000,
        "n + 1 == 2",
        "_column_0_ == 1",
        "n == f'{1}'",
        "(n := 1) == 1",
        "[n == 1 for _ in (1, 2)]",
        "@n == 1",
        "n == 1\0",
        "(" * 300 + "n == 1" + ")" * 300,
        "not " * 2400 + "n == 1",
        "n == 1 or " * 2000 + "n == 1",
    ],
)
def test_what_is_not_a_condition_is_refused(condition: str) -> None:
    with pytest.raises(OptionError):
        cells_where(OBS, condition)


@pytest.mark.parametrize("column", ["tisue", "`cell typ`"])
def test_an_unknown_column_is_named_with_its_neighbour(column: str) -> None:
    with pytest.raises(OptionError, match=f"{column.strip('`')}.*(tissue|cell type)"):
        cells_where(OBS, f"{column} == 'lung'")


@pytest.mark.parametrize(
    "condition",
    [
        "__import__('pathlib').Path('ran').touch() == 1",
        "tissue.to_csv('ran') == 1",
        "n in (open('ran', 'w'), 1)",
        "tissue == open('ran', 'w')",
        "@pd.io.common.os.system('touch ran')",
        "n.__class__ == 1",
        "(lambda: open('ran', 'w'))() == 1",
    ],
)
def test_nothing_in_a_condition_runs(condition: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError):
        cells_where(OBS, condition)
    assert not list(tmp_path.iterdir())


@given(st.text(alphabet="n12 ='\"()[],<>!`andornotin.-e", max_size=40))
def test_any_text_gives_a_mask_or_a_plain_error(text: str) -> None:
    try:
        mask = cells_where(OBS, text)
    except OptionError:
        return
    assert mask.shape == (4,)
    assert mask.dtype == bool
