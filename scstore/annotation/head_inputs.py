"""What a head reads of a store's cells: views in its feature space, or expression with the texts of other genes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.errors import FarFromReferenceWarning, FeatureSpaceError, GeneMatchWarning, GenesError, show
from scstore.genes.matching import match_columns
from scstore.genes.table import GeneTable, expression_genes
from scstore.heads.across_genes import KIND, AcrossGenesHead
from scstore.heads.fusion import FusedHead, Judged
from scstore.heads.missing_genes import MissingCase
from scstore.heads.rows import MappedRows, Rows, RowSubset, read
from scstore.progress import Reporter
from scstore.sealed import differences
from scstore.store.reader import Store
from scstore.store.views import View

# Missing genes named in a message.
SHOWN = 5


@dataclass(frozen=True, eq=False)
class HeadInputs:
    """The head as it labels some cells, and the views that it reads, by name.

    ``measured`` ``(g,) bool`` are the genes of ``X`` that the cells have; None without ``X``. ``case`` is what held-out
    cells showed that lacked as many.
    """

    head: FusedHead
    views: dict[str, Rows]
    measured: NDArray[np.bool_] | None = None
    case: MissingCase | None = None

    def judge(self, rows: NDArray[np.int64]) -> Judged:
        """Return what the head says of some cells: NaN of those that express none of the genes that it reads."""
        block = {name: read(view, rows) for name, view in self.views.items()}
        said = self.head.judge(block)
        if self.measured is not None:
            said.proba[~(block["X"][:, self.measured] > 0).any(axis=1)] = np.nan
        return said


def head_features(
    store: Store,
    head: FusedHead,
    name: str,
    progress: Reporter,
    *,
    min_accuracy: float,
    more: Store | None = None,
    expression_alone: bool = False,
) -> HeadInputs:
    """Find what a head reads of cells: their own views, and those of ``more``, which were computed for it.

    Where genes were not measured they are estimated, and the head reads expression alone.
    """
    found = _for_genes(store, head, name, expression_alone=expression_alone)
    _check_views(store, head, name, found.head.views_, more)
    if found.measured is not None and not found.measured.all():
        _report_missing(store, head, name, found.measured, found.case, progress, min_accuracy=min_accuracy)
    others = {view: _view(store, more, view) for view in found.head.views_ if view not in found.views}
    return replace(found, views=found.views | others)


def _for_genes(store: Store, head: FusedHead, name: str, *, expression_alone: bool) -> HeadInputs:
    """Return the head for the genes that were measured, and their expression, if it reads any."""
    if "X" not in head.views_ or "X" not in store.views:
        return HeadInputs(head, {})
    rows, measured = _aligned(store, store.view("X"), head.record_["genes"], name)
    able, estimate, case = head.for_genes(measured, expression_alone=expression_alone)
    return HeadInputs(able, {"X": rows if estimate is None else estimate.over(rows)}, measured, case)


def _view(store: Store, more: Store | None, name: str) -> View:
    return more.view(name) if more is not None and name in more.views else store.view(name)


def lacking_views(store: Store, head: FusedHead, name: str, *, expression_alone: bool) -> tuple[str, ...]:
    """Return the views that a head reads of cells and that these do not have."""
    able = _for_genes(store, head, name, expression_alone=expression_alone).head
    return tuple(view for view in able.views_ if view not in store.views)


def _check_views(store: Store, head: FusedHead, name: str, views: Sequence[str], more: Store | None) -> None:
    """Refuse cells that lack a view, or have one in another feature space than the head's."""
    record = head.record_
    cure = f"Extract these cells like the store that the head was trained on: like={record['trained_on']['name']!r}."
    if missing := [view for view in views if view not in (*store.views, *(() if more is None else more.views))]:
        raise FeatureSpaceError(
            f"{name} was trained on the view {missing[0]}, which {store.path} does not have"
            f"{store.why_not(missing[0])}. It has: {', '.join(store.views) or 'none'}. {cure}"
        )
    spaces = {view: _view(store, more, view).space for view in views}
    found = [line for view, space in spaces.items() for line in differences(record["views"][view]["space"], space)]
    if found:
        listed = "\n  ".join(dict.fromkeys(found))
        raise FeatureSpaceError(
            f"{store.path} lives in another feature space than {name} was trained in. What differs (head → store):\n"
            f"  {listed}\n{cure}"
        )


def _aligned(store: Store, view: Rows, genes: Mapping[str, list[str]], name: str) -> tuple[Rows, NDArray[np.bool_]]:
    """Return the expression of the head's genes, in its order, and which of them were measured ``(g,)``."""
    symbols = genes["symbol"]
    try:
        match = match_columns(store.expression_genes, genes, source=str(store.path))
    except GenesError as error:
        raise GenesError(f"{store.path} has none of the {len(symbols)} genes that {name} reads.") from error
    measured = np.zeros(len(symbols), dtype=bool)
    measured[match.genes] = True
    return MappedRows(view, lambda block: match.align(block).toarray(), width=len(symbols)), measured


