"""The views that a head needs of a store's cells, in the feature space that it was trained in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scstore.errors import FeatureSpaceError, GenesError
from scstore.genes.matching import match_columns
from scstore.heads.fusion import FusedHead
from scstore.heads.rows import MappedRows, Rows
from scstore.progress import Reporter
from scstore.spec import differences
from scstore.store.reader import Store

__all__ = ["head_features"]


def head_features(
    store: Store, head: FusedHead, record: Mapping[str, Any], name: str, progress: Reporter
) -> dict[str, Rows]:
    """Return the views that the head ``name`` reads, by name, and warn of genes that were not measured.

    Raises
    ------
    FeatureSpaceError
        If a view is missing or lives in another feature space; the message lists the fields that differ.
    GenesError
        If the head uses expression and none of its genes is there.
    """
    origin = record["trained_on"]["name"]
    cure = f"Extract these cells like the store that the head was trained on: like={origin!r}."
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
    """Return the expression of the head's genes, in its order; a gene that was not measured is zero."""
    symbols = genes["symbol"]
    try:
        match = match_columns(store.expression_genes, genes, source=str(store.path))
    except GenesError as error:
        msg = f"{name} reads the expression of {len(symbols)} genes, and {store.path} has none of them."
        raise GenesError(msg) from error
    if missing := np.setdiff1d(np.arange(len(symbols)), match.genes).tolist():
        progress.warn(
            f"{len(missing)} of the {len(symbols)} genes whose expression the head reads are not in {store.path} "
            f"({', '.join(symbols[i] for i in missing[:5])}): taken as not expressed, which makes labels less sure."
        )
    return MappedRows(view, lambda block: match.align(block).toarray(), width=len(symbols))
