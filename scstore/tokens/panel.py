"""Panels: which genes may enter a sequence at all.

Fitted once on labelled cells, saved, digested, and reused for every later cell. Letting in only genes that tell cell
types apart is the largest gain that was measured, in quality and in cost.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore import fsio
from scstore.cells.anova import ClassSums, top_genes
from scstore.errors import GenesError, LabelsError
from scstore.genes.sealed import Kind, read_sealed, write_sealed
from scstore.spec import canonical_json

__all__ = ["Panel", "fit_panel", "load_panel", "save_panel"]

KIND = Kind("panel", "panel", "Fit one with `scstore panel`.")
COLUMNS = ("symbol", "ensembl_id")


@dataclass(frozen=True)
class Panel:
    """Genes that may enter a sequence.

    Attributes
    ----------
    obs
        ``(n_genes,)`` rows, best first: ``symbol``, ``ensembl_id`` (empty where unknown), ``f_value``, and ``median``
        of the gene's log-normalised expression over the cells that express it, above zero. The index holds unique
        names.
    label
        Column of labels it was fitted for.
    trained_on
        Ids of the cells whose labels it saw, sorted.
    source
        File they came from.
    """

    obs: pd.DataFrame
    label: str
    trained_on: tuple[str, ...] = field(repr=False)
    source: str = ""

    def __len__(self) -> int:
        return len(self.obs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the genes and their medians: what a fingerprint holds."""
        genes = {name: list(self.obs[name]) for name in COLUMNS} | {"name": list(self.obs.index)}
        medians = [float(value) for value in self.obs["median"]]
        return fsio.digest_bytes(canonical_json({"genes": genes, "medians": medians}).encode())


def fit_panel(
    blocks: Iterable[csr_matrix],
    labels: Sequence[str | None],
    var: pd.DataFrame,
    *,
    n_genes: int,
    label: str,
    cell_ids: Sequence[str],
    source: str = "",
) -> Panel:
    """Choose the genes that tell labels apart best: highest one-way ANOVA F of the log-normalised expression.

    Parameters
    ----------
    blocks
        ``(n, n_var)`` each: the cells' log-normalised expression, in order.
    labels
        One a cell; ``None`` where it has none, and the cell is left out.
    var
        Genes of the columns: index, and ``symbol`` and ``ensembl_id`` where known.
    n_genes
        Size of the panel.
    label
        Name of the label column, for the record.
    cell_ids
        Ids of the cells.
    source
        Where the cells came from, for the record.

    Raises
    ------
    LabelsError
        If fewer than two labels have cells.
    GenesError
        If fewer than ``n_genes`` genes are expressed; the message says how many.
    """
    classes = sorted({value for value in labels if value is not None})
    if len(classes) < 2:
        msg = f"{source}: column {label!r} has {len(classes)} label(s). A panel tells at least two apart."
        raise LabelsError(msg)
    code = {name: i for i, name in enumerate(classes)}
    codes = np.array([-1 if value is None else code[value] for value in labels])
    sums = ClassSums(n_classes=len(classes), n_genes=len(var))
    medians = _Medians(len(var))
    start = 0
    for block in blocks:
        of_block = codes[start : start + block.shape[0]]
        known = np.flatnonzero(of_block >= 0)
        sums.add(block[known], of_block[known])
        medians.add(block[known])
        start += block.shape[0]
    values = sums.f_values(min_cells=2)  # a gene of one cell alone has an infinite F
    expressed = int((medians.counts > 0).sum())
    if n_genes > expressed:
        msg = f"{source}: -n {n_genes}: only {expressed:,} genes are expressed in the labelled cells."
        raise GenesError(msg)
    chosen = top_genes(np.where(medians.counts > 0, values, -1.0), n_genes)
    obs = pd.DataFrame(
        {
            "symbol": [str(name) for name in var.get("symbol", var.index)],
            "ensembl_id": [str(name) for name in var["ensembl_id"]] if "ensembl_id" in var else "",
            "f_value": values,
            "median": medians.values(),
        },
        index=pd.Index(var.index.astype(str), name="gene"),
    ).iloc[chosen]
    trained_on = tuple(sorted(str(name) for name, value in zip(cell_ids, labels, strict=True) if value is not None))
    return Panel(obs=obs, label=label, trained_on=trained_on, source=source)


class _Medians:
    """Median of each gene's values above zero, from fixed bins: one pass, the same in any order of blocks."""

    BINS = 512
    TOP = 10.0  # log1p(CP10k) is below log(10001) = 9.2

    def __init__(self, n_genes: int) -> None:
        self._histogram = np.zeros((n_genes, self.BINS), dtype=np.int64)

    def add(self, block: csr_matrix) -> None:
        positive = block.data > 0
        bins = np.minimum((block.data[positive] * (self.BINS / self.TOP)).astype(np.int64), self.BINS - 1)
        np.add.at(self._histogram, (block.indices[positive], bins), 1)

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.asarray(self._histogram.sum(axis=1))

    def values(self) -> NDArray[np.float64]:
        below = np.cumsum(self._histogram, axis=1) * 2 >= self.counts[:, None]
        middle = (below.argmax(axis=1) + 0.5) * (self.TOP / self.BINS)
        return np.where(self.counts > 0, middle, 1.0)


def save_panel(panel: Panel, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a panel as ``.h5ad`` (genes × no dimensions), atomically."""
    trained_on = np.array(panel.trained_on, dtype=object)
    adata = anndata.AnnData(obs=panel.obs, uns={"scstore": {"trained_on": trained_on}})
    return write_sealed(path, KIND, panel, adata, {"label": panel.label, "source": panel.source}, overwrite=overwrite)


def load_panel(path: str | os.PathLike[str]) -> Panel:
    """Read a panel and compare it with its digest.

    Raises
    ------
    GenesError
        If the file is not there or no panel.
    DamagedError
        If its contents do not match its digest.
    """

    def build(adata: anndata.AnnData, header: Mapping[str, Any]) -> Panel:
        ids = tuple(str(name) for name in adata.uns["scstore"]["trained_on"])
        obs = adata.obs.astype({"symbol": str, "ensembl_id": str, "f_value": float, "median": float})
        return Panel(obs, str(header["label"]), ids, str(header["source"]))

    return read_sealed(path, KIND, build)
