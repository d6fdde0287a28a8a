"""Templates: how the text of a gene is put together from fields such as ``{symbol}``."""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping

from scstore.errors import GenesError

__all__ = ["check_template", "fill_template"]

OPTIONAL = re.compile(r"\[([^\[\]]*\{[^\[\]]*)\]")
"""A part in square brackets with a field in it: left out where one of its fields is empty."""


def check_template(template: str, known: Collection[str], *, source: str) -> None:
    """Refuse a template that is malformed or names a field that is not there.

    Parameters
    ----------
    template
        Such as ``"{symbol}: {name}.[ Also known as {synonyms}.]"``.
    known
        Fields that are there.
    source
        What has them, for the message.

    Raises
    ------
    GenesError
        As said; lists the fields.
    """
    try:
        fields = _fields(template)
        template.format_map(dict.fromkeys(fields, ""))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        msg = f"--template {template!r}: {error}."
        raise GenesError(msg) from error
    if lacking := [name for name in fields if name not in known]:
        have = ", ".join(f"{{{name}}}" for name in known)
        msg = f"--template {template!r}: {source} has no column {lacking[0]!r}. It has: {have}."
        raise GenesError(msg)


def fill_template(template: str, row: Mapping[str, str]) -> str:
    """The text of one gene.

    Examples
    --------
    >>> fill_template("{symbol}.[ Also known as {synonyms}.]", {"symbol": "CD3D", "synonyms": ""})
    'CD3D.'
    """

    def part(found: re.Match[str]) -> str:
        return found[1] if all(row[name] for name in _fields(found[1])) else ""

    return OPTIONAL.sub(part, template).format_map(row).strip()


def _fields(template: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
