from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scstore.cells.label_names import alike, read_label_names
from scstore.errors import LabelsError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "spelling\tname\nB cells\tB cell\n\nlow quality\t\n"),
        ("a.txt", "\ufeffB cells\tB cell\r\nlow quality\t \r\n"),
        ("a.json", '{"B cells": "B cell", "low quality": ""}'),
    ],
)
def test_spellings_become_names_and_an_empty_name_leaves_out(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    names = read_label_names(tmp_path / name)
    assert dict(names) == {"B cells": "B cell", "low quality": ""}
    assert names.source == name
    assert names.digest.startswith("sha256:")
    assert names.apply(["B cell", "B cells", "low quality", None, "T"]) == ["B cell", "B cell", None, None, "T"]
    assert names.unused(["B cells"], ["T", None]) == ["low quality"]


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.tsv", "B cells,B cell\n", "line 1 has 1 field"),
        ("a.tsv", "B cells\tB\tB cell\n", "line 1 has 3 field"),
        ("a.tsv", "a\tb\n\tB cell\n", "line 2"),
        ("a.tsv", "a\tb\na\tc\n", "'a' has two names, 'b' and 'c'"),
        ("a.tsv", "a\tb\nb\tc\n", "'a' becomes 'b', which itself becomes 'c'"),
        ("a.tsv", "spelling\tname\n", "holds no spellings"),
        ("a.json", '{"a": 1}', "both text"),
        ("a.json", '["a"]', "both text"),
        ("a.json", "{}", "both text"),
        ("a.json", '{"a": "b", "a": "c"}', "two names"),
        ("a.json", "{", "cannot be read"),
        ("a.json", '{"a": {"b": "c"}}', "both text"),
    ],
)
def test_a_file_that_means_nothing_is_refused(tmp_path: Path, name: str, text: str, word: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(LabelsError, match=word) as caught:
        read_label_names(tmp_path / name)
    assert str(caught.value).startswith("--merge-labels ")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="cannot be read"):
        read_label_names(tmp_path / "absent.tsv")
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(LabelsError, match="cannot be read"):
        read_label_names(tmp_path / "binary.tsv")


def test_a_name_may_be_its_own_spelling(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a\tb\nb\tb\n")
    assert read_label_names(tmp_path / "a.tsv").apply(["a", "b"]) == ["b", "b"]


@pytest.mark.parametrize(
    "same", [["B cell", "B cells"], ["NK cell", "nk_cell", "NK-cell", " NK  Cell"], ["Tregs", "Treg"], ["DC1", "DC 1"]]
)
def test_near_identical_labels_are_found(same: list[str]) -> None:
    groups = alike([*same, *same[:1], None, "mast cell"])
    assert [sorted(label for label, _ in group) for group in groups] == [sorted(same)]
    assert groups[0][0] == (same[0], 2)


@pytest.mark.parametrize(
    "different", [["CD4+ T", "CD4- T"], ["DC1", "DC2"], ["1.5", "15"], ["mass", "mas"], ["T", "Ts"], ["NK", "NKT"]]
)
def test_labels_that_mean_something_else_are_not(different: list[str]) -> None:
    assert alike(different) == []


@given(st.lists(st.text(max_size=6)))
def test_any_text_is_taken(labels: list[str]) -> None:
    groups = alike(labels)
    assert all(len(group) > 1 for group in groups)
    assert len({label for group in groups for label, _ in group}) == sum(map(len, groups))
