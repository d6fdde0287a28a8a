from __future__ import annotations

import io
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import tqdm.std
from rich.console import Console
from support import Notes, make_cells

import scstore
from scstore import cli, progress
from scstore.cli.builder import state
from scstore.errors import UNPRINTABLE, CellsError, CellsWarning, GeneMatchWarning
from scstore.progress import ConsoleReporter, Output, Reporter, Silent


def test_a_python_caller_gets_warnings_of_its_own_line_once_a_cause() -> None:
    def call() -> None:
        Reporter().warn("genes are missing", GeneMatchWarning)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            call()
        Silent().warn("nothing")
    assert [(one.category, str(one.message), one.filename) for one in caught] == [
        (GeneMatchWarning, "genes are missing", __file__)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", scstore.ScstoreWarning)
        with pytest.raises(GeneMatchWarning):
            call()


def test_only_a_terminal_gets_control_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Notebooks set FORCE_COLOR for the commands that they run."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    output = Output()
    with output.reporter.track("labelling", 40, "cells") as track:
        track.advance(40)
    output.failure("no such file", kind="input")
    said = capsys.readouterr().err
    assert "40 cells" in said
    assert "\x1b" not in said


def test_a_python_caller_sees_a_bar_where_somebody_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with Reporter().track("labelling", 40, "cells") as track:
            track.resume_at(10)
            track.advance(30)
        shown = capsys.readouterr().err
        assert ("labelling" in shown, "10/40" in shown) == ("ipykernel" in sys.modules,) * 2
        monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with Silent().track("labelling", 40, "cells") as track:
        track.advance(40)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("quiet", "lines"), [(False, ["warning: genes are missing with --min-match"]), (True, [])])
def test_the_command_line_prints_warnings_as_lines_once(
    quiet: bool, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that come through `warnings` too; those of other packages are for `--debug`."""
    from scstore.options import parameters_of

    def app(_words: object) -> None:
        state.output = progress.Output(quiet=quiet)
        state.parameters = parameters_of(scstore.extract)
        state.reporter.warn("genes are missing with min_match=", GeneMatchWarning)
        Reporter().warn("genes are missing with min_match=", GeneMatchWarning)
        warnings.warn("of another package", FutureWarning, stacklevel=1)

    monkeypatch.setattr(cli, "app", app)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert cli.run([]) == 0
    assert capsys.readouterr().err.splitlines() == lines


def test_a_workflow_warns_its_python_caller(tmp_path: Path) -> None:
    """RELIABILITY 67, I7: what the command line prints reaches a notebook too."""
    make_cells(12, 20, empty=3).write_h5ad(tmp_path / "cells.h5ad")
    scstore.build_genes(tmp_path / "g.h5ad", cells=tmp_path / "cells.h5ad", encoder="random:4")
    how: dict[str, Any] = {"genes": str(tmp_path / "g.h5ad"), "pool": (), "companions": ("genept",)}
    with pytest.warns(CellsWarning) as caught:
        scstore.extract(tmp_path / "cells.h5ad", tmp_path / "s.zarr", **how)
    own = [warning for warning in caught if issubclass(warning.category, scstore.ScstoreWarning)]
    assert [warning.filename for warning in own] == [__file__]
    notes = Notes()
    with warnings.catch_warnings():
        warnings.simplefilter("error", scstore.ScstoreWarning)
        scstore.extract(tmp_path / "cells.h5ad", tmp_path / "t.zarr", progress=notes, **how)
    assert any("1 cells" in said for said in notes.said)


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
    monkeypatch.setattr(tqdm.std, "time", lambda: clock[0])
    tell, text = reporter(terminal=False)
    with tell.track("extracting", 100, "cells") as track:
        track.resume_at(50)
        for _ in range(50):
            clock[0] += 1.0
            track.advance()
    lines = text.getvalue().splitlines()
    assert lines[0] == "extracting: 60 of 100 cells, 1.0/s, 00:40 left"
    assert lines[-1] == "extracting: 50 cells in 50.0 s (1.0 cells/s)"
    assert len(lines) == 5
    assert "\x1b" not in text.getvalue()


def test_a_note_does_not_end_in_a_bar() -> None:
    tell, text = reporter(terminal=True)
    with tell.track("extracting", 10, "cells") as track:
        track.advance()
        tell.note("a note")
    assert "a note" in [line.rpartition("\r")[2] for line in text.getvalue().split("\n")]


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
