"""The views that a head needs of a store's cells, in the feature space that it was trained in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.errors import FeatureSpaceError, GenesError
from scstore.genes.matching import GeneMatch, match_genes
from scstore.heads.fusion import FusedHead
from scstore.heads.rows import MappedRows, Rows
from scstore.progress import Reporter
from scstore.spec import differences
from scstore.store.reader import Store

__all__ = ["head_features"]


def head_features(
    store: Store, head: FusedHead, record: Mapping[str, Any], name: str, progress: Reporter
) -> dict[str, Rows]:
    """The views the head needs, each in the feature space it was trained in.

    Parameters
    ----------
    store
        The cells to label.
    head, record, name
        The head, its record, and what to call it in messages.
    progress
        Told of genes that were not measured.

    Raises
    ------
    FeatureSpaceError
        If a view is missing or lives in another feature space; the differing fields are listed.
    GenesError
        If the head uses expression and none of its genes is there.
    """
    origin = record["trained_on"]["name"]
    cure = f"Extract these cells with --like the store the head was trained on ({origin})."
    if missing := [view for view in head.views_ if view not in store.views]:
        msg = (
            f"{name} was trained on the view {missing[0]}, which {store.path} does not have. It has: "
            f"{', '.join(store.views)}. {cure}"
        )
        raise FeatureSpaceError(msg)
    features: dict[str, Rows] = {}
    fields: dict[str, None] = {}
    for view_name in head.views_:
        view = store.view(view_name)
        fields |= dict.fromkeys(differences(record["views"][view_name]["space"], view.space))
        features[view_name] = view
    if fields:
        listed = "\n  ".join(fields)
        msg = (
            f"{store.path} lives in another feature space than {name} was trained in. What differs (head → store):\n"
            f"  {listed}\n{cure}"
        )
        raise FeatureSpaceError(msg)
    if "X" in features:
        features["X"] = _aligned(store, features["X"], record["genes"], name, progress)
    return features


def _aligned(store: Store, view: Rows, genes: Mapping[str, list[str]], name: str, progress: Reporter) -> Rows:
    """The head's genes, in its order, by name; a gene that was not measured is zero."""
    table = pd.DataFrame(genes)
    table.index = pd.Index([str(i) for i in range(len(table))])
    try:
        match: GeneMatch = match_genes(store.expression_genes, table, min_fraction=0.0, source=str(store.path))
    except GenesError as error:
        msg = f"{name} reads the expression of {len(table)} genes, and {store.path} has none of them."
        raise GenesError(msg) from error
    present = match.genes
    if (missing := len(table) - len(present)) > 0:
        examples = ", ".join(table["symbol"].drop(table.index[present]).head(5))
        progress.warn(
            f"{missing} of the {len(table)} genes whose expression the head reads are not in {store.path} "
            f"({examples}): "
            "taken as not expressed, which makes labels less sure."
        )

    def align(block: Any) -> NDArray[np.float32]:
        aligned = np.zeros((block.shape[0], len(table)), dtype=np.float32)
        aligned[:, present] = match.apply(block).toarray()
        return aligned

    return MappedRows(view, align, width=len(table))
