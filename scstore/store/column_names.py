"""Names of columns that a store can hold: each is the name of a folder too."""

from __future__ import annotations

from collections.abc import Iterable
from unicodedata import category

from scstore.errors import CellsError

__all__ = ["check_columns"]

LONGEST = 200
"""Bytes of a name; file systems take up to 255."""

RESERVED = ("", ".", "..", "_index", "zarr.json")


def check_columns(columns: Iterable[object]) -> None:
    """Refuse metadata of cells that a store cannot hold, before anything is written.

    Parameters
    ----------
    columns
        Names of the columns of ``obs``.

    Raises
    ------
    CellsError
        If a name is reserved, too long, there twice, or has a slash or a control character in it.
    """
    seen: set[str] = set()
    for name in map(str, columns):
        length = len(name.encode(errors="replace"))
        why = None
        if name in RESERVED:
            why = "it is reserved"
        elif "/" in name or "\\" in name or any(category(sign) in ("Cc", "Cs") for sign in name):
            why = "it has a slash or a control character in it"
        elif length > LONGEST:
            why = f"it has {length:,} bytes where {LONGEST} are taken"
        elif name in seen:
            why = "two columns have it"
        if why is not None:
            msg = (
                f"obs column {name[:60]!r}: a store cannot hold a column of this name: {why}. Rename it, or "
                "leave it out of the cells."
            )
            raise CellsError(msg)
        seen.add(name)
