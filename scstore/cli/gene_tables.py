"""What ``genes build`` and ``genes info`` print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scstore.cli.builder import state
from scstore.genes.table import GeneTable


def show_table(table: GeneTable, given: Mapping[str, Any]) -> None:
    """Print the size of a new table and the next command."""
    output = given["output"]
    state.output.result(
        {"genes": str(output), "n_genes": len(table), "width": table.width, "digest": table.digest},
        f"{output}: {len(table):,} genes × {table.width}",
        f"next: scstore extract CELLS -o STORE --genes {output}",
    )


def show_description(found: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Print what a table holds."""
    organisms = ", ".join(f"{name or 'not named'} {count:,}" for name, count in found["organisms"].items())
    state.output.result(
        found,
        f"{given['path']}: {found['n_genes']:,} genes × {found['width']}",
        f"encoder: {', '.join(f'{name} {value}' for name, value in found['encoder'].items())}",
        f"template: {found['template'] or 'none'}",
        f"organisms: {organisms}",
        f"sources of the texts: {found['coverage']}",
        f"digest: {found['digest']}",
    )
