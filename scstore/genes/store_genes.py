"""The gene vectors behind a store's expression, for what is computed from both after the extraction."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import FeatureSpaceError
from scstore.genes.table import GeneTable, load_gene_table
from scstore.store.reader import Store

__all__ = ["expression_genes_in", "store_gene_table"]


def store_gene_table(store: Store, *, option: str) -> GeneTable:
    """The gene table that a store was extracted with.

    Parameters
    ----------
    store
        A store with expression (``X``).
    option
        What needs the table, as the user named it.

    Raises
    ------
    FeatureSpaceError
        If the store has no record or expression, or its gene table is gone or another one.
    """
    record = store.record
    if record is None or "X" not in store.views:
        why = "scstore did not extract it" if record is None else "it was extracted with --no-expression"
        msg = f"{option}: {store.path} does not say which gene's text belongs to which expression, since {why}."
        raise FeatureSpaceError(msg)
    path = Path(os.path.normpath(store.path.parent / record["options"]["genes"]))
    if not path.is_file():
        msg = f"{option}: the gene table {path} of {store.path} is not there. Put it back beside the store."
        raise FeatureSpaceError(msg)
    table = load_gene_table(path)
    if table.digest != record["genes"]["digest"]:
        msg = f"{option}: {path} is another gene table than {store.path} was extracted with. Put that one back."
        raise FeatureSpaceError(msg)
    return table


def expression_genes_in(store: Store, table: GeneTable, *, option: str) -> NDArray[np.int64]:
    """Row of the gene table of each column of ``X``, which is named after it.

    Raises
    ------
    FeatureSpaceError
        If a column is not in the table.
    """
    rows: NDArray[np.int64] = pd.Index(table.obs.index).get_indexer(pd.Index(store.var.index.astype(str)))
    if (rows < 0).any():
        msg = f"{option}: genes of X in {store.path} are not in its gene table. Extract the store again."
        raise FeatureSpaceError(msg)
    return rows
