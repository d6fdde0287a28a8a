"""The labels to learn: one column of a store, or several from coarse to fine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scstore.cells.labels import read_labels, report_labels
from scstore.errors import LabelsError, OptionError
from scstore.progress import Reporter
from scstore.store.reader import Store

__all__ = ["LabelColumns", "read_label_columns"]


@dataclass(frozen=True, eq=False)
class LabelColumns:
    """Labels of a store's cells.

    Attributes
    ----------
    columns
        Coarse to fine; the last is the one that is learned.
    labels
        Of each cell in the finest column; ``None`` where any column has none.
    parents
        For each coarser column the label that each fine label lies in.
    """

    columns: tuple[str, ...]
    labels: list[str | None]
    parents: Mapping[str, Mapping[str, str]]


def read_label_columns(
    store: Store, label: str | Sequence[str], *, missing: Sequence[str], progress: Reporter
) -> LabelColumns:
    """Read one label column, or several of which each divides the labels of a coarser one.

    Parameters
    ----------
    store
        The cells.
    label
        A column of ``obs``, or several in any order: fewer labels are coarser.
    missing
        Words that count as a missing label.
    progress
        Told of the order, and of cells without a label in some column.

    Raises
    ------
    LabelsError
        If a column is missing, or a fine label lies in two coarse ones.
    OptionError
        If no column is named, or one twice.
    """
    columns = [label] if isinstance(label, str) else list(label)
    if not columns or len(set(columns)) < len(columns):
        msg = f"--label {', '.join(columns)}: name at least one column, and each once."
        raise OptionError(msg)
    source = str(store.path)
    found = {column: read_labels(store.obs, column, missing=missing, source=source) for column in columns}
    for column, labels in found.items():
        report_labels(store.obs, column, labels, source=source, progress=progress)
    if len(columns) == 1:
        return LabelColumns((columns[0],), found[columns[0]], {})
    order = sorted(columns, key=lambda column: len(set(found[column]) - {None}))
    rows = list(zip(*(found[column] for column in order), strict=True))
    whole = [None not in row for row in rows]
    told = " > ".join(f"{column} ({len(set(found[column]) - {None}):,} labels)" for column in order)
    progress.note(f"levels, coarse to fine: {told}")
    if left_out := sum(any(row) for row in rows) - sum(whole):
        progress.note(f"{left_out:,} cells have no label in one of the columns, and are left out")
    finest = [row[-1] if complete else None for row, complete in zip(rows, whole, strict=True)]
    complete_rows = [row for row, complete in zip(rows, whole, strict=True) if complete]
    if not complete_rows:
        msg = f"{store.path}: no cell has a label in each of {', '.join(columns)}. Fit a head for each of them."
        raise LabelsError(msg)
    for place in range(len(order) - 1):
        _check_nested(
            store, order[place], order[place + 1], Counter((row[place], row[place + 1]) for row in complete_rows)
        )
    parents = {
        column: {str(row[-1]): str(row[place]) for row in complete_rows} for place, column in enumerate(order[:-1])
    }
    return LabelColumns(tuple(order), finest, parents)


def _check_nested(store: Store, coarse: str, fine: str, counts: Mapping[tuple[Any, Any], int]) -> None:
    """Refuse a fine label with two parents: no prediction of it could be consistent."""
    parents: dict[str, dict[str, int]] = {}
    for (above, label), n in sorted(counts.items()):
        parents.setdefault(label, {})[above] = n
    torn = {label: found for label, found in parents.items() if len(found) > 1}
    if torn:
        lines = "\n  ".join(
            f"{label}: " + ", ".join(f"{above} ({n:,} cells)" for above, n in found.items())
            for label, found in list(torn.items())[:10]
        )
        msg = (
            f"{store.path}: {len(torn)} label(s) of {fine!r} lie in several of {coarse!r}:\n  {lines}\nEach must lie "
            "in one. Correct the columns, or fit a head for each of them."
        )
        raise LabelsError(msg)
