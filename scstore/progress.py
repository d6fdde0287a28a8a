"""How a long piece of work tells what it is doing, to Python callers and on the command line, and its results.

On the command line results go to standard output, everything else to standard error.
"""

import io
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from tqdm import tqdm  # type: ignore[import-untyped]

from scstore.errors import UNPRINTABLE, ScstoreWarning, printable

# Whose frames a warning passes by: of cached properties and context managers too.
INNER = {__name__.partition(".")[0], "functools", "contextlib"}


class Track:
    """Progress of one piece of work whose size is known, in a bar of tqdm's: alike in terminals and notebooks."""

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar

    def advance(self, n: int = 1) -> None:
        """Say that ``n`` more units are done."""
        if self._bar is not None:
            self._bar.update(n)

    def reach(self, n: int) -> None:
        """Say that ``n`` units are done at least."""
        if self._bar is not None:
            self._bar.update(max(0, n - self._bar.n))

    def __reduce__(self) -> tuple[object, ...]:
        return Track, ()  # another process has no bar

    def resume_at(self, n: int) -> None:
        """Say that ``n`` units were done before this run began: they count as done, not towards the speed."""
        if self._bar is not None:
            self._bar.n = self._bar.initial = n
            self._bar.refresh()


class Reporter:
    """Listens to a workflow; this one passes on warnings and draws progress where somebody looks."""

    words: Callable[[str], str] = staticmethod(printable)  # how messages are written

    def note(self, message: str) -> None:
        """Something the user should know: which slot was read, how many genes matched."""

    def warn(self, message: str, kind: type[ScstoreWarning] = ScstoreWarning) -> None:
        """Something that may make the result worse than the user expects."""
        frame, level = sys._getframe(1), 2
        while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in INNER:
            frame, level = frame.f_back, level + 1
        warnings.warn(printable(message), kind, stacklevel=level)  # of the line that called scstore

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Track]:
        """Follow ``total`` units of work (``unit`` is their plural name: cells, texts)."""
        hidden = not (sys.stderr.isatty() or "ipykernel" in sys.modules)
        with tqdm(total=total, desc=label, unit=f" {unit}", leave=False, disable=hidden) as bar:
            yield Track(bar)


class Silent(Reporter):
    """Says nothing, of warnings and progress too: ``progress=Silent()``."""

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Track]:
        yield Track()

    def warn(self, message: str, kind: type[ScstoreWarning] = ScstoreWarning) -> None:
        """Ignore it."""


LINE_EVERY = 10.0  # seconds between lines of progress where there is no terminal


class _Lines(tqdm):  # type: ignore[misc]  # tqdm has no types
    """Tells in lines what a bar would show, now and then."""

    def __init__(self, note: Callable[[str], None], **how: Any) -> None:
        self._note = note
        super().__init__(file=io.StringIO(), mininterval=LINE_EVERY, miniters=1, delay=LINE_EVERY, **how)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        del pos
        if msg is None and self.initial < self.n < self.total:
            rate = (self.n - self.initial) / self.format_dict["elapsed"]
            left = self.format_interval((self.total - self.n) / rate)
            self._note(f"{self.desc}: {self.n:,} of {self.total:,}{self.unit}, {rate:,.1f}/s, {left} left")


class ConsoleReporter(Reporter):
    """Tells a person how the work goes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._warned: set[str] = set()

    def note(self, message: str) -> None:
        self._print(escape(self.words(message)))

    def _print(self, text: str) -> None:
        with tqdm.external_write_mode(file=self.console.file):  # not into a bar
            self.console.print(text, highlight=False, soft_wrap=True)

    def warn(self, message: str, kind: type[ScstoreWarning] = ScstoreWarning) -> None:
        del kind
        if message in self._warned:
            return
        self._warned.add(message)
        self._print(f"[yellow]warning:[/] {escape(self.words(message))}")

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Track]:
        """Draw a bar on a terminal; elsewhere print a line now and then, and one at the end."""
        how: dict[str, Any] = {"desc": label, "total": total, "unit": f" {unit}", "leave": False, "smoothing": 0}
        how["disable"] = False  # TQDM_DISABLE leaves out what is read below
        with tqdm(file=self.console.file, **how) if self.console.is_terminal else _Lines(self.note, **how) as bar:
            yield Track(bar)
        if fresh := bar.n - bar.initial:
            seconds = max(bar.format_dict["elapsed"], 1e-9)
            took = f"{seconds:.1f} s" if seconds < 60 else bar.format_interval(seconds)
            self.note(f"{label}: {fresh:,} {unit} in {took} ({fresh / seconds:,.1f} {unit}/s)")


class Output:
    """Where a command's words and results go: all, errors only, or the result alone as one JSON object."""

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        # notebooks set FORCE_COLOR for what they run, and would show the frames of a bar one by one
        self.errors = Console(stderr=True, force_terminal=None if sys.stderr.isatty() else False)
        self.results = Console()
        self.reporter: Reporter = Silent() if quiet else ConsoleReporter(self.errors)

    def result(self, values: Mapping[str, Any], *lines: str) -> None:
        """Print a command's result: ``lines`` for a person, ``values`` for a machine."""
        self._machine(values)
        self.lines(*lines)

    def _machine(self, values: Mapping[str, Any]) -> None:
        if self.as_json:
            text = json.dumps(values, ensure_ascii=False, default=str)
            # some control characters are none to JSON
            self.results.file.write(UNPRINTABLE.sub(lambda found: json.dumps(found[0])[1:-1], text) + "\n")

    def lines(self, *lines: str) -> None:
        """Print words for a person, as part of a result."""
        if not (self.as_json or self.quiet):
            for line in lines:
                self.results.print(printable(line), highlight=False, markup=False, soft_wrap=True)

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """Print a table for a person."""
        self.lines(title, *text_table(columns, rows))

    def failure(self, message: str, *, kind: str) -> None:
        """Print an error, for a person or a machine."""
        self._machine({"error": {"kind": kind, "message": message}})
        self.errors.print(f"[red]error:[/] {escape(printable(message))}", highlight=False, soft_wrap=True)


def text_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table as lines: the first column to the left, the others to the right, no cell on two lines."""
    cells = [[printable(one).replace("\n", "\\n").replace("\t", "\\t") for one in row] for row in (headings, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    pads = [[" " * (width - cell_len(one)) for one, width in zip(row, widths, strict=True)] for row in cells]
    lines = [
        "  ".join(f"{pad}{one}" if i else f"{one}{pad}" for i, (one, pad) in enumerate(zip(row, padding, strict=True)))
        for row, padding in zip(cells, pads, strict=True)
    ]
    return [lines[0].rstrip(), "─" * cell_len(lines[0]), *(line.rstrip() for line in lines[1:])]
