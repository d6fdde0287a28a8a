from __future__ import annotations

import json
from pathlib import Path

import pytest

from scstore.errors import GenesError
from scstore.genes.descriptions import describe_by_symbol, read_descriptions

TSV = "symbol\tensembl_id\tname\tsummary\nCD3D\tENSG00000167286\tCD3 delta\tPart of the TCR.\nLYZ\t\tlysozyme\t\n"


def test_a_template_puts_columns_together(tmp_path: Path) -> None:
    (tmp_path / "g.tsv").write_text(TSV)
    obs, template = read_descriptions(tmp_path / "g.tsv", template="{symbol}: {name}. {summary}", organism="human")
    assert list(obs["text"]) == ["CD3D: CD3 delta. Part of the TCR.", "LYZ: lysozyme."]
    assert template == "{symbol}: {name}. {summary}"
    assert list(obs["ensembl_id"]) == ["ENSG00000167286", ""]
    assert set(obs["organism"]) == {"human"}


def test_a_gene_without_text_is_described_by_its_symbol(tmp_path: Path) -> None:
    (tmp_path / "g.tsv").write_text(TSV)
    obs, _ = read_descriptions(tmp_path / "g.tsv", template="{summary}")
    assert list(obs["text"]) == ["Part of the TCR.", "LYZ"]
    assert list(obs["text_source"]) == ["template", "symbol"]


@pytest.mark.parametrize(
    "content", [{"CD3D": "T cells", "LYZ": None}, [{"symbol": "CD3D", "text": "T cells"}, {"symbol": "LYZ"}]]
)
def test_json_in_both_forms(tmp_path: Path, content: object) -> None:
    (tmp_path / "g.json").write_text(json.dumps(content))
    obs, template = read_descriptions(tmp_path / "g.json")
    assert (list(obs["text"]), template) == (["T cells", "LYZ"], "{text}")


def test_symbols_alone() -> None:
    obs, template = describe_by_symbol(["A", "B", "A"], organism="mouse")
    assert list(obs.index) == ["A", "B", "A-1"]
    assert list(obs["text"]) == ["A", "B", "A"]
    assert (set(obs["text_source"]), template) == ({"symbol"}, "{symbol}")


@pytest.mark.parametrize(
    ("name", "content", "template", "word"),
    [
        ("g.tsv", "gene\ttext\nA\tx\n", None, "no column `symbol`"),
        ("g.tsv", "symbol\ttext\nA\tx\n\ty\n", None, "row 2 has no symbol"),
        ("g.tsv", "symbol\ttext\nA\tx\n", "{summary}", "no column 'summary'"),
        ("g.tsv", "symbol\ttext\nA\tx\n", "{symbol", "template"),
        ("g.tsv", "", None, "cannot be read"),
        ("g.tsv", "symbol\ttext\n", None, "holds no genes"),
        ("g.json", "{", None, "cannot be read"),
        ("g.json", "[1]", None, "list of objects"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, name: str, content: str, template: str | None, word: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(GenesError, match=word):
        read_descriptions(tmp_path / name, template=template)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenesError, match=r"absent\.tsv"):
        read_descriptions(tmp_path / "absent.tsv")
