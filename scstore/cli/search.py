"""What ``query`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scstore.cli.builder import state
from scstore.search.query import QueryResult


def show(found: QueryResult, given: Mapping[str, Any]) -> None:
    """Print how many neighbours were written, and the shares by group."""
    output, k, column, by = (given[name] for name in ("output", "k", "summarise", "by"))
    if found.groups is not None:
        rows = [
            [str(row[by]), str(row["label"]), f"{row['fraction']:.3f}", f"{row['coherence']:.3f}"]
            for _, row in found.groups.iterrows()
        ]
        title = f"{output}: {column} of the {k} neighbours of each cell, by {by}"
        state.output.table(title, [by, column, "fraction", "coherence"], rows)
    state.output.result(
        {
            "output": str(output),
            "n_cells": found.n_cells,
            "n_rows": found.n_rows,
            "k": k,
            "columns": list(found.columns),
        },
        f"{output}: {k} neighbours of each of {found.n_cells:,} cells, median distance {found.median_distance:.3f}"
        if column is None
        else f"{output}: shares of {column} among {k} neighbours of each of {found.n_cells:,} cells",
    )
