"""How names and numbers from a user's file are put into messages.

Cell ids and gene names are data: they may hold newlines, terminal escapes or ten thousand characters, so they
are shown escaped and shortened.
"""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 60


def show(name: object) -> str:
    r"""One name in quotes, escaped, and cut when it is long.

    Examples
    --------
    >>> show("AAAC\n-1")
    "'AAAC\\n-1'"
    """
    text = str(name)
    if len(text) <= LONGEST:
        return repr(text)
    return f"{text[: LONGEST - 20]!r}… ({len(text):,} characters)"


def show_some(names: Iterable[object], *, limit: int = 3) -> str:
    """The first few names, separated by commas, and whether there are more."""
    listed = list(names)
    text = ", ".join(show(name) for name in listed[:limit])
    return f"{text}, …" if len(listed) > limit else text
