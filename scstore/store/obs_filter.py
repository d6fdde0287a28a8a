"""Cells chosen by their metadata, such as ``tissue == 'lung' and donor not in ('d1', 'd2')``.

The condition is parsed by Python and never evaluated by it: columns, constants, comparisons, ``in``, ``and``, ``or``
and ``not`` are known, and pandas compares. (``DataFrame.query`` would also call methods.)
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import OptionError
from scstore.options import did_you_mean

# Characters of a condition.
LONGEST = 10_000

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

# A text, or a column in backticks.
QUOTED = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|`([^`]+)`""")

COLUMN = "_column_{}_"

Mask = NDArray[np.bool_]


def cells_where(obs: pd.DataFrame, condition: str) -> Mask:
    """Return a mask ``(n_obs,)`` of the cells that fulfil a condition on their metadata.

    A cell with a missing value fulfils no comparison, ``!=`` and ``not in`` included.
    """
    return _Condition(obs, condition).mask()


class _Condition:
    def __init__(self, obs: pd.DataFrame, text: str) -> None:
        self.obs = obs
        self.text = text
        self.quoted: list[str] = []

    def mask(self) -> Mask:
        if len(self.text) > LONGEST:
            raise self.error(f"It has {len(self.text):,} characters; at most {LONGEST:,} are allowed.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                tree = ast.parse(QUOTED.sub(self._column_in_backticks, self.text).strip(), mode="eval")
            return self.evaluate(tree.body)
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
            if isinstance(error, OptionError):
                raise
            raise self.error(f"It cannot be parsed ({getattr(error, 'msg', error)}).") from error

    def error(self, why: str) -> OptionError:
        return OptionError(f"where={self.text[:200]!r}: {why} An example: \"tissue == 'lung' and age > 40\".")

    def _column_in_backticks(self, found: re.Match[str]) -> str:
        if found[2] is None:
            return found[0]
        self.quoted.append(found[2])
        return COLUMN.format(len(self.quoted) - 1)

    def evaluate(self, node: ast.expr) -> Mask:
        match node:
            case ast.BoolOp():
                combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
                result: Mask = combine.reduce([self.evaluate(value) for value in node.values])
                return result
            case ast.UnaryOp(op=ast.Not()):
                return ~self.evaluate(node.operand)
            case ast.Compare(ops=[ast.In() | ast.NotIn() as op], comparators=[ast.Tuple() | ast.List() as values]):
                name = self.column(node.left)
                found = [self.compare(name, operator.eq, self.constant(value)) for value in values.elts]
                among: Mask = np.logical_or.reduce([np.zeros(len(self.obs), dtype=bool), *found])
                known: Mask = self.obs[name].notna().to_numpy(dtype=bool)
                return among if isinstance(op, ast.In) else ~among & known
            case ast.Compare(ops=[op], comparators=[value]) if type(op) in COMPARISONS:
                return self.compare(self.column(node.left), COMPARISONS[type(op)], self.constant(value))
        raise self.error(f"{ast.unparse(node)[:100]!r} is not a comparison of one column with a constant.")

    def column(self, node: ast.expr) -> str:
        name = ast.unparse(node)
        if isinstance(node, ast.Name) and (found := re.fullmatch(COLUMN.format("([0-9]+)"), name)):
            name = self.quoted[int(found[1])] if int(found[1]) < len(self.quoted) else name
        if name not in self.obs.columns:
            known = list(map(str, self.obs.columns))
            raise self.error(f"No obs column {name[:100]!r}.{did_you_mean(name, known)} Columns: {', '.join(known)}.")
        return name

    def constant(self, node: ast.expr) -> str | float | bool:
        match node:
            case ast.Constant(value=bool() | str() | int() | float() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -value
            case ast.Name(id="true" | "false"):
                return node.id == "true"
        raise self.error(f"{ast.unparse(node)[:100]!r} is not a text in quotes, a number, True or False.")

    def compare(self, name: str, comparison: Callable[[Any, Any], Any], value: str | float | bool) -> Mask:  # noqa: FBT001
        column = self.obs[name]
        wanted: tuple[type, ...] = (int, float)
        if pd.api.types.is_bool_dtype(column):
            wanted = (bool,)
        elif not pd.api.types.is_numeric_dtype(column):
            wanted = (str,)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            kind = {bool: "True or False", str: "text in quotes"}.get(wanted[0], "a number")
            raise self.error(f"The obs column {name!r} needs {kind}, not {value!r}.")
        known = column.notna().to_numpy(dtype=bool)
        mask = np.zeros(len(column), dtype=bool)
        values = column[known].astype(str) if wanted == (str,) else column[known]
        mask[known] = comparison(values.to_numpy(), value)
        return mask
