"""The labels to learn: one column of a store, or several from coarse to fine."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scstore.cells.labels import read_labels, report_labels
from scstore.errors import LabelsError, OptionError
from scstore.progress import Reporter
from scstore.store.reader import Store


@dataclass(frozen=True, eq=False)
class LabelColumns:
    """Labels of a store's cells.

    Attributes
    ----------
    columns
        Coarse to fine; the last is learned.
    labels
        ``(n_obs,)`` label of each cell in the finest column; ``None`` where any column has none.
    parents
        For each coarser column the label that contains each fine label.
    """

    columns: tuple[str, ...]
    labels: list[str | None]
    parents: Mapping[str, Mapping[str, str]]

    @property
    def finest(self) -> str:
        """The column that is learned."""
        return self.columns[-1]


def read_label_columns(
    store: Store, label: str | Sequence[str], *, missing: Sequence[str], progress: Reporter
) -> LabelColumns:
    """Read one label column, or several in any order of which each divides the labels of a coarser one.

    Raises
    ------
    LabelsError
        If a column is missing, or a fine label lies in two coarse ones.
    OptionError
        If no column is named, or one twice.
    """
    columns = [label] if isinstance(label, str) else list(label)
    if not columns or len(set(columns)) < len(columns):
        raise OptionError(f"label={columns}: name at least one column, and each once.")
    source = str(store.path)
    found = {column: read_labels(store.obs, column, missing=missing, source=source) for column in columns}
    for column, labels in found.items():
        report_labels(store.obs, column, labels, source=source, progress=progress)
    if len(columns) == 1:
        return LabelColumns((columns[0],), found[columns[0]], {})
    n_labels = {column: len(set(labels) - {None}) for column, labels in found.items()}
    order = sorted(columns, key=lambda column: n_labels[column])
    progress.note("levels, coarse to fine: " + " > ".join(f"{name} ({n_labels[name]:,} labels)" for name in order))
    rows = list(zip(*(found[column] for column in order), strict=True))
    complete = [row for row in rows if None not in row]
    if not complete:
        msg = f"{store.path}: no cell has a label in each of {', '.join(columns)}. Fit a head for each of them."
        raise LabelsError(msg)
    if left_out := sum(any(row) for row in rows) - len(complete):
        progress.note(f"{left_out:,} cells are left out: they have no label in one of the columns")
    for place, (coarse, fine) in enumerate(itertools.pairwise(order)):
        _check_nested(source, coarse, fine, Counter((row[place], row[place + 1]) for row in complete))
    parents = {column: {str(row[-1]): str(row[place]) for row in complete} for place, column in enumerate(order[:-1])}
    return LabelColumns(tuple(order), [None if None in row else row[-1] for row in rows], parents)


def _check_nested(source: str, coarse: str, fine: str, counts: Mapping[tuple[Any, Any], int]) -> None:
    """Refuse a fine label in two coarse ones, whose predictions could contradict each other."""
    parents: dict[str, dict[str, int]] = {}
    for (above, label), n in sorted(counts.items()):
        parents.setdefault(label, {})[above] = n
    torn = {label: found for label, found in parents.items() if len(found) > 1}
    if torn:
        lines = "\n  ".join(
            f"{label}: " + ", ".join(f"{above} ({n:,} cells)" for above, n in found.items())
            for label, found in list(torn.items())[:10]
        )
        raise LabelsError(
            f"{source}: {len(torn)} label(s) of {fine!r} lie in several labels of {coarse!r}:\n  {lines}\n"
            "Each must lie in one. Correct the columns, or fit a head for each of them."
        )
