"""How a long piece of work tells what it is doing, without knowing who listens: a terminal, a log or nobody."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scstore.errors import ScstoreWarning, printable

if TYPE_CHECKING:
    from rich.progress import Progress

PACKAGE = __name__.partition(".")[0]


class Track:
    """Progress of one piece of work whose size is known."""

    def advance(self, n: int = 1) -> None:
        """Say that ``n`` more units are done."""

    def resume_at(self, n: int) -> None:
        """Say that ``n`` units were done before this run began: they count as done, not towards the speed."""


class _Bar(Track):
    """A bar of rich's."""

    def __init__(self, bars: Progress, label: str, total: int) -> None:
        self._bars, self._task = bars, bars.add_task(label, total=total)

    def advance(self, n: int = 1) -> None:
        self._bars.advance(self._task, n)

    resume_at = advance


class Reporter:
    """Listens to a workflow; this one passes on warnings and draws progress where somebody looks."""

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
        del unit
        if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
            yield Track()
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bars:
            yield _Bar(bars, label, total)


class Silent(Reporter):
    """Says nothing, of warnings and progress too: ``progress=Silent()``."""

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Track]:
        """Draw nothing."""
        yield Track()

    def warn(self, message: str, kind: type[ScstoreWarning] = ScstoreWarning) -> None:
        """Ignore it."""
