"""What ``panel`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scstore.cli.builder import state
from scstore.panels.panel import Panel

SHOWN = 8


def show(panel: Panel, given: Mapping[str, Any]) -> None:
    """Print the first genes of a panel and the next command."""
    output, orthologs = given["output"], given["orthologs"]
    purpose = "chosen without labels" if given["label_free"] else f"that separate {panel.label}"
    symbols = [str(name) for name in panel.obs["symbol"]]
    more = ", …" if len(symbols) > SHOWN else ""
    state.output.result(
        {"panel": str(output), "digest": panel.digest, "genes": symbols, "record": dict(panel.record)},
        f"{output}: {len(panel)} genes {purpose}: {', '.join(symbols[:SHOWN])}{more}",
        f"next: scstore extract CELLS -o STORE --panel {output}"
        + ("" if orthologs is None else f" --orthologs {orthologs}"),
    )
