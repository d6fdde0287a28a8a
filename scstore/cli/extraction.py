"""What ``extract`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from scstore.cli.builder import state
from scstore.console import Output
from scstore.extraction.estimate import estimate
from scstore.extraction.extract import this_process
from scstore.options import Option
from scstore.store.reader import Store


def adapt(
    given: dict[str, Any],
    *,
    dry_run: Annotated[bool, Option("Print cells, tokens, FLOP, time and sizes; extract nothing.")] = False,
) -> dict[str, Any]:
    """Print an estimate in place of the extraction, and let one of a launcher's processes speak for all."""
    if this_process(given.get("shard")).is_silent:
        state.output = Output(quiet=True)
    if dry_run:
        words = dict(given)
        found = estimate(words.pop("cells"), words.pop("output"), **words, progress=state.reporter)
        state.output.result(found.as_json(), *found.lines())
        raise typer.Exit
    return given


def show(store: Store, given: Mapping[str, Any]) -> None:
    """Print what the store holds and the next command."""
    output = given["output"]
    done = int(store.committed.sum())
    if done < store.n_obs:
        state.output.result(
            store.info, f"{output}: {done:,} of {store.n_obs:,} cells so far; other processes extract the rest"
        )
        return
    control = (store.record or {}).get("control")
    state.output.result(
        store.info,
        f"{output}: {store.n_obs:,} cells, views {', '.join(store.views)}",
        f"next: scstore fit {output} --label COLUMN -o heads/NAME"
        if control is None
        else f"next: scstore evaluate STORE --label COLUMN --control {control['kind']}={output}",
    )
