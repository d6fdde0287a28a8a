"""The command line. Each command parses its words and calls one workflow; heavy imports wait until then."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from scstore.cli import extraction as _extraction  # noqa: F401  # registers its commands, first in the help

# isort: split
from scstore.cli import panel as _panel  # noqa: F401

# isort: split
from scstore.cli import align as _align  # noqa: F401

# isort: split
from scstore.cli import genes as _genes  # noqa: F401

# isort: split
from scstore.cli import annotation as _annotation  # noqa: F401

# isort: split
from scstore.cli import search as _search  # noqa: F401

# isort: split
from scstore.cli import evaluate as _evaluate  # noqa: F401
from scstore.cli import verify as _verify  # noqa: F401
from scstore.cli.shared import app, state
from scstore.console import Output
from scstore.errors import ScstoreError

__all__ = ["app", "main"]


def _version(value: bool) -> None:  # noqa: FBT001  # typer's signature
    if value:
        from importlib.metadata import version

        typer.echo(f"scstore {version('scstore')}")
        raise typer.Exit


@app.callback()
def _common(
    *,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    show_trace: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    state.output = Output(quiet=quiet, as_json=as_json)
    state.debug = show_trace


class _Stopped(BaseException):
    """SIGINT or SIGTERM: unwinds past click, so that locks and temporary files go and we say what to do next."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Stopped(number)


def main() -> None:
    """Run the command line and exit.

    With 0 done, 1 a fault, 2 the user's to mend, 3 damage that verify found, 130 and 143 stopped.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except _Stopped as stop:
        if state.debug:
            raise
        state.output.errors.print("stopped. What was finished is kept: run the same command again to go on.")
        sys.exit(stop.exit_code)
    except ScstoreError as error:
        if state.debug:
            raise
        state.output.failure(str(error), kind=error.kind)
        sys.exit(error.exit_code)
    except OSError as error:
        if state.debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        state.output.failure(f"{where}{error.strerror or error}. What was finished is kept.", kind="os")
        sys.exit(1)
    except Exception as error:  # the last resort: no traceback for a user
        if state.debug:
            raise
        state.output.failure(
            f"{type(error).__name__}: {error}\nThis is a fault of scstore's. Run `scstore --debug …` for the "
            "traceback and "
            "report it.",
            kind="internal",
        )
        sys.exit(1)
