"""Cells chosen by their metadata, such as ``tissue == 'lung' and donor not in ('d1', 'd2')``.

The condition is parsed by Python and never evaluated by it: columns, constants, comparisons, ``in``, ``and``, ``or``
and ``not`` are known, and pandas compares. (``DataFrame.query`` would also call methods.)
"""

import ast
import operator
import re
import warnings
from collections.abc import Callable, Mapping
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

Mask = NDArray[np.bool_]


def cells_where(obs: pd.DataFrame, condition: str) -> Mask:
    """Return which cells fulfil a condition, ``(n_obs,)``; a missing value fulfils none, nor ``!=`` or ``not in``."""
    names: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        if found[2] is None:
            return found[0]
        names[name := f"_column_{len(names)}_"] = found[2]
        return name

    try:
        if len(condition) > LONGEST:
            raise ValueError(f"it has {len(condition):,} characters; at most {LONGEST:,} are allowed")
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            tree = ast.parse(QUOTED.sub(named, condition).strip(), mode="eval")
        return _mask(obs, tree.body, names)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        why = f"where={condition[:200]!r}: {getattr(error, 'msg', error)}"
        raise OptionError(f"{why}. An example: \"tissue == 'lung' and age > 40\".") from error


def _mask(obs: pd.DataFrame, node: ast.expr, names: Mapping[str, str]) -> Mask:
    match node:
        case ast.BoolOp():
            combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            result: Mask = combine.reduce([_mask(obs, value, names) for value in node.values])
            return result
        case ast.UnaryOp(op=ast.Not()):
            return ~_mask(obs, node.operand, names)
        case ast.Compare(ops=[ast.In() | ast.NotIn() as op], comparators=[ast.Tuple() | ast.List() as values]):
            column = _column(obs, node.left, names)
            found = [_compare(column, operator.eq, value) for value in values.elts]
            among: Mask = np.logical_or.reduce([np.zeros(len(obs), dtype=bool), *found])
            return among if isinstance(op, ast.In) else ~among & column.notna().to_numpy(dtype=bool)
        case ast.Compare(ops=[op], comparators=[value]) if type(op) in COMPARISONS:
            return _compare(_column(obs, node.left, names), COMPARISONS[type(op)], value)
    raise ValueError(f"{ast.unparse(node)[:100]!r} is not a comparison of one column with a constant")


def _column(obs: pd.DataFrame, node: ast.expr, names: Mapping[str, str]) -> pd.Series:
    name = ast.unparse(node)
    name = names.get(name, name)
    if name not in obs.columns:
        known = list(map(str, obs.columns))
        raise ValueError(f"no obs column {name[:100]!r}.{did_you_mean(name, known)} Columns: {', '.join(known)}")
    return obs[name]


def _compare(column: pd.Series, comparison: Callable[[Any, Any], Any], node: ast.expr) -> Mask:
    """Compare the known values of a column with a constant, which is of their type."""
    if isinstance(node, ast.Name) and node.id in ("true", "false"):
        node = ast.Constant(node.id == "true")
    kind: tuple[type, ...] = (int, float)
    if pd.api.types.is_bool_dtype(column):
        kind = (bool,)
    elif not pd.api.types.is_numeric_dtype(column):
        kind = (str,)
    try:
        value = ast.literal_eval(node)
    except ValueError:
        value = None
    if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind):
        wanted = {bool: "True or False", str: "text in quotes"}.get(kind[0], "a number")
        raise ValueError(f"the obs column {column.name!r} needs {wanted}, not {ast.unparse(node)[:100]!r}")
    known = column.notna().to_numpy(dtype=bool)
    mask = np.zeros(len(column), dtype=bool)
    values = column[known].astype(str) if kind == (str,) else column[known]
    mask[known] = comparison(values.to_numpy(), value)
    return mask
