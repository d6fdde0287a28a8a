"""``scstore panel``: the genes that separate cell types, chosen once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.cells.expression import find_expression
from scstore.cells.labels import MISSING_LABELS, MissingLabels
from scstore.cells.opening import open_cells
from scstore.cells.options import AllowFractional, CellSource, Expression, IdPrefixFrom, Slot, SumDuplicateGenes
from scstore.errors import GeneMatchWarning, GenesError, OptionError
from scstore.options import Option, Overwrite, Progress, public
from scstore.panels.comparison import cells_seen, compare
from scstore.panels.gene_scores import ScoredGenes, score_genes
from scstore.panels.inputs import PanelInput, check_ids, name_genes
from scstore.panels.joined_genes import JoinedGenes, join_genes
from scstore.panels.panel import KIND, Panel, save_panel
from scstore.progress import Reporter
from scstore.sealed import check_sealed_output

DEFAULT_N_GENES = 200


@public
def panel(
    cells: Annotated[CellSource | Sequence[CellSource], Option("Files of cells: .h5ad, Zarr or 10x.", argument=True)],
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
    sum_duplicate_genes: SumDuplicateGenes = False,
    id_prefix_from: IdPrefixFrom = None,
    orthologs: Annotated[str | os.PathLike[str] | None, Option("File of orthologs, to join human and mouse.")] = None,
    organism: Annotated[str | None, Option("With orthologs: human or mouse. The first input's by default.")] = None,
    overwrite: Overwrite = False,
    progress: Progress = None,
) -> Panel:
    """Choose the genes that may enter a cell's sequence, once, for every later extraction.

    Every input ranks the genes by one-way ANOVA F of their log-normalised expression; the panel takes them from the
    rankings in turn, by the best rank that a gene has in any of them. Cells are read in blocks.

    Returns
    -------
    Panel
        As written, best gene first.

    Raises
    ------
    OptionError
        If options do not go together.
    LabelsError
        If an input lacks the column or has nothing to compare.
    GenesError
        If too few genes are expressed, or the species of an input is unclear where orthologs are given.
    CellsError
        If an input cannot be read, or inputs share cell ids.

    Examples
    --------
    >>> scstore.panel("cells.h5ad", "panels/blood.h5ad", label="cell_type")  # doctest: +SKIP
    """
    sources = [cells] if isinstance(cells, str | os.PathLike | anndata.AnnData) else list(cells)
    if not sources:
        raise OptionError("There are no cells: name one input or more.")
    if label_free == (label is not None):
        raise OptionError("Give either label=, a column of labels, or label_free=True, to choose genes without labels.")
    if organism is not None and orthologs is None:
        raise OptionError(f"organism={organism!r} has an effect with orthologs= only. Give both, or leave it out.")
    check_sealed_output(output, KIND, overwrite=overwrite)
    progress = progress or Reporter()
    with ExitStack() as stack:
        opened = [stack.enter_context(open_cells(source, id_prefix_from=id_prefix_from)) for source in sources]
        slots = [
            find_expression(one, expression=expression, slot=slot, allow_fractional=allow_fractional) for one in opened
        ]
        inputs = name_genes(
            opened, slots, sum_duplicates=sum_duplicate_genes, orthologs=orthologs, organism=organism, progress=progress
        )
        if label is not None:
            check_ids(inputs)
        designs = compare(inputs, label=label, missing=missing_labels, group=group, progress=progress)
        genes = join_genes([one.names for one in inputs], [one.repeats for one in inputs])
        _note_shared(genes, inputs, progress)
        scored = score_genes(inputs, designs, genes, progress=progress)
        if n_genes > len(scored.order):
            where = ", ".join(one.cells.source for one in inputs)
            what = "vary in the cells" if label_free else "are expressed in the labelled cells"
            raise GenesError(f"{where}: n_genes={n_genes}: only {len(scored.order):,} genes {what}. Give fewer.")
        entries = [
            {**one.record, "groups": len(own.classes), "groups_left_out": list(own.left_out)}
            for one, own in zip(inputs, designs, strict=True)
        ]
        record: dict[str, Any] = {"label": label, "missing_labels": [] if label is None else list(missing_labels)}
        record |= {"label_free": label_free, "group": group, "inputs": entries, "n_genes": n_genes}
        record |= {"rule": "best rank over the rankings, then mean rank, then name", "id_prefix_from": id_prefix_from}
        obs, source = _describe(inputs, genes, scored, scored.order[:n_genes]), ", ".join(one.name for one in inputs)
        fitted = Panel(obs, label or "", cells_seen(inputs, designs), source, record)
    save_panel(fitted, output, overwrite=overwrite)
    return fitted


def _note_shared(genes: JoinedGenes, inputs: Sequence[PanelInput], progress: Reporter) -> None:
    if len(inputs) == 1:
        return
    shared = int((genes.n_inputs == len(inputs)).sum())
    progress.note(f"genes: {len(genes):,} in all, {shared:,} of them measured in each of the inputs")
    if not (genes.n_inputs > 1).any():
        said = "No gene is measured in more than one input. Are they of one species, and named alike?"
        progress.warn(said, GeneMatchWarning)


def _describe(
    inputs: Sequence[PanelInput], genes: JoinedGenes, scored: ScoredGenes, chosen: NDArray[np.int64]
) -> pd.DataFrame:
    obs = genes.obs.iloc[chosen].copy()
    obs["n_inputs"] = genes.n_inputs[chosen]
    for one, ranks, scores in zip(inputs, scored.ranks, scored.scores, strict=True):
        obs[f"rank:{one.name}"] = ranks[chosen]
        obs[f"score:{one.name}"] = scores[chosen]
    return obs
