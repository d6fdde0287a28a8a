"""``scstore panel``: the genes that tell cell types apart, fitted once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.cells.labels import MISSING_LABELS, MissingLabels
from scstore.errors import GenesError, OptionError
from scstore.panels.gene_rankings import rank_scores, take_in_turn
from scstore.panels.inputs import Cells, PanelInput, check_ids, compare, open_inputs
from scstore.panels.joined_genes import JoinedGenes, join_genes
from scstore.panels.panel import Panel, save_panel
from scstore.panels.scores import ScoredGenes, score_inputs
from scstore.progress import Reporter

__all__ = ["DEFAULT_N_GENES", "panel"]

DEFAULT_N_GENES = 200


def panel(
    cells: Cells | Sequence[Cells],
    output: str | os.PathLike[str],
    *,
    label: str | Sequence[str] | None = None,
    missing_labels: MissingLabels = MISSING_LABELS,
    n_genes: int = DEFAULT_N_GENES,
    group: str | None = None,
    label_free: bool = False,
    expression: str = "counts",
    slot: str | None = None,
    allow_fractional: bool = False,
    sum_duplicate_genes: bool = False,
    id_prefix_from: str | None = None,
    organism: str | None = None,
    orthologs: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Reporter | None = None,
) -> Panel:
    """Choose the genes that may enter a cell's sequence and write them as a panel.

    Every label column of every input ranks the genes by one-way ANOVA F of their log-normalised expression; the panel
    takes them from the rankings in turn, by the best rank that a gene has in any of them. Cells are read in blocks,
    and once.

    Parameters
    ----------
    cells
        One or several inputs of cells, as for :func:`scstore.extract`.
    output
        The panel, an ``.h5ad``.
    label
        One or several columns of ``obs``. Cells without a label are left out; an input without the column has no say
        for it.
    missing_labels
        Words that count as a missing label, as for :func:`scstore.fit`.
    n_genes
        How many.
    group
        Column of donors or batches: F is worked out within each and averaged over them, so that a gene that tells
        only these apart does not get in. See :meth:`scstore.cells.anova.ClassSums.grouped_f_values`.
    label_free
        Score genes by excess dropout (as M3Drop's), in place of labels.
    expression, slot, allow_fractional, sum_duplicate_genes, id_prefix_from
        What the inputs hold and where, as for extraction. Use the prefix of the extraction: stores know by their ids
        the cells whose labels the panel saw.
    orthologs, organism
        Orthologs of human and mouse, as for extraction: inputs of the other species are read as cells of this one, by
        default the first input's. Genes without an ortholog are left out of them.
    overwrite
        Replace an existing panel.
    progress
        Told what happens.

    Returns
    -------
    Panel
        As written, best gene first.

    Raises
    ------
    OptionError
        If options do not go together.
    LabelsError
        If no input has a column, or nothing can be compared.
    GenesError
        If fewer genes than that are expressed, or it cannot be told whose genes are to be translated.
    CellsError
        If an input cannot be read, or inputs share cell ids.
    """
    labels = [label] if isinstance(label, str) else list(dict.fromkeys(label or ()))
    sources = [cells] if isinstance(cells, str | os.PathLike | anndata.AnnData) else list(cells)
    _check_options(sources, labels, n_genes=n_genes, label_free=label_free)
    if organism is not None and orthologs is None:
        msg = "--organism: says into whose genes --orthologs translates. Give --orthologs FILE, or leave it out."
        raise OptionError(msg)
    fsio.check_output(output, overwrite=overwrite)
    progress = progress or Reporter()
    with ExitStack() as stack:
        inputs = open_inputs(
            sources,
            stack,
            scratch=Path(output).parent,
            expression=expression,
            slot=slot,
            allow_fractional=allow_fractional,
            sum_duplicate_genes=sum_duplicate_genes,
            id_prefix_from=id_prefix_from,
            orthologs=orthologs,
            organism=organism,
            progress=progress,
        )
        if labels:
            check_ids(inputs)
        comparison = compare(inputs, labels=labels, missing=missing_labels, group=group, progress=progress)
        genes = join_genes([one.names for one in inputs], [one.repeats for one in inputs])
        _compare_genes(genes, inputs, progress)
        scored = score_inputs(inputs, comparison, genes, progress=progress)
        gene_ids = list(genes.obs.index)
        ranks = np.array([rank_scores(scores, gene_ids) for scores in scored.rankings.values()])
        order = take_in_turn(ranks, gene_ids)
        if n_genes > len(order):
            where = ", ".join(one.cells.source for one in inputs)
            what = "vary in the cells" if label_free else "are expressed in the labelled cells"
            msg = f"{where}: -n {n_genes}: only {len(order):,} genes {what}. Give a smaller number."
            raise GenesError(msg)
        record = {
            "labels": labels,
            "missing_labels": list(missing_labels) if labels else [],
            "label_free": label_free,
            "group": group,
            "inputs": [one.record for one in inputs],
            "n_genes": n_genes,
            "rule": "best rank over the rankings, then mean rank, then name",
            "rankings": list(scored.origins),
            "id_prefix_from": id_prefix_from,
        }
        fitted = Panel(
            obs=_describe(genes, scored, ranks, order[:n_genes], with_f=bool(labels)),
            label=", ".join(labels),
            trained_on=comparison.cells_seen(inputs),
            source=", ".join(one.name for one in inputs),
            record=record,
        )
    save_panel(fitted, output, overwrite=overwrite)
    return fitted


def _check_options(sources: Sequence[Cells], labels: Sequence[str], *, n_genes: int, label_free: bool) -> None:
    if not sources:
        msg = "no cells: name one input or more."
    elif label_free and labels:
        msg = "--label and --label-free exclude each other."
    elif not label_free and not labels:
        msg = "name a column of labels with --label, or choose genes without labels with --label-free."
    elif n_genes < 1:
        msg = f"-n {n_genes}: give a number of genes."
    else:
        return
    raise OptionError(msg)


def _compare_genes(genes: JoinedGenes, inputs: Sequence[PanelInput], progress: Reporter) -> None:
    """Note how many genes the inputs share."""
    shared: NDArray[np.bool_] = genes.n_inputs == len(inputs)
    if len(inputs) > 1:
        progress.note(f"genes: {len(genes):,} in all, {int(shared.sum()):,} of them measured in each of the inputs")
        if not (genes.n_inputs > 1).any():
            progress.warn(
                "no gene is measured in more than one input. Are they of one species, and are their genes named alike?"
            )


def _describe(
    genes: JoinedGenes,
    scored: ScoredGenes,
    ranks: NDArray[np.float64],
    chosen: NDArray[np.int64],
    *,
    with_f: bool,
) -> pd.DataFrame:
    """The chosen genes, as :attr:`Panel.obs`."""
    obs = genes.obs.iloc[chosen].copy()
    if with_f:
        scores, own = np.array(list(scored.rankings.values()))[:, chosen], ranks[:, chosen]
        obs["f_value"] = np.where(own == np.nanmin(own, axis=0), scores, -np.inf).max(axis=0)
    obs["n_inputs"] = genes.n_inputs[chosen]
    for number, (name, values) in enumerate(scored.rankings.items()):
        obs[f"rank:{name}"] = ranks[number][chosen]
        obs[f"score:{name}"] = values[chosen]
    return obs
