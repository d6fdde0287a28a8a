"""``scstore panel``: the genes that tell cell types apart, fitted once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore import fsio
from scstore.cells.labels import MISSING_LABELS, MissingLabels
from scstore.errors import GenesError, OptionError
from scstore.panels import panel as panels
from scstore.panels.gene_rankings import rank_scores, take_in_turn
from scstore.panels.gene_scores import LABEL_FREE
from scstore.panels.inputs import Cells, PanelInput, check_ids, compare, open_inputs
from scstore.panels.joined_genes import JoinedGenes, join_genes
from scstore.panels.panel import Panel, load_panel, save_panel
from scstore.panels.scores import ScoredGenes, score_inputs
from scstore.panels.size import MAX_CELLS, choose_size
from scstore.progress import Reporter

__all__ = ["DEFAULT_N_GENES", "join_panels", "panel"]

DEFAULT_N_GENES = 200


def panel(
    cells: Cells | Sequence[Cells],
    output: str | os.PathLike[str],
    *,
    label: str | Sequence[str] | None = None,
    missing_labels: MissingLabels = MISSING_LABELS,
    n_genes: int | Literal["auto"] = DEFAULT_N_GENES,
    group: str | None = None,
    label_free: str | None = None,
    shared_genes: bool = False,
    seed: int = 0,
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
        How many; ``"auto"`` chooses among 25 to 800 by an inner cross-validation on at most 5,000 cells.
    group
        Column of donors or batches: F is worked out within each and averaged over them, so that a gene that tells
        only these apart does not get in. See :meth:`scstore.cells.anova.ClassSums.grouped_f_values`.
    label_free
        ``"dispersion"`` (as Seurat's) or ``"detection"`` (as M3Drop's), in place of labels.
    shared_genes
        Admit only genes that all inputs measured.
    seed
        Of the cells and folds on which sizes are tried.
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
        admitted = _admit(genes, inputs, shared_genes=shared_genes, progress=progress)
        scored = score_inputs(
            inputs,
            comparison,
            genes,
            label_free=label_free,
            n_sampled=MAX_CELLS // len(inputs) if n_genes == "auto" else 0,
            seed=seed,
            progress=progress,
        )
        gene_ids = list(genes.obs.index)
        ranks = np.array([rank_scores(scores, gene_ids, admitted=admitted) for scores in scored.rankings.values()])
        order = take_in_turn(ranks, gene_ids)
        size = None
        if n_genes == "auto":
            size = choose_size(
                scored.samples, genes, admitted=admitted, n_available=len(order), seed=seed, progress=progress
            )
            progress.note("\n".join(size.lines()))
        n_chosen = n_genes if size is None else size.size
        if int(n_chosen) > len(order):
            where = ", ".join(one.cells.source for one in inputs)
            what = "vary in the cells" if label_free else "are expressed in the labelled cells"
            shared = " and are measured in every input" if shared_genes else ""
            msg = f"{where}: -n {n_chosen}: only {len(order):,} genes {what}{shared}. Give a smaller number."
            raise GenesError(msg)
        record = {
            "labels": labels,
            "missing_labels": list(missing_labels) if labels else [],
            "label_free": label_free,
            "group": group,
            "inputs": [one.record for one in inputs],
            "n_genes": "auto" if size else n_genes,
            "shared_genes": shared_genes,
            "rule": "best rank over the rankings, then mean rank, then name",
            "rankings": list(scored.origins),
            "sizes": None if size is None else {**size.as_json(), "seed": seed},
            "id_prefix_from": id_prefix_from,
        }
        fitted = Panel(
            obs=_describe(genes, scored, ranks, order[: int(n_chosen)], with_f=bool(labels)),
            label=", ".join(labels),
            trained_on=comparison.cells_seen(inputs),
            source=", ".join(one.name for one in inputs),
            record=record,
        )
    save_panel(fitted, output, overwrite=overwrite)
    return fitted


def join_panels(
    files: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], *, overwrite: bool = False
) -> Panel:
    """Write the union of several panels as one.

    Parameters
    ----------
    files
        Two panels or more.
    output
        The panel, an ``.h5ad``.
    overwrite
        Replace an existing panel.

    Returns
    -------
    Panel
        As written: see :func:`scstore.panels.panel.join_panels`.

    Raises
    ------
    OptionError
        If there are fewer than two.
    GenesError
        If a file is not there or no panel.
    DamagedError
        If its contents do not match its digest.
    """
    if len(files) < 2:
        msg = "--join: name two panels or more, each with its own --join."
        raise OptionError(msg)
    fsio.check_output(output, overwrite=overwrite)
    loaded = [load_panel(file) for file in files]
    joined = panels.join_panels(loaded, source=", ".join(Path(file).name for file in files))
    save_panel(joined, output, overwrite=overwrite)
    return joined


def _check_options(
    sources: Sequence[Cells], labels: Sequence[str], *, n_genes: int | str, label_free: str | None
) -> None:
    if not sources:
        msg = "no cells: name one input or more."
    elif label_free is not None and label_free not in LABEL_FREE:
        msg = f"--label-free {label_free}: known are {', '.join(LABEL_FREE)}."
    elif label_free is not None and labels:
        msg = "--label and --label-free exclude each other. Fit two panels and unite them with --join."
    elif label_free is None and not labels:
        msg = "name a column of labels with --label, or choose genes without labels with --label-free detection."
    elif n_genes == "auto" and label_free is not None:
        msg = "-n auto needs --label: sizes are judged by how well labels are told apart. Give a number."
    elif n_genes != "auto" and (not isinstance(n_genes, int) or n_genes < 1):
        msg = f"-n {n_genes}: give a number of genes, or auto."
    else:
        return
    raise OptionError(msg)


def _admit(
    genes: JoinedGenes, inputs: Sequence[PanelInput], *, shared_genes: bool, progress: Reporter
) -> NDArray[np.bool_]:
    """Which genes may enter; says how many the inputs share."""
    shared: NDArray[np.bool_] = genes.n_inputs == len(inputs)
    if len(inputs) > 1:
        progress.note(f"genes: {len(genes):,} in all, {int(shared.sum()):,} of them measured in each of the inputs")
        if not (genes.n_inputs > 1).any():
            progress.warn(
                "no gene is measured in more than one input. Are they of one species, and are their genes named alike?"
            )
    return shared if shared_genes else np.ones(len(genes), dtype=bool)


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
    obs["median"] = scored.medians[chosen]
    obs["n_cells"] = scored.n_cells[chosen]
    obs["n_inputs"] = genes.n_inputs[chosen]
    for number, (name, values) in enumerate(scored.rankings.items()):
        obs[f"rank:{name}"] = ranks[number][chosen]
        obs[f"score:{name}"] = values[chosen]
    return obs
