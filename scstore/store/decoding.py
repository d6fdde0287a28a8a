"""What storage libraries raise on damaged bytes, as one plain error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scstore.errors import DamagedError, ScstoreError

__all__ = ["decoding"]


@contextmanager
def decoding(source: Path, name: str) -> Iterator[None]:
    """Turn whatever a library raises while it decodes a part of a store into :class:`DamagedError`.

    Parameters
    ----------
    source
        The store.
    name
        The part, in words.
    """
    try:
        yield
    except (ScstoreError, MemoryError, PermissionError):
        raise
    except Exception as error:  # codecs raise anything on damaged bytes, SystemError among them
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        msg = f"{source}: {name} cannot be read ({reason}). It is damaged: `scstore verify {source}` says where."
        raise DamagedError(msg) from error
