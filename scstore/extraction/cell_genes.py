"""The first two steps of a plan: the cells with their expression, and their genes in a gene table and a panel."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.cells.cell_file import CellFile
from scstore.cells.expression import ExpressionSlot, find_expression
from scstore.errors import CellsError, FeatureSpaceError
from scstore.extraction.auto_panel import kept_panel
from scstore.extraction.options import AUTO_PANEL, SequenceOptions
from scstore.gene_tables.encoding import cached_table
from scstore.genes.matching import GeneMatch, match_genes
from scstore.genes.orthologs import Translation, describe_cells, match_cells, needed_translation
from scstore.genes.table import GeneTable, load_gene_table
from scstore.genes.texts import DescribedGenes
from scstore.model.loading import ModelFiles
from scstore.panels.panel import Panel, load_panel
from scstore.progress import Reporter

__all__ = ["CellInput", "MatchedGenes", "find_cells", "find_genes"]


@dataclass(frozen=True)
class CellInput:
    """Cells, opened, and where their expression is.

    Attributes
    ----------
    source
        As the user gave them.
    cells, slot
        The same, opened, and the slot that is read.
    stamp
        Size and time of the files, to notice a change while they are read; ``None`` for an AnnData in memory.
    """

    source: str | os.PathLike[str] | anndata.AnnData
    cells: CellFile
    slot: ExpressionSlot
    stamp: tuple[int, int] | None

    @property
    def var(self) -> pd.DataFrame:
        """The cells' genes."""
        return self.cells.var(self.slot.slot)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the files, or over ids, genes and values in memory."""
        if not isinstance(self.source, anndata.AnnData):
            return fsio.digest_tree(self.source)
        names = "\0".join([*map(str, self.cells.obs.index), *map(str, self.var.index)])
        digest = hashlib.sha256(names.encode())
        matrix = self.cells.slots[self.slot.slot]
        for start in range(0, matrix.shape[0], 4096):
            rows = matrix.rows(start, min(start + 4096, matrix.shape[0]))
            for array in (rows.indptr, rows.indices, rows.data):
                digest.update(np.ascontiguousarray(array).data)
        return "sha256:" + digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raise CellsError if the files changed since they were opened."""
        if self.stamp is not None and _stamp(Path(self.cells.source)) != self.stamp:
            msg = f"{self.cells.source} changed while it was read. Run the command again once nobody writes to it."
            raise CellsError(msg)


def find_cells(
    source: str | os.PathLike[str] | anndata.AnnData, cells: CellFile, options: SequenceOptions, progress: Reporter
) -> CellInput:
    """Find the slot that holds the expression."""
    slot = find_expression(
        cells, expression=options.expression, slot=options.slot, allow_fractional=options.allow_fractional
    )
    stamp = None if isinstance(source, anndata.AnnData) else _stamp(Path(source))
    found = CellInput(source, cells, slot, stamp)
    progress.note(
        f"cells: {cells.source}: {len(cells.obs):,} cells × {len(found.var):,} genes, {slot.kind} from {slot.slot}"
    )
    return found


def _stamp(path: Path) -> tuple[int, int]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files), max(file.stat().st_mtime_ns for file in files)


@dataclass(frozen=True)
class MatchedGenes:
    """The cells' genes in a gene table.

    Attributes
    ----------
    obs, template
        Rows of the gene table, and how their texts are made.
    match
        Which row each gene of the cells is.
    panel, panel_file
        The genes that may enter, and their file; ``None`` for all.
    admitted
        ``(n_matched,)``: whether a matched gene is in the panel; ``None`` for all.
    translation
        The orthologs by which the cells' genes were read, if any.
    named
        The gene table that the user named, if any.
    """

    obs: pd.DataFrame = field(repr=False)
    template: str
    match: GeneMatch = field(repr=False)
    panel: Panel | None
    panel_file: str | None
    admitted: NDArray[np.bool_] | None
    translation: Translation | None
    named: GeneTable | None = field(repr=False)

    @property
    def symbols(self) -> list[str]:
        """``(n_matched,)`` symbols of the matched genes."""
        return [str(symbol) for symbol in self.obs["symbol"].iloc[self.match.genes]]

    @property
    def n_panel(self) -> int | None:
        """Genes of the panel."""
        return None if self.panel is None else len(self.panel)

    def table(self, file: Path, files: ModelFiles | None, options: SequenceOptions, progress: Reporter) -> GeneTable:
        """Return the named table, else the one kept in ``file``, of symbols that the model encodes, if any."""
        if self.named is not None:
            return self.named
        genes = DescribedGenes(self.obs, self.template)
        return cached_table(file, genes, files, device=options.device, dtype=options.dtype, progress=progress)


def find_genes(source: CellInput, target: Path, options: SequenceOptions, progress: Reporter) -> MatchedGenes:
    """Match the cells' genes with the gene table, or describe them by their symbols; no model is looked for."""
    named = load_gene_table(options.genes) if options.genes else None
    panel_file = options.panel_file
    if options.panel == AUTO_PANEL:
        panel_file = str(kept_panel(source.source, target, options, source.cells, progress))
    panel = load_panel(panel_file) if panel_file else None
    translation = needed_translation(
        options.orthologs,
        source.var,
        organism=options.organism,
        table=None if named is None else named.obs,
        panel=None if panel is None else panel.obs,
        source=source.cells.source,
        progress=progress,
    )
    if named is None:
        obs, template = describe_cells(source.var, translation, organism=options.organism)
    else:
        obs, template = named.obs, named.template
    match = match_cells(
        source.var,
        obs,
        translation,
        organism=options.organism,
        min_match=options.min_match,
        sum_duplicates=options.sum_duplicate_genes,
        source=source.cells.source,
    )
    progress.note(match.report)
    admitted = None if panel is None else _admitted(panel, str(panel_file), obs, match, progress)
    if panel is None:
        progress.note("genes that may enter: all. A panel makes cells 10 to 30 times shorter, and in all tests better.")
    return MatchedGenes(obs, template, match, panel, panel_file, admitted, translation, named)


def _admitted(panel: Panel, path: str, obs: pd.DataFrame, match: GeneMatch, progress: Reporter) -> NDArray[np.bool_]:
    """Return which of the matched genes are in the panel."""
    in_table = match_genes(panel.obs, obs, min_match=0.0, source="the panel", organism=match.organism)
    admitted = np.isin(match.genes, in_table.table_rows)
    progress.note(f"genes that may enter: the panel's, {int(admitted.sum()):,} of its {len(panel):,} are measured here")
    if not admitted.any():
        msg = f"{path}: none of the panel's genes is among the cells' genes. Fit a panel on cells of this kind."
        raise FeatureSpaceError(msg)
    return admitted
