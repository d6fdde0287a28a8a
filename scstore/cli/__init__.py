"""The command line. Each command runs one public function; heavy imports wait until then."""

import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from scstore.cli.builder import EPILOGUE, AsJson, Debug, Quiet, in_flags, state
from scstore.cli.commands import app
from scstore.errors import ScstoreError, ScstoreWarning
from scstore.progress import Output

# What asks a program to end: Ctrl-C, kill, a terminal that is closed.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# Seconds after a first one in which others are the same wish: a launcher passes on what its processes got already.
GRACE = 1.0
_asked: list[float] = []


def _version(value: bool) -> None:  # noqa: FBT001  # typer's signature
    if value:
        from importlib.metadata import version

        typer.echo(f"scstore {version('scstore')}")
        raise typer.Exit


@app.callback(epilog=EPILOGUE)
def _common(
    *,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print version.")
    ] = False,
) -> None:
    state.output, state.debug = Output(), False
    state.switch(quiet=quiet, as_json=as_json, debug=debug)


class _Stopped(BaseException):
    """A signal to end; unwinds past typer, so that locks and temporary files are removed."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _stop(number: int, _frame: FrameType | None) -> None:
    _asked.append(time.monotonic())
    if len(_asked) == 1:
        raise _Stopped(number)
    if _asked[-1] - _asked[0] > GRACE:  # without tidying up, which the next run does
        os.write(2, b"stopped at once.\n")
        os._exit(128 + number)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print Python's warnings of scstore as lines, and those of other packages only for ``--debug``."""

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, ScstoreWarning):
            state.reporter.warn(str(message), category)
        elif state.debug:
            shown_before(message, category, *where)

    with warnings.catch_warnings():
        shown_before = warnings.showwarning
        warnings.showwarning = show  # type: ignore[assignment]  # the rest is passed on as it comes
        warnings.simplefilter("always", ScstoreWarning)
        yield


def run(words: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code (``EXIT_CODES``)."""
    state.parameters = ()
    code: int | str | None = 0
    try:
        try:
            with _warnings_as_lines():
                app(words)
        except SystemExit as end:
            code, describe = end.code, getattr(end.__context__, "format_message", None)  # typer printed it for a person
            if describe is not None and "--json" in (sys.argv if words is None else words):
                Output(as_json=True).result({"error": {"kind": "usage", "message": describe()}})
        sys.stdout.flush()  # a full disk is an error too
    except _Stopped as stop:
        if state.debug:
            raise
        state.output.errors.print("stopped.")
        return stop.exit_code
    except Exception as error:  # the last resort: no traceback for a user
        if state.debug:
            raise
        return _report(error)
    return code if isinstance(code, int) else 0


def main() -> NoReturn:
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, _stop)
    code = run()
    for number in SIGNALS:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)
    try:
        sys.stdout.flush()
    except OSError:  # reported already; Python would try again, and report it in its own way
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def _report(error: Exception) -> int:
    if isinstance(error, ScstoreError):
        state.output.failure(in_flags(str(error), state.parameters), kind=error.kind)
        return error.exit_code
    if isinstance(error, BrokenPipeError):  # whoever read the output has had enough
        return 128 + 13
    kind = "internal"
    message = f"{type(error).__name__}: {error}\nInternal error. Run again with scstore --debug and report it."
    if isinstance(error, MemoryError):
        kind = "memory"
        message = f"the memory of this machine is not enough ({error or 'out of memory'}). Finished work is kept."
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        kind, message = "os", f"{where}{error.strerror or error}. Finished work is kept."
    state.output.failure(message, kind=kind)
    return 1
