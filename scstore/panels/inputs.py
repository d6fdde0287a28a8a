"""The data sets that a panel is fitted on: opened, with their labels and groups, and who is compared with whom."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore.cells.cell_file import CellFile
from scstore.cells.expression import ExpressionSlot, find_expression, lognorm_rows
from scstore.cells.labels import MISSING_LABELS, MISSING_VALUES, read_labels, report_labels
from scstore.cells.opening import open_cells
from scstore.errors import CellsError, LabelsError
from scstore.escaping import show_some
from scstore.genes.matching import gene_names
from scstore.genes.orthologs import RenamedGenes, Translation, rename_by_orthologs, translate_to_one
from scstore.panels.gene_scores import Design, design_groups, design_labels
from scstore.progress import Reporter

__all__ = ["Cells", "Comparison", "PanelInput", "check_ids", "compare", "open_inputs"]

Cells: TypeAlias = str | os.PathLike[str] | anndata.AnnData
"""An input of cells."""

Column = list[str | None]


@dataclass(frozen=True, eq=False)
class PanelInput:
    """One data set.

    Attributes
    ----------
    name
        File name, told apart from those of the others.
    cells, slot
        Where its expression is.
    names, repeats
        What its genes are called, and which are repetitions: see :func:`scstore.genes.matching.gene_names`.
    renamed, translation
        Where it is of another species than the panel: its genes that have an ortholog, the only ones that ``names``
        has; and what the record says of it.
    """

    name: str
    cells: CellFile
    slot: ExpressionSlot
    names: pd.DataFrame
    repeats: NDArray[np.int64] | None
    renamed: RenamedGenes | None = None
    translation: Mapping[str, str] | None = None

    def expression(self) -> Iterator[tuple[int, csr_matrix]]:
        """First row and log-normalised expression ``(n, n_names) float32``, block by block.

        Cells are normalised over all their genes, also those that have no ortholog.
        """
        if self.renamed is None:
            yield from lognorm_rows(self.cells, self.slot, groups=self.repeats)
            return
        n_genes = self.cells.slots[self.slot.slot].shape[1]
        groups = None if self.repeats is None else self.renamed.in_input(self.repeats, n_genes)
        for start, block in lognorm_rows(self.cells, self.slot, groups=groups):
            yield start, block[:, self.renamed.columns]

    @property
    def record(self) -> dict[str, Any]:
        """What the panel's record says of it."""
        translated = {} if self.translation is None else {"orthologs": dict(self.translation)}
        return {
            "name": self.name,
            "n_cells": self.cells.n_cells,
            "n_genes": len(self.names),
            "slot": self.slot.slot,
            **translated,
        }


def open_inputs(
    sources: Sequence[Cells],
    stack: ExitStack,
    *,
    scratch: Path,
    expression: str,
    slot: str | None,
    allow_fractional: bool,
    sum_duplicate_genes: bool,
    id_prefix_from: str | None,
    orthologs: str | os.PathLike[str] | None,
    organism: str | None,
    progress: Reporter,
) -> list[PanelInput]:
    """Open the inputs, with their genes named as those of one species; ``stack`` closes them.

    Parameters
    ----------
    sources, scratch, expression, slot, allow_fractional, sum_duplicate_genes, id_prefix_from, orthologs, organism
        As for :func:`scstore.panel`; ``scratch`` takes temporary files.
    stack
        Closes the inputs.
    progress
        Told what each input is, and what was translated.

    Raises
    ------
    CellsError
        If an input cannot be read.
    GenesError
        If gene names repeat, or it cannot be told whose genes they are where orthologs are given.
    """
    opened = [
        stack.enter_context(open_cells(source, scratch=scratch, id_prefix_from=id_prefix_from)) for source in sources
    ]
    files = [Path(cells.source).name for cells in opened]
    slots = [
        find_expression(cells, expression=expression, slot=slot, allow_fractional=allow_fractional) for cells in opened
    ]
    named = [file if files.count(file) == 1 else f"{file} {files[: i + 1].count(file)}" for i, file in enumerate(files)]
    vars_ = [cells.var(found.slot) for cells, found in zip(opened, slots, strict=True)]
    translations: Sequence[Translation | None] = [None] * len(opened)
    if orthologs is not None:
        translations = translate_to_one(
            orthologs, vars_, organism=organism, sources=[cells.source for cells in opened], progress=progress
        )
    inputs = []
    for name, cells, found, var, translation in zip(named, opened, slots, vars_, translations, strict=True):
        progress.note(f"cells: {name}: {cells.n_cells:,} cells × {len(var):,} genes, {found.kind} from {found.slot}")
        renamed = None
        if translation is not None:
            renamed = rename_by_orthologs(
                var, translation.orthologs, organism=translation.organism, source=cells.source
            )
            progress.note(f"{name}: {renamed.report}")
        names, repeats = gene_names(
            var if renamed is None else renamed.var, sum_duplicates=sum_duplicate_genes, source=cells.source
        )
        record = None if translation is None else translation.record
        inputs.append(PanelInput(name, cells, found, names, repeats, renamed, record))
    return inputs


