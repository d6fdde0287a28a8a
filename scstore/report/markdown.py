"""Markdown of names and labels that come from a user's data."""

from __future__ import annotations

from collections.abc import Sequence

REPLACED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", **{mark: f"\\{mark}" for mark in r"\|[]*`"}})


def escaped(text: object) -> str:
    """Return text on one line that is no HTML, link, emphasis, code or table cell."""
    return " ".join(str(text).translate(REPLACED).split())


def as_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of text; columns with a heading, but for the first, are aligned to the right."""
    rule = ["---", *("---:" if heading else "---" for heading in headings[1:])]
    lines = [headings, rule, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
