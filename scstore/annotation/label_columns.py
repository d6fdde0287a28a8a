"""The labels to learn: one column of a store, or several from coarse to fine."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from scstore.annotation.majority import HETEROGENEOUS
from scstore.annotation.prediction_frames import UNASSIGNED
from scstore.cells.labels import read_labels, report_labels
from scstore.errors import LabelsError, OptionError
from scstore.progress import Reporter
from scstore.store.reader import Store

OWN_WORDS = (UNASSIGNED, HETEROGENEOUS)


@dataclass(frozen=True, eq=False)
class LabelColumns:
    """Labels of a store's cells."""

    columns: tuple[str, ...]  # coarse to fine; the last is learned
    labels: list[str | None]  # (n_obs,) in the finest column; None where any column has none
    parents: Mapping[str, Mapping[str, str]]  # for each coarser column the label that contains each fine label

    @property
    def finest(self) -> str:
        """The column that is learned."""
        return self.columns[-1]


def read_label_columns(
    store: Store, label: str | Sequence[str], *, missing: Sequence[str], progress: Reporter
) -> LabelColumns:
    """Read one label column, or several in any order of which each divides the labels of a coarser one."""
    columns = [label] if isinstance(label, str) else list(label)
    if not columns or len(set(columns)) < len(columns):
        raise OptionError(f"label={columns}: name at least one column, and each once.")
    source = str(store.path)
    found = {column: read_labels(store.obs, column, missing=missing, source=source) for column in columns}
    for column, labels in found.items():
        if words := sorted({label for label in labels if label and label.strip().casefold() in OWN_WORDS}):
            raise LabelsError(
                f"{source}: {column!r} has a label {words[0]!r}, which is predict's word for cells without a clear "
                f"label. Rename it, or leave those cells out: missing_labels={[*missing, *words]}."
            )
        report_labels(store.obs, column, labels, source=source, progress=progress)
    if len(columns) == 1:
        return LabelColumns((columns[0],), found[columns[0]], {})
    frame = pd.DataFrame(found, dtype=object)
    n_labels = frame.nunique().sort_values(kind="stable")
    order = n_labels.index.tolist()
    progress.note("levels, coarse to fine: " + " > ".join(f"{name} ({n:,} labels)" for name, n in n_labels.items()))
    complete = frame[order].dropna()
    if complete.empty:
        raise LabelsError(f"{store.path}: no cell has a label in each of {', '.join(columns)}. Fit a head for each.")
    if left_out := int(frame.notna().any(axis=1).sum()) - len(complete):
        progress.note(f"{left_out:,} cells are left out: they have no label in one of the columns")
    for coarse, fine in itertools.pairwise(order):
        _check_nested(source, complete, coarse, fine)
    finest = complete[order[-1]]
    parents = {column: dict(zip(finest, complete[column], strict=True)) for column in order[:-1]}
    return LabelColumns(tuple(order), [finest.get(row) for row in range(len(frame))], parents)


def _check_nested(source: str, labels: pd.DataFrame, coarse: str, fine: str) -> None:
    """Refuse a fine label in two coarse ones, whose predictions could contradict each other."""
    counts = labels.groupby([fine, coarse]).size()
    torn = counts[counts.groupby(level=0).transform("size") > 1]
    if not torn.empty:
        lines = [
            f"{label}: " + ", ".join(f"{above} ({n:,} cells)" for (_, above), n in found.items())
            for label, found in torn.groupby(level=0)
        ]
        listed = "\n  ".join(lines[:10])
        raise LabelsError(
            f"{source}: {len(lines)} label(s) of {fine!r} lie in several labels of {coarse!r}:\n  {listed}\n"
            "Each must lie in one. Correct the columns, or fit a head for each of them."
        )
