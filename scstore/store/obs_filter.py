"""Choosing cells by their metadata: ``tissue == 'lung' and not donor in ('d1', 'd2')``.

A small grammar of its own, since ``pandas.query`` evaluates what it is given::

    condition := and-part { "or" and-part }
    and-part  := not-part { "and" not-part }
    not-part  := "not" not-part | "(" condition ")" | test
    test      := column ("==" | "!=" | "<" | "<=" | ">" | ">=") value
               | column ["not"] "in" ("(" | "[") value { "," value } (")" | "]")
    column    := name | `name with spaces`
    value     := 'text' | "text" | number | true | false
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import OptionError

__all__ = ["cells_where"]

LONGEST = 10_000
"""Characters of a condition."""

DEEPEST = 50
"""Parentheses and nots inside one another."""

TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'[^']*'|"[^"]*")
    | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    | (?P<quoted>`[^`]+`)
    | (?P<name>[^\W\d][\w.]*)
    | (?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)
    )""",
    re.VERBOSE,
)

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

WORDS = ("and", "or", "not", "in", "true", "false")

Mask = NDArray[np.bool_]


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def cells_where(obs: pd.DataFrame, condition: str) -> Mask:
    """Which cells fulfil a condition on their metadata.

    Text is compared as text, exactly; numbers and booleans with columns of numbers and booleans. A cell whose value
    is missing fulfils no test, ``!=`` and ``not in`` included.

    Parameters
    ----------
    obs
        Metadata of the cells.
    condition
        As the module's grammar has it.

    Returns
    -------
    ``(n_obs,) bool``.

    Raises
    ------
    OptionError
        If the condition cannot be read, names no column, or compares text with numbers.
    """
    parser = _Parser(obs, condition)
    mask = parser.either(0)
    parser.end()
    return mask


class _Parser:
    """Reads a condition from left to right and works out the mask as it goes."""

    def __init__(self, obs: pd.DataFrame, condition: str) -> None:
        self.obs = obs
        self.condition = condition
        if len(condition) > LONGEST:
            msg = f"--where: {len(condition):,} characters; at most {LONGEST:,} are read."
            raise OptionError(msg)
        self.tokens = self._split()
        self.place = 0

    def either(self, depth: int) -> Mask:
        mask = self._both(depth)
        while self._word("or"):
            mask = mask | self._both(depth)
        return mask

    def end(self) -> None:
        if self._peek().kind != "end":
            self._refuse("and, or, or the end", self._peek())

    def _both(self, depth: int) -> Mask:
        mask = self._one(depth)
        while self._word("and"):
            mask = mask & self._one(depth)
        return mask

    def _one(self, depth: int) -> Mask:
        if depth > DEEPEST:
            msg = f"--where: more than {DEEPEST} parentheses or nots inside one another."
            raise OptionError(msg)
        if self._word("not"):
            return ~self._one(depth + 1)
        if self._sign("("):
            mask = self.either(depth + 1)
            if not self._sign(")"):
                self._refuse(")", self._peek())
            return mask
        return self._test()

    def _test(self) -> Mask:
        token = self._next()
        if token.kind not in ("name", "quoted") or (token.kind == "name" and token.text in WORDS):
            self._refuse("a column of obs", token)
        name = token.text.strip("`")
        if name not in self.obs.columns:
            known = ", ".join(map(str, self.obs.columns))
            msg = f"--where: no obs column {name!r}. There are: {known}. Text goes in quotes: '{name}'."
            raise OptionError(msg)
        negated = self._word("not")
        if self._word("in"):
            values = self._values()
            mask: Mask = np.logical_or.reduce([self._compared(name, "==", value) for value in values])
            return (~mask & self._known(name)) if negated else mask
        sign = self._next()
        if negated or sign.text not in COMPARISONS:
            self._refuse("in" if negated else "==, !=, <, <=, >, >=, in or not in", sign)
        return self._compared(name, sign.text, self._value())

    def _values(self) -> list[Any]:
        opening = self._next()
        if opening.text not in ("(", "["):
            self._refuse("( or [ and the values", opening)
        closing = ")" if opening.text == "(" else "]"
        values = [self._value()]
        while self._sign(","):
            values.append(self._value())
        if not self._sign(closing):
            self._refuse(f", or {closing}", self._peek())
        return values

    def _value(self) -> str | float | bool:
        token = self._next()
        if token.kind == "text":
            return token.text[1:-1]
        if token.kind == "number":
            return float(token.text)
        if token.kind == "name" and token.text.lower() in ("true", "false"):
            return token.text.lower() == "true"
        return self._refuse("a value ('text' in quotes, a number, true or false)", token)

    def _known(self, name: str) -> Mask:
        return np.asarray(self.obs[name].notna(), dtype=bool)

    def _compared(self, name: str, sign: str, value: str | float | bool) -> Mask:  # noqa: FBT001  # a value
        column = self.obs[name]
        known = self._known(name)
        mask = np.zeros(len(column), dtype=bool)
        kind = "true or false" if pd.api.types.is_bool_dtype(column) else "a number"
        if kind == "a number" and not pd.api.types.is_numeric_dtype(column):
            kind = "text in quotes"
        given = "true or false" if isinstance(value, bool) else "a number" if isinstance(value, float) else ""
        if kind != (given or "text in quotes"):
            shown = value if isinstance(value, str) else str(value).lower().removesuffix(".0")
            msg = f"--where: obs column {name!r} wants {kind}, not {shown!r}."
            raise OptionError(msg)
        values = column[known].astype(str) if kind == "text in quotes" else column[known]
        mask[known] = COMPARISONS[sign](values.to_numpy(), value)
        return mask

    def _split(self) -> list[_Token]:
        tokens, place, text = [], 0, self.condition.rstrip()
        while place < len(text):
            found = TOKEN.match(text, place)
            if found is None or found.lastgroup is None:
                start = place + len(text[place:]) - len(text[place:].lstrip())
                self._refuse("a column, a value, an operator, and, or, not, in", _Token("", text[start:], start))
            tokens.append(_Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup)))
            place = found.end()
        return [*tokens, _Token("end", "", len(text))]

    def _peek(self) -> _Token:
        return self.tokens[self.place]

    def _next(self) -> _Token:
        token = self.tokens[self.place]
        self.place += token.kind != "end"
        return token

    def _word(self, word: str) -> bool:
        return self._take("name", word)

    def _sign(self, sign: str) -> bool:
        return self._take("sign", sign)

    def _take(self, kind: str, text: str) -> bool:
        token = self._peek()
        if token.kind != kind or token.text != text:
            return False
        self.place += 1
        return True

    def _refuse(self, wanted: str, token: _Token) -> NoReturn:
        where = f"at {token.text[:20]!r} (character {token.at + 1})" if token.text else "at the end"
        msg = f"--where {self.condition[:200]!r}: {where}, {wanted} was expected. Such as: \"tissue == 'lung'\"."
        raise OptionError(msg)
