"""Markdown of names and labels that come from a user's data."""

from __future__ import annotations

import re
from collections.abc import Sequence

from scstore.errors import printable

REPLACED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", **{mark: f"\\{mark}" for mark in r"\|[]*`~$"}})

# What many programs make links of, and underscores that are emphasis: those within a word are not.
LINK = re.compile(r"(?<=:)//|(?<=www)\.|@", re.IGNORECASE)
EMPHASIS = re.compile(r"(?<![^\W_])_|_(?![^\W_])")


def escaped(text: object) -> str:
    """Return text on one line that is no HTML, link, emphasis, formula, code or table cell."""
    line = " ".join(printable(str(text)).translate(REPLACED).split())
    return EMPHASIS.sub(r"\\_", LINK.sub(lambda found: "".join(f"&#{ord(sign)};" for sign in found[0]), line))


def as_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of text; columns with a heading, but for the first, are aligned to the right."""
    rule = ["---", *("---:" if heading else "---" for heading in headings[1:])]
    lines = [[escaped(cell) for cell in row] for row in (headings, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
