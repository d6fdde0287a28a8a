"""What ``fit`` and ``predict`` print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scstore.annotation.predict import PredictionCounts
from scstore.cli.builder import state
from scstore.heads.artifact import AnyHead
from scstore.report.card import save_model_card

REASONS = {"unsure": "confidence too low", "far": "too far from the training cells", "empty": "no gene to read"}


def show_head(head: AnyHead, given: Mapping[str, Any]) -> None:
    """Write the model card and print how good the head is."""
    folder = Path(given["output"])
    card = save_model_card(head, folder / "README.md", name=folder.name, overwrite=True)
    state.output.result(
        {"head": str(folder), "classes": [str(name) for name in head.classes_], "held_out": head.held_out_},
        f"{folder}: {given['head']} head for {len(head.classes_)} labels on {', '.join(head.views_)}",
        *level_lines(head.record_),
        held_out_line(head.held_out_),
        f"model card: {card}",
        f"next: scstore predict STORE --head {folder} -o annotated.h5ad",
    )


def level_lines(record: Mapping[str, Any]) -> list[str]:
    """Return how accurate each level of a head of several levels is."""
    levels = [
        f"{level['column']} {level['held_out']['accuracy']:.3f} ({len(level['classes'])} labels)"
        for level in record.get("levels", [])
        if level["held_out"]["n"]
    ]
    return [f"accuracy on held-out cells, coarse to fine: {', '.join(levels)}"] if levels else []


def held_out_line(held_out: Mapping[str, Any]) -> str:
    """Return the scores on held-out cells."""
    if not held_out["n"]:
        return "No label has enough cells to hold any out; no accuracy is reported."
    return (
        f"on {held_out['n']:,} cells held out in turn: accuracy {held_out['accuracy']:.3f}, macro-F1 "
        f"{held_out['macro_f1']:.3f}, calibration error {held_out['ece']:.3f}"
    )


def show_predictions(counts: PredictionCounts, given: Mapping[str, Any]) -> None:
    """Print how many cells have which label, and why others have none."""
    labels = dict(sorted(counts.cells.items(), key=lambda item: -item[1]))
    rows = []
    for name in [*labels, *(name for name in counts.majority if name not in labels)]:
        n = labels.get(name, 0)
        mean = f"{counts.confidence[name] / n:.3f}" if n else "-"
        rows.append([name, f"{n:,}", mean, *([f"{counts.majority.get(name, 0):,}"] if counts.majority else [])])
    headings = ["label", "cells", "mean confidence", *(["by majority"] if counts.majority else [])]
    state.output.table(f"{given['output']}: {counts.n_cells:,} cells", headings, rows)
    lines = []
    if coarse := counts.statuses.get("coarse", 0):
        lines.append(f"{coarse:,} cells have a coarse label because their finest one is unsure")
    if why := [f"{counts.statuses[name]:,} {text}" for name, text in REASONS.items() if counts.statuses.get(name)]:
        lines.append(f"unassigned: {', '.join(why)}; the most probable label of each is in best_label")
    values = {
        "output": str(given["output"]),
        "n_cells": counts.n_cells,
        "labels": labels,
        "statuses": counts.statuses,
        **({"majority": counts.majority} if counts.majority else {}),
    }
    state.output.result(values, *lines)
