from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from scstore.errors import OptionError
from scstore.options import Option, did_you_mean, parameters_of, public, with_options


@public
def fit(
    store: Annotated[str, Option("A store.", argument=True)],
    *,
    head: Annotated[Literal["linear", "mlp"], Option("The kind of head.")] = "linear",
    keep: Annotated[float | None, Option("A share.", minimum=0, maximum=1)] = None,
) -> tuple[str, str, float | None]:
    """Train a head.

    More words.

    Returns
    -------
    tuple
        What was given.
    """
    return store, head, keep


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of run."""

    layers: Annotated[Sequence[int], Option("Layers.")] = (-1,)
    n: Annotated[int, Option("A number.", minimum=1)] = 1


@with_options(Options)
def run(cells: Annotated[str, Option("Cells.")], output: str, options: Options) -> tuple[str, str, Options]:
    """Run cells."""
    return cells, output, options


def test_a_call_passes_what_it_is_given() -> None:
    assert fit("s", head="mlp", keep=0.5) == ("s", "mlp", 0.5)
    assert run("c", "o", n=3) == ("c", "o", Options(n=3))
    assert run(output="o", cells="c", n=3) == ("c", "o", Options(n=3))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="output"):
        run("c")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"haed": "mlp"}, "Did you mean head=?"),
        ({"head": "mpl"}, "Did you mean head='mlp'?"),
        ({"keep": 1.5}, "keep=1.5: must be between 0 and 1."),
        ({"keep": float("nan")}, "keep=nan: must be between 0 and 1."),
    ],
)
def test_a_wrong_option_is_refused_with_a_suggestion(options: dict[str, object], told: str) -> None:
    with pytest.raises(OptionError) as caught:
        fit("s", **options)  # type: ignore[arg-type]
    assert told in str(caught.value)


def test_fields_of_a_dataclass_are_options() -> None:
    with pytest.raises(OptionError) as caught:
        run("c", "o", n=0)
    assert "n=0: must be at least 1." in str(caught.value)
    assert [one.name for one in parameters_of(run)] == ["cells", "output", "layers", "n"]
    assert list(inspect.signature(run).parameters) == ["cells", "output", "layers", "n"]


def test_the_docstring_lists_the_parameters() -> None:
    lines = (fit.__doc__ or "").splitlines()
    assert lines.index("Parameters") < lines.index("    The kind of head.") < lines.index("Returns")
    assert lines[lines.index("keep") + 1] == "    A share."
    assert (run.__doc__ or "").splitlines()[-2:] == ["n", "    A number."]


def test_types_are_taken_apart() -> None:
    by_name = {one.name: one for one in parameters_of(fit)}
    assert by_name["head"].choices == ("linear", "mlp")
    assert by_name["keep"].type is float
    assert by_name["keep"].optional
    assert by_name["store"].default is inspect.Parameter.empty


def test_one_text_or_several_are_a_list() -> None:
    def labelled(label: Annotated[str | Sequence[str], Option("Columns.")]) -> None:
        """Label."""

    assert parameters_of(labelled)[0].type == Sequence[str]


def test_nothing_alike_is_no_suggestion() -> None:
    assert did_you_mean("zzz", ["alpha", "beta"]) == ""
    assert did_you_mean("alpa", ["alpha", "beta"]) == " Did you mean alpha?"
