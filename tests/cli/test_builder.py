from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
import sample

from scstore.cli.builder import Command, LazyCommand, group_of, in_flags, state
from scstore.cli.commands import COMMANDS, GENES, PLOTS
from scstore.errors import OptionError
from scstore.options import parameters_of
from scstore.progress import Output

COMMAND = Command(
    "train", "sample:train", "sample:show", "Train a head.", "On a laptop", ("scstore train s",), "sample:adapt"
)
APP = typer.Typer(cls=group_of([COMMAND]))
APP.callback()(lambda: None)


def run(*words: str) -> tuple[Any, dict[str, Any]]:
    sample.CALLS.clear()
    done = CliRunner().invoke(APP, ["train", *words])
    if isinstance(done.exception, OptionError):
        raise done.exception
    return done, sample.CALLS[-1] if sample.CALLS else {}


def test_words_become_arguments() -> None:
    done, call = run("s.zarr", "-o", "h", "--label", "a", "--label", "b", "--layers", "1,6", "--no-expression",
                     "--control", "x=1", "--control", "x=2", "--overwrite")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert call == {"store": "s.zarr", "output": "h", "label": ["a", "b"], "head": "linear", "layers": [1, 6],
                    "controls": {"x": ["1", "2"]}, "keep": 0.95, "expression": False, "overwrite": True}  # fmt: skip
    assert sample.SHOWN[-1]["result"] == "h"


def test_options_of_the_command_line_alone() -> None:
    assert run("s.zarr", "--label", "a", "--dry-run")[1]["output"] == "nowhere"


@pytest.mark.parametrize(
    ("words", "name", "values"),
    [
        (("--label", "a,b", "--label", "c"), "label", ["a", "b", "c"]),
        (("--label", r"a\, b,c d"), "label", ["a, b", "c d"]),
        (("--label", "none"), "label", ["none"]),
        (("--label", "a", "--layers", "1,6", "--layers", "-2"), "layers", [1, 6, -2]),
        (("--label", "a", "--layers", "none"), "layers", []),
        (("--label", "a", "--control", "x=1,2"), "controls", {"x": ["1,2"]}),
    ],
)
def test_lists_take_commas_and_repetition(words: tuple[str, ...], name: str, values: Any) -> None:
    assert run("s.zarr", *words)[1][name] == values


@pytest.mark.parametrize("words", [("--head", "mlpp"), ("--keep", "2"), ("--layers", "1;6"), ("--control", "x")])
def test_wrong_values_are_refused_by_the_function(words: tuple[str, ...]) -> None:
    with pytest.raises(OptionError):
        run("s.zarr", "--label", "a", *words)


def test_what_click_refuses() -> None:
    assert run("s.zarr")[0].exit_code == 2  # --label is missing
    assert "--label" in run("s.zarr", "--lable", "a")[0].output


def test_the_help_is_the_signature_s() -> None:
    said = run("--help")[0].output
    for word in (
        "Column of obs",
        "linear|mlp",
        "--no-expression",
        "It takes seconds.",
        "scstore train s",
        "--help-all",
    ):
        assert word in said
    assert "--seed" not in said
    everything = run("--help-all")[0].output
    assert "--seed" in everything.split("More options")[1]
    assert "bool" not in everything
    assert "Exit codes" in said
    assert "progress" not in said


def test_switches_are_read_behind_the_command_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "output", Output())
    assert run("s.zarr", "--label", "a", "--json", "-q")[1]["label"] == ["a"]
    assert (state.output.as_json, state.output.quiet) == (True, True)


def test_every_command_shows_its_everyday_options_alone() -> None:
    for command in (*COMMANDS, *GENES, *PLOTS):
        built = LazyCommand(command).make_context(command.name, [], resilient_parsing=True).command
        shown = [one.name for one in built.params if not getattr(one, "hidden", False)]
        assert len(shown) <= 13, (command.name, shown)


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("keep=1.5: must be between 0 and 1.", "--keep 1.5: must be between 0 and 1."),
        ("Pass overwrite=True.", "Pass --overwrite."),
        ("Did you mean head='mlp'?", "Did you mean --head mlp?"),
        ("label='cell type': no such column", "--label 'cell type': no such column"),
        ("Name label= too", "Name --label too"),
        ("use expression=False", "use --no-expression"),
        ("layers=[1, 6] and layers=(-1)", "--layers 1,6 and --layers -1"),
        ("output=a/b.h5ad exists.", "--output a/b.h5ad exists."),
        ("unknown=3 stays, relabel=3 too", "unknown=3 stays, relabel=3 too"),
    ],
)
def test_options_are_written_as_they_are_typed(message: str, typed: str) -> None:
    assert in_flags(message, parameters_of(sample.train)) == typed
