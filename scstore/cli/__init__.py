"""The command line. Each command runs one public function; heavy imports wait until then."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from scstore.cli.builder import in_flags, state
from scstore.cli.commands import app
from scstore.console import Output
from scstore.errors import ScstoreError


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
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print version.")
    ] = False,
) -> None:
    state.output = Output(quiet=quiet, as_json=as_json)
    state.debug = show_trace


class _Stopped(BaseException):
    """SIGINT or SIGTERM; unwinds past typer, so that locks and temporary files are removed."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Stopped(number)


def run(words: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Exit codes: 0 done, 1 a fault, 2 the user can mend it, 3 ``verify`` found damage, 130 and 143 stopped.
    """
    state.parameters = ()
    try:
        app(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except _Stopped as stop:
        if state.debug:
            raise
        state.output.errors.print("stopped. Run the same command again; extract and align keep what they finished.")
        return stop.exit_code
    except Exception as error:  # the last resort: no traceback for a user
        if state.debug:
            raise
        return _report(error)
    return 0


def main() -> NoReturn:
    """Run the command line and exit."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    sys.exit(run())


def _report(error: Exception) -> int:
    """Print one message and return the exit code."""
    if isinstance(error, ScstoreError):
        state.output.failure(in_flags(str(error), state.parameters), kind=error.kind)
        return error.exit_code
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        state.output.failure(f"{where}{error.strerror or error}. Finished work is kept.", kind="os")
        return 1
    message = f"{type(error).__name__}: {error}\nInternal error. Run again with scstore --debug and report it."
    state.output.failure(message, kind="internal")
    return 1
