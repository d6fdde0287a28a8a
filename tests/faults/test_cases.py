"""Every input and fault that scstore promises to withstand has a test, which names its number: «RELIABILITY 30»."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from support import ROOT

CASES = {*range(1, 46), 56, 57, *range(64, 69)} - {44}
"""44, a remote store, comes with remote stores."""


def cases_of(file: Path) -> set[int]:
    """Numbers in the docstrings of a file's tests."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            named = re.search(r"RELIABILITY ([0-9]+(?:(?:,| and|, and) [0-9]+)*)", ast.get_docstring(node) or "")
            found |= set(map(int, re.findall(r"\d+", named[1]))) if named else set()
    return found


def test_every_case_has_a_test() -> None:
    assert CASES - {number for file in (ROOT / "tests").rglob("test_*.py") for number in cases_of(file)} == set()
