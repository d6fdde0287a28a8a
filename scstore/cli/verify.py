"""The command verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scstore.cli.shared import app, state

__all__: list[str] = []

EXIT_DAMAGED = 3
"""Exit code when something is wrong with what was verified."""

LISTED = 1000
"""Findings that are printed; ``--json`` gives all."""


@app.command(rich_help_panel="On a laptop, without the model")
def verify(
    path: Annotated[
        Path, typer.Argument(help="A store, head, projector, index, gene table or panel.", show_default=False)
    ],
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Of a store: read every byte.")] = False,
    gc: Annotated[bool, typer.Option("--gc", help="Of a store: remove what killed runs have left behind.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Of a store: let extract redo the damaged shards, and just those.")
    ] = False,
) -> None:
    """Look for damage, and list all of it. Exit code 3 where there is any.

    Examples
    --------
        scstore verify stores/ref.zarr --deep             # every byte against its digest

        scstore verify stores/ref.zarr --deep --repair    # then run the same `scstore extract` again

        scstore verify heads/cell_type

        scstore verify stores/ref.zarr.readout_wmean_l40.index

    """
    from scstore.verification import verify as run

    found = run(path, deep=deep, gc=gc, repair=repair, progress=state.output.reporter)
    lines = []
    for finding in found.findings[:LISTED]:
        where = f"{path}/{finding.file}" if finding.file and path.is_dir() else f"{path}"
        said = finding.message.removeprefix(f"{where}: ").removeprefix(f"{where} ")
        lines.append(f"{finding.problem}: {where}: {said}")
    if len(found.findings) > LISTED:
        lines.append(f"… and {len(found.findings) - LISTED:,} more: scstore --json verify")
    lines += [f"note: {note}" for note in found.notes]
    lines += [f"removed: {name}" for name in found.removed]
    if found.marked:
        lines.append(
            f"not extracted from now on: {_shards(found.marked)}; the same `scstore extract` redoes just those"
        )
    elif found.damaged_shards:
        lines.append(f"damaged: {_shards(found.damaged_shards)}; the same `scstore extract` redoes just those")
    if any(finding.shard is None for finding in found.findings):
        lines.append("what is no shard cannot be mended: restore it from a copy, or make it again")
    read = f"{found.n_files:,} files, {found.n_bytes / 1e6:,.1f} MB compared with their digests"
    verdict = f"{len(found.findings):,} wrong" if found.findings else "nothing wrong"
    hint = "" if found.deep or found.findings else "; --deep reads the views and the expression too"
    lines.append(f"{path} ({found.kind}): {read}: {verdict}{hint}")
    state.output.result(found.as_json(), *lines)
    if not found.ok:
        raise typer.Exit(EXIT_DAMAGED)


def _shards(numbers: tuple[int, ...]) -> str:
    more = f" and {len(numbers) - 10:,} more" if len(numbers) > 10 else ""
    return f"shard{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:10]))}{more}"
