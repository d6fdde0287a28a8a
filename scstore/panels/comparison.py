"""Which cells of each input are compared with which, from their labels and groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from scstore.cells.labels import MISSING_LABELS, MISSING_VALUES, read_labels, report_labels
from scstore.errors import LabelsError
from scstore.escaping import show_some
from scstore.panels.inputs import PanelInput
from scstore.progress import Reporter

__all__ = ["Comparisons", "Design", "cells_seen", "compare", "design"]

MIN_CELLS = 2
"""Minimum cells per label within a group: a gene of a single cell would have an infinite F."""

MIN_GROUP_CELLS = 10
"""Minimum cells of a group without labels: fewer give no variance to speak of."""

Column = Sequence[str | None]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Design:
    """Which cells of a data set are compared with which.

    Attributes
    ----------
    codes
        ``(n_cells,) int64``: number of the cell's class, a label within a group (or a group, without labels); -1 for a
        cell that is not compared.
    classes
        For each group that counts, the numbers of its classes.
    seen
        ``(n_cells,) bool``: cells of these groups that have a label, also one that too few have.
    left_out
        Groups that do not count, sorted.
    """

    codes: NDArray[np.int64]
    classes: tuple[NDArray[np.int64], ...]
    seen: NDArray[np.bool_]
    left_out: tuple[str, ...]

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return sum(map(len, self.classes))


Comparisons = Sequence[Mapping[str, Design]]
"""For each input the designs by label column; by ``""`` without labels."""


def compare(
    inputs: Sequence[PanelInput],
    *,
    labels: Sequence[str],
    missing: Sequence[str] = MISSING_LABELS,
    group: str | None,
    progress: Reporter,
) -> Comparisons:
    """Read the label columns (none for a panel without labels) and the group column of every input.

    Raises
    ------
    LabelsError
        If no input can use a column, or an input can use none.
    """
    groups: dict[str, Column] = {}
    if group is not None:

        def read_groups(one: PanelInput) -> Column:
            return read_labels(one.cells.obs, group, missing=MISSING_VALUES, source=one.cells.source)

        groups = _of_each(inputs, read_groups, "It counts as one group.", progress)
    designs: dict[str, dict[str, Design]] = {one.name: {} for one in inputs}
    for label in labels:

        def compare_labels(one: PanelInput, *, label: str = label) -> Design:
            column = read_labels(one.cells.obs, label, missing=missing, source=one.cells.source)
            report_labels(one.cells.obs, label, column, source=one.name, progress=progress)
            return design(column, groups.get(one.name), what=f"{one.cells.source}: column {label!r}")

        found = _of_each(inputs, compare_labels, f"It does not rank genes for {label!r}.", progress)
        for name, own in found.items():
            designs[name][label] = own
    for one in inputs:
        if not labels:
            everything = [""] * one.cells.n_cells
            whole = design(everything, groups.get(one.name), what=one.cells.source, without_labels=True)
            designs[one.name][""] = whole
        elif not designs[one.name]:
            msg = f"{one.cells.source}: none of the label columns can be used here. Leave this input out."
            raise LabelsError(msg)
        for label, each in designs[one.name].items():
            _note_groups(one.name, label, each, progress)
    return list(designs.values())


def cells_seen(inputs: Sequence[PanelInput], comparisons: Comparisons) -> tuple[str, ...]:
    """Return the ids of the cells with labels that are looked at, sorted."""
    found: list[str] = []
    for one, designs in zip(inputs, comparisons, strict=True):
        if "" not in designs:
            seen = np.any([design.seen for design in designs.values()], axis=0)
            found.extend(map(str, one.cells.obs.index[seen]))
    return tuple(sorted(found))


def _of_each(
    inputs: Sequence[PanelInput], make: Callable[[PanelInput], T], otherwise: str, progress: Reporter
) -> dict[str, T]:
    """Return what is made of each input by its name; inputs that cannot be used are noted, with ``otherwise``."""
    found: dict[str, T] = {}
    refused: list[LabelsError] = []
    for one in inputs:
        try:
            found[one.name] = make(one)
        except LabelsError as refusal:
            refused.append(refusal)
    if not found and len(inputs) == 1:
        raise refused[0]
    if not found:
        msg = "None of the inputs can be used:\n  " + "\n  ".join(map(str, refused))
        raise LabelsError(msg)
    for error in refused:
        progress.note(f"{error} {otherwise}")
    return found


def _note_groups(name: str, label: str, found: Design, progress: Reporter) -> None:
    if not found.left_out:
        return
    why = f"of {label!r} (fewer than two labels of two cells)" if label else "(too few cells)"
    n_all = len(found.left_out) + len(found.classes)
    progress.note(f"{name}: {len(found.left_out):,} of {n_all:,} groups left out {why}: {show_some(found.left_out)}")


def design(labels: Column, groups: Column | None = None, *, what: str, without_labels: bool = False) -> Design:
    """Compare the labels of cells within each group; without labels, let each group count by itself.

    A cell is left out if its label or its group is ``None``; ``groups=None`` makes one group of all.

    Raises
    ------
    LabelsError
        If no group has two labels of two cells each; without labels, if none has ten cells.
    """
    of_group = [""] * len(labels) if groups is None else groups
    pairs = [
        None if value is None or group is None else (group, value)
        for group, value in zip(of_group, labels, strict=True)
    ]
    least = MIN_GROUP_CELLS if without_labels else MIN_CELLS
    enough = sorted(pair for pair, n in Counter(pairs).items() if pair is not None and n >= least)
    n_labels = Counter(group for group, _ in enough)
    used = [pair for pair in enough if without_labels or n_labels[pair[0]] > 1]
    if not used and without_labels:
        msg = f"{what}: no group has {MIN_GROUP_CELLS} cells or more, too few to score genes without labels."
        raise LabelsError(msg)
    if not used:
        most = max(n_labels.values(), default=0)
        within = "" if groups is None else " within one group"
        msg = f"{what} has {most} label(s) of two cells or more{within}. A panel separates at least two."
        raise LabelsError(msg)
    counted = sorted({group for group, _ in used})
    number = {pair: i for i, pair in enumerate(used)}
    return Design(
        codes=np.array([-1 if pair is None else number.get(pair, -1) for pair in pairs], dtype=np.int64),
        classes=tuple(np.array([number[pair] for pair in used if pair[0] == group]) for group in counted),
        seen=np.array([pair is not None and pair[0] in counted for pair in pairs]),
        left_out=tuple(sorted({group for group in of_group if group is not None} - set(counted))),
    )
