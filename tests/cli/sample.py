"""Public functions that the tests make commands of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from scstore.options import Option, Overwrite, Progress, public

CALLS: list[dict[str, Any]] = []
SHOWN: list[dict[str, Any]] = []


@public
def train(
    store: Annotated[str, Option("A store.", argument=True)],
    output: Annotated[str | None, Option("Folder of the head.", flags=("--output", "-o"))] = None,
    *,
    label: Annotated[Sequence[str], Option("Column of obs; repeat for several.")],
    head: Annotated[Literal["linear", "mlp"], Option("Kind of head.")] = "linear",
    layers: Annotated[Sequence[int], Option("Layers to read.")] = (-1,),
    controls: Annotated[Mapping[str, Sequence[str]] | None, Option("NAME=STORE; repeat.", flags=("--control",))] = None,
    keep: Annotated[float, Option("Share kept.", minimum=0, maximum=1)] = 0.95,
    expression: Annotated[bool, Option("Keep the expression.")] = True,
    seed: Annotated[int, Option("The same seed gives the same head.", advanced=True)] = 0,
    overwrite: Overwrite = False,
    progress: Progress = None,
) -> str:
    """Train a head.

    It takes seconds.

    Returns
    -------
    str
        Where it is.
    """
    if progress is not None:
        progress.note(f"pass overwrite=True or keep={keep}.")
    CALLS.append({"store": store, "output": output, "label": label, "head": head, "layers": layers,
                  "controls": controls, "keep": keep, "expression": expression, "overwrite": overwrite})  # fmt: skip
    return f"{output}"


def adapt(given: dict[str, Any], *, dry_run: Annotated[bool, Option("Do nothing.")] = False) -> dict[str, Any]:
    """Take an option of the command line alone."""
    return {**given, "output": "nowhere"} if dry_run else given


def show(result: str, given: Mapping[str, Any]) -> None:
    """Keep what would be printed."""
    SHOWN.append({"result": result, **given})