def most_important(measured: NDArray[np.bool_], head: FusedHead) -> NDArray[np.int64]:
    """Return the genes that were not measured, those first on which labels depend most."""
    absent = np.flatnonzero(~measured)
    return absent[np.argsort(-head.gene_importance()[absent], kind="stable")]


def _report_missing(
    store: Store,
    head: FusedHead,
    name: str,
    measured: NDArray[np.bool_],
    case: MissingCase | None,
    progress: Reporter,
    *,
    min_accuracy: float,
) -> None:
    """Warn of genes that were not measured, or refuse where too little is known without them."""
    symbols, absent = head.record_["genes"]["symbol"], most_important(measured, head)
    listed = ", ".join(symbols[i] for i in absent[:SHOWN])
    what = f"{len(absent)} of the {len(symbols)} genes that {name} reads are not in {store.path}"
    if case is None:
        progress.warn(f"{what} (most important: {listed}). They are estimated from the others.", GeneMatchWarning)
        return
    told = f"{case.accuracy:.0%} of held-out training cells that lacked as much got the right label"
    if case.accuracy < min_accuracy:
        raise GenesError(
            f"{what}, most important {listed}: too little is known without them ({told}; min_accuracy={min_accuracy:g}"
            "). Fit a head on cells that have the same genes, or label all the same with min_accuracy=0."
        )
    other = [view for view in head.views_ if view != "X"]
    alone = f" It labels by expression alone: {' and '.join(other)} would lack these genes." if other else ""
    progress.warn(
        f"{what} (most important: {listed}). They are estimated from the others, which hold {case.known:.0%} of what "
        f"labels depend on; {told} (an estimate).{alone}",
        GeneMatchWarning,
    )


def fit_across_genes(
    store: Store,
    rows: NDArray[np.int64],
    y: NDArray[Any],
    *,
    groups: NDArray[np.object_] | None,
    keep: float,
    seed: int,
) -> tuple[AcrossGenesHead, dict[str, Any]]:
    """Fit a head on labelled cells ``(n,)`` of a store, and return it with the record of its genes and their texts."""
    table, columns = expression_genes(store, purpose=f"head={KIND!r}")
    head = AcrossGenesHead(keep=keep, random_state=seed)
    vectors = table.vectors[columns]
    head.fit(RowSubset(store.view("X"), rows), y, vectors=vectors, centre=table.centre, groups=groups)
    genes = store.expression_genes[["symbol", "ensembl_id"]].astype(str)
    return head, {"gene_texts": _texts(table), "genes": genes.to_dict("list")}


def predict_across_genes(
    store: Store,
    head: AcrossGenesHead,
    name: str,
    rows: NDArray[np.int64],
    progress: Reporter,
    *,
    min_accuracy: float,
) -> tuple[AcrossGenesHead, Callable[[NDArray[np.int64]], Judged]]:
    """Return the head as it labels these cells, and what it says of some of them."""
    record = head.record_
    table, columns = expression_genes(store, purpose=name)
    if fields := differences(record["gene_texts"], _texts(table)):
        listed = "\n  ".join(fields)
        raise FeatureSpaceError(
            f"{store.path}: its gene texts were encoded in another way than those of {name}. What differs "
            f"(head → store):\n  {listed}\nExtract these cells with a gene table of the same encoder: genes=."
        )
    cells, vectors = RowSubset(store.view("X"), rows), table.vectors[columns]
    able, case = head.for_cells(cells, vectors=vectors)
    accuracy, agreement = (0.0, 0.0) if case is None else (case.accuracy, case.known)
    group = record["group"]
    whose = f"of another {show(group)}" if group else "of the same data set (expect less of another)"
    told = (
        f"{name} labels across genes: {_n_shared(store, record):,} of the {len(store.var):,} genes here were measured "
        f"in training. By their texts, two halves of these genes agree by {agreement:.2f} on the cells; where they did "
        f"no better, {accuracy:.0%} of held-out cells {whose} got the right label, from genes not seen in training"
    )
    if accuracy < min_accuracy:
        raise GenesError(
            f"{told}: too little (min_accuracy={min_accuracy:g}). Fit a head on cells that have the same genes. With "
            "min_accuracy=0 only what is sure gets a label; with unassigned='none' as well, every cell."
        )
    progress.warn(f"{told}. A label may change with the cells beside it.", FarFromReferenceWarning)
    proba = able.fit_cells(cells, vectors=vectors)
    return able, lambda some: Judged(proba(store.view("X")[some]))


def _texts(table: GeneTable) -> dict[str, Any]:
    return {"encoder": dict(table.encoder), "template": table.template}


def _n_shared(store: Store, record: Mapping[str, Any]) -> int:
    """Return how many genes of the head the store has."""
    try:
        return len(match_columns(store.expression_genes, record["genes"], source=str(store.path)).genes)
    except GenesError:  # none at all
        return 0
