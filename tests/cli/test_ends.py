"""How the command line ends: one message and the right exit code, whatever happens."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import DEFAULT_SIGNALS, ROOT

from scstore import cli

BUSY = """
import sys, time
from scstore import cli
def app(_words):
    try:
        print("working", flush=True)
        time.sleep(1800)
    finally:
        print("tidying", flush=True)
        time.sleep(1800)
cli.app = app
cli.main()
"""


def start(script: str, **how: object) -> subprocess.Popen[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, text=True, **streams)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(("first", "second"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT"), ("SIGHUP", "SIGTERM")])
def test_a_second_signal_ends_it_at_once(first: str, second: str) -> None:
    """RELIABILITY 66."""
    process = start(DEFAULT_SIGNALS + BUSY)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(getattr(signal, first))
    assert process.stdout.readline() == "tidying\n"
    while process.poll() is None:  # those that follow within a second are a launcher's
        process.send_signal(getattr(signal, second))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    _, said = process.communicate()
    assert process.returncode == 128 + getattr(signal, second)
    assert len(said.splitlines()) == 1


def test_what_nohup_ignores_stays_ignored() -> None:
    script = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{BUSY}"
    process = start(script)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "tidying\n"
    process.kill()
    process.communicate()


INTERRUPTED = """
import sys
class Interrupted:
    def find_spec(self, name, *rest):
        if name == "scstore.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from scstore.__main__ import main
main()
"""

FULL = "from scstore import cli; cli.app = lambda _: print('x' * {}); cli.main()"


def test_an_interrupt_while_it_is_loaded_has_no_traceback() -> None:
    """RELIABILITY 66."""
    process = start(INTERRUPTED)
    assert process.communicate() == ("", "")
    assert process.returncode == 130


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_reader_that_has_had_enough_is_no_error(size: int) -> None:
    process = start(FULL.format(size), stdin=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 141
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("size", [10, 100_000])
def test_results_that_cannot_be_printed_are_an_error(size: int) -> None:
    """RELIABILITY 66: standard output on a full disk."""
    with Path("/dev/full").open("w") as full:
        process = start(FULL.format(size), stdout=full)
        _, said = process.communicate()
    assert process.returncode == 1
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("error", [MemoryError(), MemoryError("Unable to allocate 7.45 GiB for an array")])
def test_a_lack_of_memory_is_one_message(
    error: MemoryError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """RELIABILITY 66."""

    def app(_words: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    assert cli.run([]) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "Internal" not in said
