"""What a search loses where the cells lack genes that the reference has: measured on reference cells without them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scstore.errors import GeneMatchWarning, ScstoreError
from scstore.genes.matching import match_genes
from scstore.genes.table import GeneTable, expression_genes
from scstore.heads.neighbour_search import without_own
from scstore.heads.rows import Array, Rows, RowSubset
from scstore.panels.panel import load_panel
from scstore.progress import Reporter
from scstore.remote import there
from scstore.search.label_shares import LabelShares
from scstore.store.reader import Store
from scstore.store.views import View
from scstore.tokens.genept import companion_vectors, weighted_means
from scstore.tokens.sequences import rank_genes

SAMPLE = 500  # reference cells looked up again, at most
WEIGHTED_MEANS = ("genept", "genept_random", "genept_w")  # views that expression and gene vectors make, without a model
ROUNDED = 0.01  # a row made again differs from its stored one, of length one and maybe in half precision, by less

Mask = NDArray[np.bool_]
# From rows of the view and k to the reference's row numbers ``(m, k)``, nearest first.
Search = Callable[[Rows, int], NDArray[np.int64]]


def report_missing_genes(
    cells: Store,
    reference: Store,
    view: View,
    rows: NDArray[np.int64],
    search: Search,
    *,
    k: int,
    shares: LabelShares | None,
    progress: Reporter,
) -> None:
    """Warn where genes of the reference's ``view`` are not the cells', with what lacking them costs its own cells."""
    if "X" not in cells.views or "X" not in reference.views or cells.record is None or reference.record is None:
        return  # its genes are not known
    lacking = ~reference.var.index.isin(cells.var.index)
    genes = _genes_of(reference) if lacking.any() else None
    read = lacking if genes is None else lacking & genes.enter
    if not read.any():
        return
    n_all = len(read) if genes is None else int(genes.enter.sum())
    what = (
        f"{cells.path} lacks {int(read.sum()):,} of the {n_all:,} genes that {view.name} of {reference.path} is made of"
    )
    if shares is not None:
        rows = rows[shares.labelled(rows)]
    sample = np.sort(np.random.default_rng(0).permutation(rows)[:SAMPLE])
    made = None if genes is None else _without(reference, view, sample, genes, read)
    if made is None:
        why = "only extract can make it again" if genes is not None else "the gene table or the panel is gone"
        progress.warn(f"{what}. What that costs the search was not measured: {why}.", GeneMatchWarning)
        return
    left = made.any(axis=1)  # a cell that expresses none of the others would be empty, and not looked up
    sample, made, k = sample[left], made[left], min(k, len(rows) - 1)
    if not len(sample) or k < 1:
        return
    whole, without = (without_own(search(queries, k + 1), sample) for queries in (RowSubset(view, sample), made))
    if shares is None:
        found = np.mean([np.isin(a, b).mean() for a, b in zip(whole, without, strict=True)])
        told = f"{len(sample):,} reference cells without these genes find {found:.0%} of their {k} nearest again"
    else:
        right, still = shares.share_right(sample, whole), shares.share_right(sample, without)
        told = (
            f"The most frequent label of the {k} nearest is right for {right:.0%} of {len(sample):,} reference cells, "
            f"and for {still:.0%} without these genes"
        )
    progress.warn(f"{what}. {told}.", GeneMatchWarning)


@dataclass(frozen=True, eq=False)
class _Genes:
    """Of the genes of a store's ``X``, which enter its views ``(g,)``, and their rows in its gene table ``(g,)``."""

    enter: Mask
    table: GeneTable
    rows: NDArray[np.int64]


def _genes_of(store: Store) -> _Genes | None:
    """Return the genes that may enter: the panel's, or all; None where the gene table or the panel is gone."""
    record = store.record or {}
    try:
        table, rows = expression_genes(store, purpose="query", all_encoded=False)
        if record["panel"] is None:
            return _Genes(np.ones(len(rows), dtype=bool), table, rows)
        panel = load_panel(there(store.path.parent / record["options"]["panel"]))
        found = match_genes(panel.obs, table.obs, min_match=0.0, source="the panel").table_rows
    except ScstoreError:
        return None
    return _Genes(np.isin(rows, found), table, rows) if panel.digest == record["panel"]["digest"] else None


def _without(store: Store, view: View, cells: NDArray[np.int64], genes: _Genes, lacking: Mask) -> Array | None:
    """Return rows of a view as they were without some genes; None where they cannot be made again."""
    if view.name not in WEIGHTED_MEANS:
        return None
    vectors = companion_vectors(genes.table, genes.rows, admitted=genes.enter, names=(view.name,))[view.name]
    expression, top = store.view("X")[cells], int(view.space.get("top_genes", len(vectors)))
    whole, without = (
        weighted_means(rank_genes(expression, top_genes=top, admitted=mask), vectors)
        for mask in (genes.enter, genes.enter & ~lacking)
    )
    return without if np.abs(whole - view[cells]).max(initial=0) < ROUNDED else None
