"""Panels: the genes that may enter a sequence, chosen once, in a file with a digest."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.cells import opening
from scstore.cells.expression import ExpressionSlot, find_expression, lognorm_rows
from scstore.cells.gene_statistics import ClassSums, GroupMoments
from scstore.cells.labels import MISSING_LABELS, MISSING_VALUES, MissingLabels, read_labels, report_labels
from scstore.cells.opening import AllowFractional, CellFile, CellSource, Expression, IdPrefixFrom, Slot, open_cells
from scstore.errors import GenesError, LabelsError, OptionError, show_some
from scstore.genes.matching import gene_names
from scstore.genes.table import unique_names
from scstore.options import Option, Overwrite, Progress, public
from scstore.progress import Reporter
from scstore.sealed import FileKind, canonical_json, check_sealed_output, read_sealed_file, write_sealed_file
from scstore.store.ledger import ids_digest

KIND = FileKind("panel", "panel", "scstore panel")
COLUMNS = ("symbol", "ensembl_id")


@dataclass(frozen=True)
class Panel:
    """Genes that may enter a sequence, rows of ``obs``, best first."""

    obs: pd.DataFrame  # symbol and ensembl_id, empty where unknown; of fitted panels score; names in the index
    label: str  # column of the labels it saw; empty without labels
    trained_on: tuple[str, ...] = field(repr=False)  # ids of the cells whose labels it saw, sorted
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.obs)

    @cached_property
    def digest(self) -> str:
        genes = {name: list(self.obs[name]) for name in COLUMNS} | {"name": list(self.obs.index)}
        return fsio.digest_bytes(canonical_json({"genes": genes}).encode())


def save_panel(panel: Panel, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    trained_on = np.array(panel.trained_on, dtype=object)
    adata = anndata.AnnData(obs=panel.obs, uns={"scstore": {"trained_on": trained_on}})
    header = {"label": panel.label, "record": panel.record}
    return write_sealed_file(path, KIND, panel, adata, header, overwrite=overwrite)


def load_panel(path: str | os.PathLike[str]) -> Panel:
    """Read a panel and compare it with its digest (GenesError, NewerFormatError, DamagedError)."""

    def build(adata: anndata.AnnData, header: Mapping[str, Any]) -> Panel:
        ids = tuple(str(name) for name in adata.uns["scstore"]["trained_on"])
        obs = adata.obs.astype(dict.fromkeys(COLUMNS, str))
        return Panel(obs, str(header["label"]), ids, dict(header["record"]))

    return read_sealed_file(path, KIND, build)


# Memory for sums per class and gene; where they need more, the cells are read several times, some genes at a time.
SUMS_BYTES = 1 << 30
MIN_CELLS = 2  # of a label within a group: a gene of a single cell would have an infinite F
MIN_GROUP_CELLS = 10  # of a group without labels: fewer give no variance to speak of
Column = Sequence[str | None]
Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Design:
    codes: NDArray[np.int64]  # (n_cells,): number of the cell's class, a label within a group; -1 for none
    classes: tuple[NDArray[np.int64], ...]  # numbers of each group's classes
    seen: NDArray[np.bool_]  # (n_cells,): cells with labels used
    left_out: tuple[str, ...]  # groups that do not count
    by_labels: bool

    @property
    def n_classes(self) -> int:
        return sum(map(len, self.classes))


def design(labels: Column | None, groups: Column | None = None, *, n_cells: int, source: str) -> Design:
    """Compare the labels of cells within each group; without labels, let each group count by itself."""
    by_labels = labels is not None
    of_group, of_label = ([""] * n_cells if column is None else column for column in (groups, labels))
    pairs: list[Any] = list(zip(of_group, of_label, strict=True))
    least = MIN_CELLS if by_labels else MIN_GROUP_CELLS
    enough = sorted(pair for pair, n in Counter(pairs).items() if None not in pair and n >= least)
    n_labels = Counter(group for group, _ in enough)
    used = [pair for pair in enough if not by_labels or n_labels[pair[0]] > 1]
    if not used and by_labels:
        most = max(n_labels.values(), default=0)
        within = "" if groups is None else " within one group"
        raise LabelsError(f"{source}: {most} label(s) have two cells or more{within}. A panel separates at least two.")
    if not used:
        raise LabelsError(f"{source}: no group has {MIN_GROUP_CELLS} cells, too few to score genes without labels.")
    counted = sorted({group for group, _ in used})
    number = {pair: i for i, pair in enumerate(used)}
    return Design(
        codes=np.array([number.get(pair, -1) for pair in pairs], dtype=np.int64),
        classes=tuple(np.array([number[pair] for pair in used if pair[0] == group]) for group in counted),
        seen=np.array([None not in pair and pair[0] in counted for pair in pairs]),
        left_out=tuple(sorted({group for group in of_group if group is not None}.difference(counted))),
        by_labels=by_labels,
    )


def score_genes(
    cells: CellFile, slot: ExpressionSlot, design: Design, *, groups: NDArray[np.int64] | None, progress: Reporter
) -> Scores:
    """Return ``(n_genes,)`` scores, F of labels or excess dropout, over the groups; NaN where nothing is expressed."""
    n_genes = cells.matrix(slot.slot).shape[1]
    # excess dropout compares each gene with all others
    width = max(1, SUMS_BYTES // (16 * design.n_classes)) if design.by_labels else n_genes
    spans = [slice(first, min(first + width, n_genes)) for first in range(0, n_genes, width)]
    found = []
    with progress.track(f"reading {cells.source}", cells.n_cells * len(spans), "cells") as track:
        for span in spans:
            sums = (ClassSums if design.by_labels else GroupMoments)(design.n_classes, span.stop - span.start)
            for start, block in lognorm_rows(cells, slot, groups=groups):
                codes = design.codes[start : start + block.shape[0]]
                known = np.flatnonzero(codes >= 0)
                sums.add(block[known, span], codes[known])
                track.advance(block.shape[0])
            if isinstance(sums, GroupMoments):
                scores = sums.dropout()
                scored = np.isfinite(scores)
                found.append(np.where(scored.any(axis=0), np.where(scored, scores, 0).mean(axis=0), np.nan))
            else:
                found.append(np.where(sums.sums.any(axis=0), sums.grouped_f_values(design.classes), np.nan))
    return np.concatenate(found)


DEFAULT_N_GENES = 200


@public
def panel(
    cells: Annotated[CellSource, Option("Cells: .h5ad, Zarr or 10x.", argument=True)],
    output: Annotated[str | os.PathLike[str], Option("The panel, an .h5ad.", flags=("--output", "-o"))],
    *,
    label: Annotated[str | None, Option("Column of obs. Cells without a label are left out.")] = None,
    missing_labels: MissingLabels = MISSING_LABELS,
    n_genes: Annotated[int, Option("Genes in the panel.", flags=("--n-genes", "-n"), minimum=1)] = DEFAULT_N_GENES,
    group: Annotated[str | None, Option("Column of donors or batches: scores are means over them.")] = None,
    label_free: Annotated[bool, Option("Choose genes without labels, by their excess of zeros.")] = False,
    expression: Expression = "counts",
    slot: Slot = None,
    allow_fractional: AllowFractional = False,
    sum_duplicate_genes: opening.SumDuplicateGenes = False,
    id_prefix_from: IdPrefixFrom = None,
    overwrite: Overwrite = False,
    progress: Progress = None,
) -> Panel:
    """Choose the genes that may enter a cell's sequence, once, for every later extraction.

    The genes of largest one-way ANOVA F of their log-normalised expression are taken. Cells are read in blocks.

    Returns
    -------
    Panel
        As written, best gene first.

    Raises
    ------
    OptionError
        If options do not go together.
    LabelsError
        If the cells lack the column or have nothing to compare.
    GenesError
        If too few genes are expressed.
    CellsError
        If the cells cannot be read.

    Examples
    --------
    >>> scstore.panel("cells.h5ad", "panels/blood.h5ad", label="cell_type")  # doctest: +SKIP
    """
    if label_free == (label is not None):
        raise OptionError("Give either label=, a column of labels, or label_free=True, to choose genes without labels.")
    check_sealed_output(output, KIND, overwrite=overwrite)
    progress = progress or Reporter()
    with open_cells(cells, id_prefix_from=id_prefix_from) as opened:
        found = find_expression(opened, expression=expression, slot=slot, allow_fractional=allow_fractional)
        name = Path(opened.source).name
        found.report(name, opened, progress)
        names, groups = gene_names(opened.var(found.slot), sum_duplicates=sum_duplicate_genes, source=opened.source)
        plan = _compare(opened, label=label, missing=missing_labels, group=group, progress=progress)
        scores = score_genes(opened, found, plan, groups=groups, progress=progress)
    ranked = ~np.isnan(scores) & (groups is None or groups == np.arange(len(scores)))  # repetitions were added up
    genes = names.assign(score=scores)[ranked]
    genes = genes.sort_values(["score", "name", "ensembl_id"], ascending=[False, True, True])
    if n_genes > len(genes):
        what = "vary in the cells" if label_free else "are expressed in the labelled cells"
        raise GenesError(f"{opened.source}: n_genes={n_genes}: only {len(genes):,} genes {what}. Give fewer.")
    ids = opened.obs.index
    record = {
        "label": label,
        "missing_labels": [] if label is None else list(missing_labels),
        "label_free": label_free,
        "group": group,
        "groups": len(plan.classes),
        "groups_left_out": list(plan.left_out),
        "n_genes": n_genes,
        "input": {"name": name, "n_cells": len(ids), "ids": ids_digest(list(ids)), "slot": found.slot},
        "id_prefix_from": id_prefix_from,
    }
    chosen = genes.iloc[:n_genes]
    obs = chosen.drop(columns="name").set_axis(unique_names(chosen["name"]))
    fitted = Panel(obs, label or "", tuple(sorted(ids[plan.seen])) if plan.by_labels else (), record)
    save_panel(fitted, output, overwrite=overwrite)
    return fitted


def _compare(
    cells: CellFile, *, label: str | None, missing: Sequence[str], group: str | None, progress: Reporter
) -> Design:
    """Read the label column (``None`` for a panel without labels) and the group column."""
    labels = groups = None
    if group is not None:
        groups = read_labels(cells.obs, group, missing=MISSING_VALUES, learned=False, source=cells.source)
    if label is not None:
        labels = read_labels(cells.obs, label, missing=missing, source=cells.source)
        report_labels(cells.obs, label, labels, source=cells.source, progress=progress)
    found = design(labels, groups, n_cells=cells.n_cells, source=cells.source)
    if found.left_out:
        why = "fewer than two labels of two cells" if found.by_labels else f"fewer than {MIN_GROUP_CELLS} cells"
        left = f"{len(found.left_out):,} of {len(found.left_out) + len(found.classes):,} groups left out"
        progress.note(f"{cells.source}: {left} ({why}): {show_some(found.left_out)}")
    return found
