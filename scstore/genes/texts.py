"""Texts that describe genes: from a table of the user's, or the symbols; and the templates that put them together."""

from __future__ import annotations

import io
import json
import os
import re
import string
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from scstore.errors import GenesError
from scstore.genes.table import COLUMNS, unique_names
from scstore.options import did_you_mean
from scstore.untrusted.guards import reading
from scstore.untrusted.text import read_unpacked

COLUMNS_OF_JSON = 1000

SYMBOL_TEMPLATE = "{symbol}"
TEXT_TEMPLATE = "{text}"

# A part in square brackets with a field in it: left out if one of its fields is empty.
OPTIONAL = re.compile(r"\[([^\[\]]*\{[^\[\]]*)\]")


class DescribedGenes(NamedTuple):
    """Genes with texts: rows of a gene table (:data:`~scstore.genes.table.COLUMNS`), and the template of the texts."""

    obs: pd.DataFrame
    template: str


def describe_by_symbol(
    symbols: Iterable[str], *, ensembl_ids: Iterable[str] | None = None, organism: str = ""
) -> DescribedGenes:
    """Describe genes by their symbols only."""
    frame = pd.DataFrame({"symbol": [str(symbol) for symbol in symbols]}, dtype=str)
    if ensembl_ids is not None:
        frame["ensembl_id"] = [str(name) for name in ensembl_ids]
    return _described(frame, SYMBOL_TEMPLATE, organism)


def read_descriptions(
    path: str | os.PathLike[str], *, template: str | None = None, organism: str = ""
) -> DescribedGenes:
    """Read gene texts from a TSV with a header, gzipped or not, or JSON (``{symbol: text}`` or a list of objects).

    The template may use all columns; it is by default the column ``text``, else the symbol. A gene with an empty text
    is described by its symbol, and ``text_source`` says so.
    """
    file = Path(path)
    frame = _read_frame(file)
    if "symbol" not in frame:
        raise GenesError(f"{file}: no column `symbol`. It has: {', '.join(frame.columns)}.")
    if (blank := frame["symbol"].str.strip() == "").any():
        raise GenesError(f"{file}: row {int(blank.to_numpy().argmax()) + 1} has no symbol.")
    if template is None:
        template = TEXT_TEMPLATE if "text" in frame else SYMBOL_TEMPLATE
    check_template(template, list(frame.columns), source=str(file))
    return _described(frame, template, organism)


def _read_frame(file: Path) -> pd.DataFrame:
    with reading(file, "gene texts", error=GenesError, cure="Give a TSV with a header, or JSON."):
        if file.suffix == ".json":
            content: Any = json.loads(read_unpacked(file))
            if isinstance(content, Mapping):
                content = [{"symbol": symbol, "text": text} for symbol, text in content.items()]
            if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
                raise ValueError("expected {symbol: text} or a list of objects")
            if len({name for row in content for name in row}) > COLUMNS_OF_JSON:  # each object gets them all
                raise ValueError(f"the objects have more than {COLUMNS_OF_JSON:,} fields")
            frame = pd.DataFrame.from_records(content)
        else:
            with io.BytesIO(read_unpacked(file)) as handle:
                frame = pd.read_csv(handle, sep="\t", dtype=str, keep_default_na=False, quoting=3)
    if frame.empty:
        raise GenesError(f"{file}: contains no genes.")
    return frame.fillna("").astype(str)


def _described(frame: pd.DataFrame, template: str, organism: str) -> DescribedGenes:
    texts = [fill_template(template, row) for row in frame.to_dict("records")]
    source = "symbol" if template == SYMBOL_TEMPLATE else "template"
    obs = pd.DataFrame({column: frame.get(column, "") for column in COLUMNS}, dtype=str)
    obs["text"] = [text or symbol for text, symbol in zip(texts, obs["symbol"], strict=True)]
    obs["text_source"] = [source if text else "symbol" for text in texts]
    obs.loc[obs["organism"] == "", "organism"] = organism
    obs.index = unique_names(obs["symbol"])
    return DescribedGenes(obs, template)


def check_template(template: str, known: Collection[str], *, source: str) -> None:
    """Refuse a template that is malformed or names a field that ``source`` does not have."""
    try:
        fields = _fields(template)
        template.format_map(dict.fromkeys(fields, ""))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise GenesError(f"template={template!r} is malformed: {error}.") from error
    if lacking := [name for name in fields if name not in known]:
        have = f"{did_you_mean(lacking[0], known)} It has: {', '.join(f'{{{name}}}' for name in known)}."
        raise GenesError(f"template={template!r}: {source} has no column {lacking[0]!r}.{have}")


def fill_template(template: str, row: Mapping[str, str]) -> str:
    """Return the text of one gene.

    >>> fill_template("{symbol}.[ Also known as {synonyms}.]", {"symbol": "CD3D", "synonyms": ""})
    'CD3D.'
    """

    def part(found: re.Match[str]) -> str:
        return found[1] if all(row[name] for name in _fields(found[1])) else ""

    return OPTIONAL.sub(part, template).format_map(row).strip()


def _fields(template: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
