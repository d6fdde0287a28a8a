"""What ``export`` and ``verify`` print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from scstore.cli.builder import state
from scstore.store.verify_store import Verification

# Exit code when something is wrong with what was verified.
EXIT_DAMAGED = 3

# Findings that are printed; ``--json`` gives all.
LISTED = 1000


def show_export(written: Path, _given: Mapping[str, Any]) -> None:
    """Print the file and its size."""
    state.output.result({"output": str(written)}, f"{written}: {written.stat().st_size / 1e6:,.1f} MB")


def show_verification(found: Verification, given: Mapping[str, Any]) -> None:
    """Print every finding and the verdict."""
    path = Path(given["path"])
    lines = [_finding(path, finding) for finding in found.findings[:LISTED]]
    if len(found.findings) > LISTED:
        lines.append(f"… and {len(found.findings) - LISTED:,} more: scstore --json verify")
    lines += [f"note: {note}" for note in found.notes]
    lines += [f"removed: {name}" for name in found.removed]
    if found.marked:
        lines.append(f"marked as not extracted: {_shards(found.marked)}; run the same `scstore extract` to redo them")
    elif found.damaged_shards:
        lines.append(f"damaged: {_shards(found.damaged_shards)}; --repair lets the same `scstore extract` redo them")
    if any(finding.shard is None for finding in found.findings):
        lines.append("Damage outside the shards cannot be mended: restore it from a copy, or make it again.")
    read = f"{found.n_files:,} files, {found.n_bytes / 1e6:,.1f} MB compared with their digests"
    verdict = f"{len(found.findings):,} wrong" if found.findings else "nothing wrong"
    hint = "" if found.deep or found.findings else "; --deep reads the views and the expression too"
    lines.append(f"{path} ({found.kind}): {read}: {verdict}{hint}")
    state.output.result(found.as_json(), *lines)
    if not found.ok:
        raise typer.Exit(EXIT_DAMAGED)


def _finding(path: Path, finding: Any) -> str:
    where = f"{path}/{finding.file}" if finding.file and path.is_dir() else f"{path}"
    message = finding.message.removeprefix(f"{where}: ").removeprefix(f"{where} ")
    return f"{finding.problem}: {where}: {message}"


def _shards(numbers: tuple[int, ...]) -> str:
    more = f" and {len(numbers) - 10:,} more" if len(numbers) > 10 else ""
    return f"shard{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:10]))}{more}"