def check_ids(inputs: Sequence[PanelInput]) -> None:
    """Refuse inputs that share cell ids: a panel marks the cells whose labels it saw by their ids.

    Raises
    ------
    CellsError
        As said, with examples.
    """
    counts = Counter(str(name) for one in inputs for name in one.cells.obs.index)
    if repeated := [name for name, n in counts.items() if n > 1]:
        msg = (
            f"{', '.join(one.name for one in inputs)}: cell ids occur in more than one of them: "
            f"{show_some(repeated)} ({len(repeated):,} in all). The panel remembers by their ids the cells whose "
            "labels it saw. Make them unique, or put an obs column (sample, batch, …) before every id with "
            "--id-prefix-from, here and in scstore extract."
        )
        raise CellsError(msg)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Which cells of several inputs are compared with which; each attribute has one entry an input.

    Attributes
    ----------
    designs
        By label column; by ``""`` without labels.
    """

    designs: tuple[Mapping[str, Design], ...]

    def cells_seen(self, inputs: Sequence[PanelInput]) -> tuple[str, ...]:
        """Ids of the cells whose labels are looked at, sorted."""
        seen = [np.any([each.seen for each in own.values()], axis=0) for own in self.designs]
        ids = (one.cells.obs.index[rows] for one, rows in zip(inputs, seen, strict=True))
        return tuple(sorted(str(name) for own in ids for name in own))


def compare(
    inputs: Sequence[PanelInput],
    *,
    labels: Sequence[str],
    missing: Sequence[str] = MISSING_LABELS,
    group: str | None,
    progress: Reporter,
) -> Comparison:
    """Read the label and group columns and decide which cells are compared with which.

    Parameters
    ----------
    inputs
        The data sets.
    labels
        Label columns; none for a panel without labels.
    missing
        Words that count as a missing label.
    group
        Column of donors or batches.
    progress
        Told which data sets and groups are left out of what.

    Raises
    ------
    LabelsError
        If a column is in none of the inputs, or one input has nothing to say.
    """
    groups: list[Column | None] = [None] * len(inputs)
    if group is not None:
        found = _read(inputs, group, MISSING_VALUES, "counts as one group", progress)
        groups = [found.get(one.name) for one in inputs]
    designs: list[dict[str, Design]] = [{} for _ in inputs]
    for label in labels:
        by_input = _read(inputs, label, missing, f"has no say for {label!r}", progress)
        refused: list[LabelsError] = []
        for i, one in enumerate(inputs):
            if one.name not in by_input:
                continue
            report_labels(one.cells.obs, label, by_input[one.name], source=one.name, progress=progress)
            try:
                designs[i][label] = design_labels(by_input[one.name], groups[i], label=label, source=one.cells.source)
            except LabelsError as refusal:
                refused.append(refusal)
        if len(refused) == len(by_input):
            raise refused[0]
        for error in refused:
            progress.note(f"{error} It has no say for {label!r}.")
    for i, one in enumerate(inputs):
        if not labels:
            designs[i][""] = design_groups(groups[i], n_cells=one.cells.n_cells, source=one.cells.source)
        elif not designs[i]:
            msg = f"{one.cells.source}: none of the label columns says anything here. Leave this input out."
            raise LabelsError(msg)
        for label, own in designs[i].items():
            if own.left_out:
                why = "fewer than two labels of two cells" if label else "too few cells"
                progress.note(
                    f"{one.name}: {len(own.left_out):,} of {len(own.left_out) + len(own.classes):,} groups left out "
                    f"{f'of {label!r} ' if label else ''}({why}): {show_some(own.left_out)}"
                )
    return Comparison(tuple(designs))


def _read(
    inputs: Sequence[PanelInput], column: str, missing: Sequence[str], without: str, progress: Reporter
) -> dict[str, Column]:
    """A column of those inputs that have it."""
    found: dict[str, Column] = {}
    refused: list[LabelsError] = []
    for one in inputs:
        try:
            found[one.name] = read_labels(one.cells.obs, column, missing=missing, source=one.cells.source)
        except LabelsError as refusal:
            refused.append(refusal)
    if not found:
        if len(inputs) == 1:
            raise refused[0]
        msg = f"obs column {column!r} is in none of the inputs:\n  " + "\n  ".join(map(str, refused))
        raise LabelsError(msg)
    for error in refused:
        progress.note(f"{error} It {without}.")
    return found
