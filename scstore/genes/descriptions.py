"""Texts that describe genes: from a user's TSV or JSON, or, without any, the symbols."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from scstore.errors import GenesError
from scstore.genes.table import COLUMNS, unique_names
from scstore.genes.templates import check_template, fill_template
from scstore.untrusted.text import open_unpacked

__all__ = ["describe_by_symbol", "read_descriptions"]

SYMBOL_TEMPLATE = "{symbol}"
TEXT_TEMPLATE = "{text}"


def describe_by_symbol(symbols: Iterable[str], *, organism: str = "") -> tuple[pd.DataFrame, str]:
    """Return rows of a gene table that describe genes by their symbols alone, and the template ``{symbol}``."""
    frame = pd.DataFrame({"symbol": [str(symbol) for symbol in symbols]}, dtype=str)
    return _finish(frame, SYMBOL_TEMPLATE, organism), SYMBOL_TEMPLATE


def read_descriptions(
    path: str | os.PathLike[str], *, template: str | None = None, organism: str = ""
) -> tuple[pd.DataFrame, str]:
    """Read a table of gene texts.

    Parameters
    ----------
    path
        A TSV (``.tsv``, ``.txt``, also gzipped) with a header, or a JSON file: ``{symbol: text}``, or a list of
        objects. The column ``symbol`` must be there; ``ensembl_id``, ``gene_id``, ``synonyms``, ``organism`` are kept;
        all columns may be used by the template.
    template
        How a gene's text is put together, such as ``"{symbol}: {name}.[ Also known as {synonyms}.]"``; a part in
        square brackets is left out where one of its fields is empty. By default the column ``text``, or the symbol
        where there is no such column.
    organism
        Of the genes, where the file does not say.

    Returns
    -------
    obs
        Rows of a gene table. A gene whose text would be empty is described by its symbol; ``text_source`` says so.
    template
        The one that was used.

    Raises
    ------
    GenesError
        If the file cannot be read, has no symbols, or the template names a column it does not have.
    """
    file = Path(path)
    frame = _read_frame(file)
    if "symbol" not in frame:
        msg = f"{file}: no column `symbol`. It has: {', '.join(frame.columns)}."
        raise GenesError(msg)
    if (blank := frame["symbol"].str.strip() == "").any():
        msg = f"{file}: row {int(blank.to_numpy().argmax()) + 1} has no symbol."
        raise GenesError(msg)
    if template is None:
        template = TEXT_TEMPLATE if "text" in frame else SYMBOL_TEMPLATE
    check_template(template, list(frame.columns), source=str(file))
    return _finish(frame, template, organism), template


def _read_frame(file: Path) -> pd.DataFrame:
    try:
        if file.suffix == ".json":
            content: Any = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(content, Mapping):
                content = [{"symbol": symbol, "text": text} for symbol, text in content.items()]
            if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
                msg = f"{file}: expected {{symbol: text}} or a list of objects."
                raise GenesError(msg)
            frame = pd.DataFrame.from_records(content)
        else:
            with open_unpacked(file) as handle:
                frame = pd.read_csv(handle, sep="\t", dtype=str, keep_default_na=False, quoting=3)
    except (OSError, UnicodeDecodeError, ValueError, EOFError, RecursionError, zlib.error) as error:
        if isinstance(error, GenesError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        msg = f"{file}: cannot be read as gene texts ({reason}). Give a TSV with a header, or JSON."
        raise GenesError(msg) from error
    if frame.empty:
        msg = f"{file}: holds no genes."
        raise GenesError(msg)
    return frame.fillna("").astype(str)


def _finish(frame: pd.DataFrame, template: str, organism: str) -> pd.DataFrame:
    rows = frame.to_dict("records")
    texts = [fill_template(template, row) for row in rows]
    source = "symbol" if template == SYMBOL_TEMPLATE else "template"
    obs = pd.DataFrame({column: frame.get(column, "") for column in COLUMNS}, dtype=str)
    obs["text"] = [text or symbol for text, symbol in zip(texts, obs["symbol"], strict=True)]
    obs["text_source"] = [source if text else "symbol" for text in texts]
    obs.loc[obs["organism"] == "", "organism"] = organism
    obs.index = pd.Index(unique_names(list(obs["symbol"])), name="gene")
    return obs
