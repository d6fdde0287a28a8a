"""What the command line prints: progress on a terminal, plain lines elsewhere, JSON for machines.

Results go to standard output; everything else to standard error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from scstore.progress import Reporter, Track

# Seconds between lines of progress where there is no terminal.
LINE_EVERY = 10.0


class _Rate(Track):
    """Counts units and seconds; units done in an earlier run do not count towards the speed."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.before = 0
        self.begun = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self.done += n
        self.show()

    def resume_at(self, n: int) -> None:
        self.done = self.before = n
        self.begun = time.monotonic()
        self.show()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    @property
    def rate(self) -> float:
        return (self.done - self.before) / max(self.seconds, 1e-9)

    def show(self) -> None:
        raise NotImplementedError  # pragma: no cover


class _Bar(_Rate):
    def __init__(self, progress: Progress, task: TaskID, total: int, unit: str) -> None:
        super().__init__(total)
        self._progress, self._task, self._unit = progress, task, unit

    def show(self) -> None:
        self._progress.update(self._task, completed=self.done, speed=f"{self.rate:,.1f} {self._unit}/s")


class _Lines(_Rate):
    def __init__(self, console: Console, label: str, total: int, unit: str) -> None:
        super().__init__(total)
        self._console, self._label, self._unit = console, label, unit
        self._last = time.monotonic()

    def show(self) -> None:
        if time.monotonic() - self._last < LINE_EVERY or self.done >= self.total or not self.rate:
            return
        self._last = time.monotonic()
        left = (self.total - self.done) / self.rate
        self._console.print(
            f"{self._label}: {self.done:,} of {self.total:,} {self._unit}, {self.rate:,.1f}/s, {_clock(left)} left",
            highlight=False,
        )


class ConsoleReporter(Reporter):
    """Tells a person on standard error how the work goes.

    Parameters
    ----------
    console
        Where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def note(self, message: str) -> None:
        """Print it."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print it, marked."""
        self.console.print(f"[yellow]warning:[/] {escape(message)}", highlight=False, soft_wrap=True)

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Track]:
        """Draw a bar on a terminal; elsewhere print a line now and then, and one at the end."""
        counter: _Rate
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"), TimeRemainingColumn(),
            )  # fmt: skip
            with Progress(*columns, console=self.console, transient=True) as progress:
                counter = _Bar(progress, progress.add_task(label, total=total, speed=""), total, unit)
                yield counter
        else:
            counter = _Lines(self.console, label, total, unit)
            yield counter
        fresh = counter.done - counter.before
        if fresh:
            self.note(f"{label}: {fresh:,} {unit} in {_clock(counter.seconds)} ({counter.rate:,.1f} {unit}/s)")


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Output:
    """Where a command's words and results go.

    Parameters
    ----------
    quiet
        Print no progress and no notes.
    as_json
        Print the result as one JSON object, and nothing else, on standard output.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.errors = Console(stderr=True)
        self.results = Console()

    @property
    def reporter(self) -> Reporter:
        """For workflows."""
        return Reporter() if self.quiet else ConsoleReporter(self.errors)

    def result(self, values: Mapping[str, Any], *lines: str) -> None:
        """Print a command's result: ``lines`` for a person, ``values`` for a machine."""
        if self.as_json:
            self.results.file.write(json.dumps(values, ensure_ascii=False, default=str) + "\n")
        self.lines(*lines)

    def lines(self, *lines: str) -> None:
        """Print words for a person, as part of a result."""
        if not (self.as_json or self.quiet):
            for line in lines:
                self.results.print(line, highlight=False, markup=False, soft_wrap=True)

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """Print a table for a person."""
        if self.as_json or self.quiet:
            return
        table = Table(title=escape(title), title_justify="left")
        for i, column in enumerate(columns):
            table.add_column(escape(column), justify="left" if i == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        self.results.print(table)

    def failure(self, message: str, *, kind: str) -> None:
        """Print an error, for a person or a machine."""
        if self.as_json:
            self.results.file.write(
                json.dumps({"error": {"kind": kind, "message": message}}, ensure_ascii=False) + "\n"
            )
        self.errors.print(f"[red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
