"""Panels and projectors that have seen the labels of cells to be tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scstore.errors import LabelsError
from scstore.evaluation.features import FoldMeans, StoredFeatures, fold_means
from scstore.evaluation.table_rows import DEFAULT, EvaluationRow, ViewSource
from scstore.store.layout import SEEN_BY_PANEL, SEEN_BY_PROJECTOR


def without_seen_labels(
    rows: Sequence[EvaluationRow], features: StoredFeatures
) -> tuple[list[EvaluationRow], StoredFeatures]:
    """Choose the genes of gene vectors again in every fold, and mark the rows that take the model for that.

    Where the default row is among those, a row of its other views goes before it. A projector trained on cells to be
    tested on is a LabelsError.
    """
    seen: set[ViewSource] = set()
    refitted: dict[ViewSource, FoldMeans] = {}
    for source in dict.fromkeys(source for row in rows for source in row.sources):
        store = features.stores(source.control).stores[0]
        space = store.view(source.view).space
        if space.get("projector", {}).get("kind") == "trained" and (n := _n_seen(features, source, SEEN_BY_PROJECTOR)):
            raise LabelsError(
                f"{store.path}: the projector of {source.view} was trained on the labels of {n:,} of "
                f"{int(features.cells.tested.sum()):,} cells to be tested on, so scores would be too good. Test on "
                "other cells (test_store=, test_on=), or name rows without it (views=)."
            )
        if space.get("panel", {}).get("digest") and _n_seen(features, source, SEEN_BY_PANEL):
            if (again := fold_means(store, source.view)) is None:
                seen.add(source)
            else:
                refitted[source] = again
    marked = [replace(row, seen=not seen.isdisjoint(row.sources)) for row in rows]
    for place, row in enumerate(marked):
        rest = tuple(one.view for one in row.sources if one not in seen)
        if row.name == DEFAULT and row.seen and len(rest) > 1 and "+".join(rest) not in [one.name for one in rows]:
            marked.insert(place, EvaluationRow("+".join(rest), rest, "gene texts"))
            break
    return marked, replace(features, refitted=refitted)


def _n_seen(features: StoredFeatures, source: ViewSource, mark: str) -> int:
    """Return how many cells to be tested on have the mark in the stores of a view."""
    cells, of = features.cells, features.stores(source.control)
    return sum(
        int(store.obs[mark].to_numpy(bool)[of.rows[cells.tested & (cells.source == number)]].sum())
        for number, store in enumerate(of.stores)
        if store.record is not None and mark in store.obs
    )
