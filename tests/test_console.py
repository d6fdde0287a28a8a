from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from rich.console import Console

from scstore import console
from scstore.console import ConsoleReporter, Output
from scstore.errors import UNPRINTABLE, CellsError


def reporter(*, terminal: bool) -> tuple[ConsoleReporter, io.StringIO]:
    text = io.StringIO()
    return ConsoleReporter(Console(file=text, force_terminal=terminal, width=120)), text


def test_a_terminal_gets_a_bar_with_speed_and_time_left() -> None:
    tell, text = reporter(terminal=True)
    with tell.track("extracting", 10, "cells") as track:
        for _ in range(10):
            track.advance()
    assert "extracting" in text.getvalue()
    assert re.search(r"cells/s", text.getvalue())


def test_elsewhere_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    tell, text = reporter(terminal=False)
    with tell.track("extracting", 100, "cells") as track:
        track.resume_at(50)
        for _ in range(50):
            clock[0] += 1.0
            track.advance()
    lines = text.getvalue().splitlines()
    assert lines[0] == "extracting: 60 of 100 cells, 1.0/s, 40.0 s left"
    assert lines[-1] == "extracting: 50 cells in 50.0 s (1.0 cells/s)"
    assert len(lines) == 5
    assert "\x1b" not in text.getvalue()


@pytest.mark.parametrize(("seconds", "shown"), [(3.21, "3.2 s"), (65, "1:05"), (3725, "1:02:05")])
def test_the_clock(seconds: float, shown: str) -> None:
    assert console._clock(seconds) == shown


def test_markup_in_names_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    Output().failure("[red]x[/red] [/] {y}", kind="cells")
    assert "[red]x[/red] [/] {y}" in capsys.readouterr().err
    tell, text = reporter(terminal=False)
    tell.warn("[bold]a[/bold]")
    tell.note("[bold]b[/bold]")
    assert "[bold]a[/bold]" in text.getvalue()
    assert "[bold]b[/bold]" in text.getvalue()


def test_json_output_holds_the_result_alone(capsys: pytest.CaptureFixture[str]) -> None:
    output: Any = Output(as_json=True)
    output.table("t", ["a"], [["1"]])
    output.result({"n": 1}, "for a person")
    assert json.loads(capsys.readouterr().out) == {"n": 1}


HOSTILE = "a\x1b]0;owned\x07\x9b2Jb\u202ec\x00\rd\ud800"


def test_no_control_character_of_a_name_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """RELIABILITY 67: neither in messages nor in tables, nor as JSON, which calls some of them text."""
    for as_json in (False, True):
        output: Any = Output(as_json=as_json)
        output.table(HOSTILE, [f"{HOSTILE}\nforged"], [[HOSTILE]])
        output.result({HOSTILE: HOSTILE}, HOSTILE)
        output.failure(str(CellsError(f"no column {HOSTILE}")), kind="cells")
        output.reporter.note(HOSTILE)
        output.reporter.warn(HOSTILE)
        shown = capsys.readouterr()
        assert not UNPRINTABLE.search(shown.out + shown.err)
        assert r"\x1b]0;owned\x07" in shown.err
        if as_json:
            assert json.loads(shown.out.splitlines()[0]) == {HOSTILE: HOSTILE}
        else:
            assert shown.out.count(r"\u202ec") == 4
