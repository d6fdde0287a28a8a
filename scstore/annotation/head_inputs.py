"""What a head reads of a store's cells: views in its feature space, or expression with the texts of other genes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.errors import FarFromReferenceWarning, FeatureSpaceError, GeneMatchWarning, GenesError
from scstore.genes.matching import match_columns
from scstore.genes.table import GeneTable, expression_genes
from scstore.heads.across_genes import KIND, AcrossGenesHead
from scstore.heads.fusion import FusedHead
from scstore.heads.rows import MappedRows, Rows, RowSubset
from scstore.progress import Reporter
from scstore.sealed import differences
from scstore.store.reader import Store


def head_features(store: Store, head: FusedHead, name: str, progress: Reporter) -> dict[str, Rows]:
    """Return the views that the head ``name`` reads, by name, and warn of genes that were not measured."""
    record = head.record_
    cure = f"Extract these cells like the store that the head was trained on: like={record['trained_on']['name']!r}."
    if missing := [view for view in head.views_ if view not in store.views]:
        raise FeatureSpaceError(
            f"{name} was trained on the view {missing[0]}, which {store.path} does not have"
            f"{store.why_not(missing[0])}. It has: {', '.join(store.views)}. {cure}"
        )
    views = {view: store.view(view) for view in head.views_}
    found = [line for name, view in views.items() for line in differences(record["views"][name]["space"], view.space)]
    if found:
        listed = "\n  ".join(dict.fromkeys(found))
        raise FeatureSpaceError(
            f"{store.path} lives in another feature space than {name} was trained in. What differs (head → store):\n"
            f"  {listed}\n{cure}"
        )
    features: dict[str, Rows] = {**views}
    if "X" in features:
        features["X"] = _aligned(store, features["X"], record["genes"], name, progress)
    return features


def _aligned(store: Store, view: Rows, genes: Mapping[str, list[str]], name: str, progress: Reporter) -> Rows:
    """Return the expression of the head's genes, in its order; a gene that was not measured is zero."""
    symbols = genes["symbol"]
    try:
        match = match_columns(store.expression_genes, genes, source=str(store.path))
    except GenesError as error:
        raise GenesError(f"{store.path} has none of the {len(symbols)} genes that {name} reads.") from error
    if missing := np.setdiff1d(np.arange(len(symbols)), match.genes).tolist():
        progress.warn(
            f"{len(missing)} of the {len(symbols)} genes whose expression the head reads are not in {store.path} "
            f"({', '.join(symbols[i] for i in missing[:5])}): taken as not expressed, which makes labels less sure.",
            GeneMatchWarning,
        )
    return MappedRows(view, lambda block: match.align(block).toarray(), width=len(symbols))


def fit_across_genes(
    store: Store, rows: NDArray[np.int64], y: NDArray[Any], *, keep: float, seed: int
) -> tuple[AcrossGenesHead, dict[str, Any]]:
    """Fit a head on labelled cells ``(n,)`` of a store, and return it with the record of its genes and their texts."""
    table, columns = expression_genes(store, purpose=f"head={KIND!r}")
    head = AcrossGenesHead(keep=keep, random_state=seed)
    head.fit(RowSubset(store.view("X"), rows), y, vectors=table.vectors[columns], centre=table.vectors.mean(axis=0))
    genes = store.expression_genes[["symbol", "ensembl_id"]].astype(str)
    return head, {"gene_texts": _texts(table), "genes": genes.to_dict("list")}


def predict_across_genes(
    store: Store, head: AcrossGenesHead, name: str, rows: NDArray[np.int64], progress: Reporter
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64] | None]]:
    """Yield first row, probabilities ``(b, n_classes)`` and no novelty, block by block."""
    record, held_out = head.record_, head.held_out_
    table, columns = expression_genes(store, purpose=name)
    if fields := differences(record["gene_texts"], _texts(table)):
        listed = "\n  ".join(fields)
        raise FeatureSpaceError(
            f"{store.path}: its gene texts were encoded in another way than those of {name}. What differs "
            f"(head → store):\n  {listed}\nExtract these cells with a gene table of the same encoder: genes=."
        )
    progress.warn(
        f"{name} labels across genes: {_n_shared(store, record):,} of the {len(store.var):,} genes here were measured "
        "in training. Labels rest on gene texts and on how these cells group, so a label may change with the cells "
        f"beside it. On held-out training cells and genes: accuracy {held_out['accuracy']:.2f}, macro-F1 "
        f"{held_out['macro_f1']:.2f}.",
        FarFromReferenceWarning,
    )
    found = head.iter_proba(RowSubset(store.view("X"), rows), vectors=table.vectors[columns])
    return ((start, proba, None) for start, proba in found)


def _texts(table: GeneTable) -> dict[str, Any]:
    return {"encoder": dict(table.encoder), "template": table.template}


def _n_shared(store: Store, record: Mapping[str, Any]) -> int:
    """Return how many genes of the head the store has."""
    try:
        return len(match_columns(store.expression_genes, record["genes"], source=str(store.path)).genes)
    except GenesError:  # none at all
        return 0
