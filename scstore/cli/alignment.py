"""What ``align`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scstore.cli.builder import state
from scstore.model.projector_file import ProjectorFile


def show(projector: ProjectorFile, given: Mapping[str, Any]) -> None:
    """Print the learning curve and the next command."""
    best, output = projector.training["best_epoch"], given["output"]
    state.output.table(
        f"learning curve, means over the readouts (epoch {best} was kept)",
        ["epoch", "train loss", "held-out loss", "accuracy", "macro-F1"],
        [
            [
                str(row["epoch"]),
                "" if row["train_loss"] is None else f"{row['train_loss']:.3f}",
                f"{row['held_out_loss']:.3f}",
                f"{_mean(row, 'accuracy'):.3f}",
                f"{_mean(row, 'macro_f1'):.3f}",
            ]
            for row in projector.curve
        ],
    )
    same = "".join(f" --{name} {given[name]}" for name in ("genes", "panel", "orthologs") if given[name])
    state.output.result(
        {"projector": str(output), "digest": projector.digest, "best_epoch": best, "curve": projector.curve},
        f"{output}: trained on {len(projector.trained_on):,} cells for {given['label']}, best epoch {best}",
        f"next: scstore extract CELLS -o STORE --projector {output}{same}",
    )


def _mean(row: Mapping[str, Any], score: str) -> float:
    views = row["held_out"].values()
    return float(sum(view[score] for view in views)) / len(views)
