"""``scstore panel``: the genes that tell cell types apart, fitted once on labelled cells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import anndata
from scipy.sparse import csr_matrix

from scstore import fsio
from scstore.cells.expression import find_expression, lognorm_rows
from scstore.cells.formats import open_cells
from scstore.cells.labels import read_labels
from scstore.progress import Reporter
from scstore.tokens.panel import Panel, fit_panel, save_panel

__all__ = ["panel"]


def panel(
    cells: str | os.PathLike[str] | anndata.AnnData,
    output: str | os.PathLike[str],
    *,
    label: str,
    n_genes: int = 200,
    expression: str = "counts",
    slot: str | None = None,
    allow_fractional: bool = False,
    overwrite: bool = False,
    progress: Reporter | None = None,
) -> Panel:
    """Choose the genes that tell the labels apart best (ANOVA F) and write them as a panel.

    Parameters
    ----------
    cells
        An input of cells, as for :func:`scstore.extract`.
    output
        The panel, an ``.h5ad``.
    label
        Column of ``obs``. Cells without a label are left out.
    n_genes
        How many.
    expression, slot, allow_fractional
        What the input holds and where, as for extraction.
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
    LabelsError
        If there is no such column or it has fewer than two labels.
    GenesError
        If fewer genes than that are expressed.
    """
    fsio.check_output(output, overwrite=overwrite)
    progress = progress or Reporter()
    with open_cells(cells, scratch=Path(output).parent) as opened:
        found = find_expression(opened, expression=expression, slot=slot, allow_fractional=allow_fractional)
        labels = read_labels(opened.obs, label, source=opened.source)
        var = opened.var(found.slot)

        def blocks() -> Iterator[csr_matrix]:
            with progress.track("reading cells", len(opened.obs), "cells") as track:
                for _, rows in lognorm_rows(opened, found):
                    yield rows
                    track.advance(rows.shape[0])

        fitted = fit_panel(
            blocks(),
            labels,
            var,
            n_genes=n_genes,
            label=label,
            cell_ids=list(opened.obs.index),
            source=Path(opened.source).name,
        )
    save_panel(fitted, output, overwrite=overwrite)
    return fitted
