from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from faults.cases import CASES
from support import ROOT

NUMBERS = sorted({*range(1, 46)} - {44})


@cache
def tests_of(file: Path) -> dict[str, str]:
    """Docstrings of a file's tests, by name."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.get_docstring(node) or "" for node in functions if node.name.startswith("test_")}


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
        assert name in tests_of(ROOT / "tests" / file), f"case {number} names {test}, which does not exist"


def test_every_test_that_names_a_case_is_listed() -> None:
    """So that the table does not fall behind the tests."""
    missing = []
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, said in tests_of(file).items():
            for found in re.finditer(r"RELIABILITY ([0-9]+(?:(?:, | and )[0-9]+)*)", said):
                test = f"{file.relative_to(ROOT / 'tests').as_posix()}::{name}"
                missing += [
                    (number, test)
                    for number in map(int, re.findall(r"\d+", found[1]))
                    if number in CASES and test not in CASES[number][1]
                ]
    assert missing == []
