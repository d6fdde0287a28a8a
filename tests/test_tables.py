from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scstore.errors import OutputError
from scstore.tables import check_table, open_table, write_table

FRAME = pd.DataFrame(
    {
        "id": ["a", "b", "c"],
        "late": [None, None, "text"],
        "kind": pd.Categorical(["x", None, "x"], ["x", "never"]),
        "n": [1, 2, 3],
        "share": [0.5, np.nan, 0.25],
    }
)


@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_parts_make_the_same_table_as_the_whole(tmp_path: Path, suffix: str, index: bool) -> None:
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    frame = FRAME.rename(index=str).rename_axis(index="cell_id")
    write_table(frame, tmp_path / f"whole{suffix}", index=index)
    with open_table(tmp_path / f"parts{suffix}", index=index) as table:
        for start in range(3):
            table.write(frame[start : start + 1])
    whole, parts = (read(tmp_path / f"{name}{suffix}") for name in ("whole", "parts"))
    pd.testing.assert_frame_equal(parts, whole, check_categorical=False)
    assert len(parts) == 3
    assert ("cell_id" in (*parts.columns, parts.index.name)) == index
    assert parts["late"].tolist()[2] == "text"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_failure_leaves_nothing_and_no_rows_still_have_columns(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"t{suffix}"
    with pytest.raises(RuntimeError, match="stop"), open_table(target) as table:
        table.write(FRAME)
        msg = "stop"
        raise RuntimeError(msg)
    assert not list(tmp_path.iterdir())
    write_table(FRAME[:0], target)
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    assert list(read(target).columns) == list(FRAME.columns)


def test_the_name_is_looked_at_first(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"t\.txt"):
        check_table(tmp_path / "t.txt")
    (tmp_path / "t.csv").touch()
    with pytest.raises(OutputError, match=r"t\.csv"):
        check_table(tmp_path / "t.csv")
    assert check_table(tmp_path / "t.csv", overwrite=True) == tmp_path / "t.csv"
