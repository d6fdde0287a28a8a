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


TEXTS = ["a\rb", "\r", "a\r\nb", "a\nb", 'a"b', "=1+1", " x ", "a,b", "\tx", "ä细胞", "'"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_any_text_is_read_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    """RELIABILITY 67: in ids, labels and names of columns; a lone carriage return ends no line."""
    frame = pd.DataFrame({"n\rm": TEXTS, "x": range(11)}, index=pd.Index([f"{t}1" for t in TEXTS], name="cell_id"))
    frame["kind"] = pd.Categorical(TEXTS)
    with open_table(tmp_path / f"t{suffix}", index=True) as table:
        table.write(frame[3:])  # the first block may have none
        table.write(frame[:3])
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    found = read(tmp_path / f"t{suffix}", **({"index_col": "cell_id"} if suffix == ".csv" else {}))
    assert found.index.tolist() == [*frame.index[3:], *frame.index[:3]]
    assert found.columns.tolist() == ["n\rm", "x", "kind"]
    for name in found:
        assert found[name].tolist() == frame[name].loc[found.index].tolist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_only_a_table_of_scstore_is_replaced(tmp_path: Path, suffix: str) -> None:
    """RELIABILITY 57: not a user's own table, nor a file or folder of anything else under its name."""
    mine = pd.DataFrame({"cell_id": ["a"], "donor": ["d"], "confidence": [1.0]})
    write_table(mine, tmp_path / f"mine{suffix}")
    (tmp_path / f"text{suffix}").write_bytes(b"years\x00 of work")
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"link{suffix}").symlink_to("nowhere")
    for name in ("mine", "text", "folder", "link"):
        with pytest.raises(OutputError, match=name):
            check_table(tmp_path / f"{name}{suffix}", overwrite=True)
    for i, columns in enumerate(
        (["confidence", "best_label"], ["cell_id", "rank", "distance"], ["n_labelled", "coherence"])
    ):
        write_table(pd.DataFrame({name: [1] for name in [*columns, "more"]}), tmp_path / f"{i}{suffix}")
        assert check_table(tmp_path / f"{i}{suffix}", overwrite=True)
