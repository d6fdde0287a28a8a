"""The data sets that a panel is fitted on, opened, with their genes named as those of one species."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore.cells.expression import ExpressionSlot, lognorm_rows
from scstore.cells.opening import CellFile
from scstore.errors import CellsError, show_some
from scstore.genes.matching import gene_names
from scstore.genes.orthologs import RenamedGenes, Translation, rename_by_orthologs, translate_to_one
from scstore.progress import Reporter
from scstore.store.ledger import ids_digest


@dataclass(frozen=True, eq=False)
class PanelInput:
    """One data set with the names of its genes; of those of another species, the genes that have an ortholog alone."""

    name: str
    cells: CellFile
    slot: ExpressionSlot
    names: pd.DataFrame
    repeats: NDArray[np.int64] | None
    renamed: RenamedGenes | None = None
    translation: Translation | None = None

    def expression(self) -> Iterator[tuple[int, csr_matrix]]:
        """Yield first row and log-normalised expression ``(n, n_names) float32``, block by block.

        Cells are normalised over all their genes, also those without an ortholog.
        """
        groups = self.repeats
        if groups is not None and self.renamed is not None:
            groups = self.renamed.in_input(groups, self.cells.slots[self.slot.slot].shape[1])
        for start, block in lognorm_rows(self.cells, self.slot, groups=groups):
            yield start, block if self.renamed is None else block[:, self.renamed.columns]

    @property
    def record(self) -> dict[str, Any]:
        ids = ids_digest([str(name) for name in self.cells.obs.index])
        sizes = {"n_cells": self.cells.n_cells, "n_genes": len(self.names), "ids": ids}
        translated = {} if self.translation is None else {"orthologs": dict(self.translation.record)}
        return {"name": self.name, **sizes, "slot": self.slot.slot, **translated}


def name_genes(
    opened: Sequence[CellFile],
    slots: Sequence[ExpressionSlot],
    *,
    sum_duplicates: bool,
    orthologs: str | os.PathLike[str] | None,
    organism: str | None,
    progress: Reporter,
) -> list[PanelInput]:
    vars_ = [cells.var(found.slot) for cells, found in zip(opened, slots, strict=True)]
    translations: Sequence[Translation | None] = [None] * len(opened)
    if orthologs is not None:
        translations = translate_to_one(
            orthologs, vars_, organism=organism, sources=[cells.source for cells in opened], progress=progress
        )
    files = [Path(cells.source).name for cells in opened]
    inputs = []
    for i, (cells, found, var, translation) in enumerate(zip(opened, slots, vars_, translations, strict=True)):
        name = files[i] if files.count(files[i]) == 1 else f"{files[i]} {files[: i + 1].count(files[i])}"
        found.report(name, cells, progress)
        renamed = None
        if translation is not None:
            renamed = rename_by_orthologs(var, translation, source=cells.source)
            progress.note(f"{name}: {renamed.report}")
            var = renamed.var
        names, repeats = gene_names(var, sum_duplicates=sum_duplicates, source=cells.source)
        inputs.append(PanelInput(name, cells, found, names, repeats, renamed, translation))
    return inputs


def check_ids(inputs: Sequence[PanelInput]) -> None:
    """Refuse inputs that share cell ids: a panel marks by their ids the cells whose labels it saw."""
    counts = Counter(str(name) for one in inputs for name in one.cells.obs.index)
    if repeated := [name for name, n in counts.items() if n > 1]:
        what = f"cell ids occur in more than one of them: {show_some(repeated)} ({len(repeated):,} in all)"
        cure = "Make them unique, or pass id_prefix_from= everywhere."
        raise CellsError(f"{', '.join(one.name for one in inputs)}: {what}. {cure}")
