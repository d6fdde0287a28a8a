"""How a long piece of work tells what it is doing, without knowing who listens: a terminal, a log or nobody."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from scstore.errors import ScstoreWarning, printable

PACKAGE = __name__.partition(".")[0]


class Track:
    """Progress of one piece of work whose size is known."""

    def advance(self, n: int = 1) -> None:
        """Say that ``n`` more units are done."""

    def resume_at(self, n: int) -> None:
        """Say that ``n`` units were done before this run began: they count as done, not towards the speed."""


class Reporter:
    """Listens to a workflow; this one passes on warnings alone."""

    def note(self, message: str) -> None:
        """Something the user should know: which slot was read, how many genes matched."""

    def warn(self, message: str, kind: type[ScstoreWarning] = ScstoreWarning) -> None:
        """Something that may make the result worse than the user expects."""
        frame, level = sys._getframe(1), 2
        while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE:
            frame, level = frame.f_back, level + 1
        warnings.warn(printable(message), kind, stacklevel=level)  # of the line that called scstore

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Track]:
        """Follow ``total`` units of work (``unit`` is their plural name: cells, texts)."""
        del label, total, unit
        yield Track()


class Silent(Reporter):
    """Says nothing, of warnings too."""

    def warn(self, message: str, kind: type[ScstoreWarning] = ScstoreWarning) -> None:
        """Ignore it."""
