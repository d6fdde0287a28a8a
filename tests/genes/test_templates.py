from __future__ import annotations

import pytest

from scstore.errors import GenesError
from scstore.genes.templates import check_template, fill_template

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


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{symbol", "expected '}'"),
        ("{words}", r"no column 'words'. It has: \{symbol\}, \{name\}"),
        ("{symbol.__class__}", "symbol"),
        ("{symbol:d}", "format code"),
        ("{}", "positional"),
    ],
)
def test_what_cannot_be_filled_is_found_before_any_gene(template: str, word: str) -> None:
    with pytest.raises(GenesError, match=word):
        check_template(template, list(ROW), source="here")
