"""Panels: which genes may enter a sequence at all.

Fitted once, saved, digested, and reused for every later cell. Letting in only genes that tell cell types apart is the
largest gain that was measured, in quality and in cost.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import fsum
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from scstore import fsio
from scstore.panels.gene_rankings import take_in_turn
from scstore.panels.joined_genes import join_genes
from scstore.sealed import FileKind, read_sealed_file, write_sealed_file
from scstore.spec import canonical_json

__all__ = ["Panel", "join_panels", "load_panel", "save_panel"]

KIND = FileKind("panel", "panel", "scstore panel")
COLUMNS = ("symbol", "ensembl_id")


@dataclass(frozen=True)
class Panel:
    """Genes that may enter a sequence.

    Attributes
    ----------
    obs
        ``(n_genes,)`` rows, best first: ``symbol``, ``ensembl_id`` (empty where unknown), and ``median`` of the
        gene's log-normalised expression over the cells that express it, above zero. Fitted ones also have
        ``n_cells`` (cells that express it), ``n_inputs`` (data sets that measured it), ``rank:…`` and ``score:…`` for
        each ranking, and ``f_value`` (the F behind its best rank) where there were labels. The index holds unique
        names.
    label
        Columns of labels it was fitted for, separated by commas; empty where it saw none.
    trained_on
        Ids of the cells whose labels it saw, sorted; none for a panel without labels.
    source
        Files they came from.
    record
        How it was fitted, as JSON: label columns, inputs, groups, rule, choice of the size, parents.
    """

    obs: pd.DataFrame
    label: str
    trained_on: tuple[str, ...] = field(repr=False)
    source: str = ""
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.obs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the genes and their medians: what a fingerprint holds."""
        genes = {name: list(self.obs[name]) for name in COLUMNS} | {"name": list(self.obs.index)}
        medians = [float(value) for value in self.obs["median"]]
        return fsio.digest_bytes(canonical_json({"genes": genes, "medians": medians}).encode())


def join_panels(panels: Sequence[Panel], *, source: str = "") -> Panel:
    """Make one panel of all genes of several.

    Genes are one gene as in :func:`scstore.panels.joined_genes.join_genes`, and are taken from the panels in turn. A
    gene's median is the mean of the panels', weighted by the cells that express it where all panels know how many.
    The union has seen the labels that any of them has seen. The order of the panels does not matter.

    Parameters
    ----------
    panels
        Two or more.
    source
        The files they came from, for the record.
    """
    names = [
        pd.DataFrame({"name": panel.obs.index.astype(str), **{column: list(panel.obs[column]) for column in COLUMNS}})
        for panel in panels
    ]
    genes = join_genes(names)
    ranks = np.array([genes.spread(np.arange(1.0, len(panel) + 1), i) for i, panel in enumerate(panels)])
    medians = np.array([genes.spread(panel.obs["median"].to_numpy(float), i) for i, panel in enumerate(panels)])
    counted = all("n_cells" in panel.obs for panel in panels)
    cells = np.array(
        [
            genes.spread(panel.obs["n_cells"].to_numpy(float) if counted else np.ones(len(panel)), i)
            for i, panel in enumerate(panels)
        ]
    )
    chosen = take_in_turn(ranks, list(genes.obs.index))
    obs = genes.obs.iloc[chosen].copy()
    # fsum: exact, so that the order of the panels is no part of the digest
    obs["median"] = [
        fsum(medians[has, gene] * cells[has, gene]) / fsum(cells[has, gene])
        for gene, has in zip(chosen, ~np.isnan(ranks[:, chosen].T), strict=True)
    ]
    if counted:
        obs["n_cells"] = np.nansum(cells[:, chosen], axis=0).astype(np.int64)
    obs["n_panels"] = genes.n_inputs[chosen]
    labels = dict.fromkeys(label for panel in panels for label in (panel.record.get("labels") or [panel.label]))
    parents = [
        {"digest": panel.digest, "source": panel.source, "label": panel.label, "record": dict(panel.record)}
        for panel in panels
    ]
    return Panel(
        obs=obs,
        label=", ".join(sorted(filter(None, labels))),
        trained_on=tuple(sorted({name for panel in panels for name in panel.trained_on})),
        source=source,
        record={"rule": "all genes of several panels, taken in turn", "parents": parents},
    )


def save_panel(panel: Panel, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a panel as ``.h5ad`` (genes × no dimensions), atomically."""
    trained_on = np.array(panel.trained_on, dtype=object)
    adata = anndata.AnnData(obs=panel.obs, uns={"scstore": {"trained_on": trained_on}})
    header = {"label": panel.label, "source": panel.source, "record": panel.record}
    return write_sealed_file(path, KIND, panel, adata, header, overwrite=overwrite)


def load_panel(path: str | os.PathLike[str]) -> Panel:
    """Read a panel and compare it with its digest.

    Raises
    ------
    GenesError
        If the file is not there or no panel.
    NewerFormatError
        If a newer scstore wrote it.
    DamagedError
        If its content does not match its digest.
    """

    def build(adata: anndata.AnnData, header: Mapping[str, Any]) -> Panel:
        ids = tuple(str(name) for name in adata.uns["scstore"]["trained_on"])
        obs = adata.obs.astype({"symbol": str, "ensembl_id": str, "median": float})
        # files of the first version have no record
        return Panel(obs, str(header["label"]), ids, str(header["source"]), dict(header.get("record", {})))

    return read_sealed_file(path, KIND, build)
