from __future__ import annotations

import json
from pathlib import Path

import pytest

from scstore.errors import GenesError
from scstore.genes.texts import check_template, describe_by_symbol, fill_template, read_descriptions

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
    ("name", "content", "template"),
    [
        ("g.tsv", "gene\ttext\nA\tx\n", None),
        ("g.tsv", "symbol\ttext\nA\tx\n\ty\n", None),
        ("g.tsv", "symbol\ttext\nA\tx\n", "{summary}"),
        ("g.tsv", "", None),
        ("g.tsv", "symbol\ttext\n", None),
        ("g.json", "{", None),
        ("g.json", "[1]", None),
        ("g.json", None, None),
    ],
)
def test_bad_tables_are_refused_by_name(tmp_path: Path, name: str, content: str | None, template: str | None) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(GenesError, match=name):
        read_descriptions(tmp_path / name, template=template)


ROW = {"symbol": "CD3D", "name": "CD3 delta", "synonyms": ""}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{symbol}: {name}.", "CD3D: CD3 delta."),
        ("{symbol}[ ({synonyms})]", "CD3D"),
        ("{symbol}[ ({name})][ or {synonyms}]", "CD3D (CD3 delta)"),
        ("{symbol}[, {name} or {synonyms}]", "CD3D"),
        ("[protein] {symbol}", "[protein] CD3D"),
        ("{symbol:>6}", "CD3D"),
    ],
)
def test_fields_and_optional_parts(template: str, text: str) -> None:
    check_template(template, list(ROW), source="here")
    assert fill_template(template, ROW) == text


@pytest.mark.parametrize("template", ["{symbol", "{words}", "{symbol.__class__}", "{symbol:d}", "{}"])
def test_a_template_is_checked_before_any_gene(template: str) -> None:
    with pytest.raises(GenesError):
        check_template(template, list(ROW), source="here")


def test_a_misspelt_field_gets_a_suggestion() -> None:
    with pytest.raises(GenesError, match=r"'nam'.* name\?"):
        check_template("{nam}", list(ROW), source="here")
