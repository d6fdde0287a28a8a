from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from faults.cases import CASES
from support import ROOT

NUMBERS = sorted({*range(1, 46)} - {44})


@cache
def names_in(file: Path) -> set[str]:
    """The tests of a file."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_case_is_listed() -> None:
    assert list(CASES) == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_every_case_has_tests_that_exist(number: int) -> None:
    title, tests = CASES[number]
    assert title
    assert tests, f"no test covers case {number}: {title}"
    assert len(set(tests)) == len(tests)
    for test in tests:
        file, _, name = test.partition("::")
        assert name in names_in(ROOT / "tests" / file), f"case {number} names {test}, which does not exist"
