"""Heads for cells that were measured on other genes: what ties them to gene tables and stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.errors import FeatureSpaceError, GenesError, OptionError
from scstore.genes.matching import match_columns
from scstore.genes.table import GeneTable, expression_genes
from scstore.heads.across_genes import KIND, AcrossGenesHead
from scstore.heads.rows import RowSubset
from scstore.progress import Reporter
from scstore.spec import differences
from scstore.store.reader import Store

__all__ = ["fit_across_genes", "judge_across_genes", "refuse_other_options"]

OPTION = f"--head {KIND}"


def refuse_other_options(given: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse options that say nothing to this head: by name, what was given and what stands for nothing.

    Raises
    ------
    OptionError
        Naming the first.
    """
    for option, (value, nothing) in given.items():
        if value != nothing:
            msg = f"{option}: {OPTION} reads the expression and the gene texts, and has no such option. Leave it out."
            raise OptionError(msg)


def fit_across_genes(
    store: Store, rows: NDArray[np.int64], y: NDArray[Any], *, keep: float, seed: int
) -> tuple[AcrossGenesHead, dict[str, Any]]:
    """Train on cells of a store.

    Parameters
    ----------
    store
        With expression, and the gene table where its record says.
    rows, y
        ``(n,)`` the labelled cells and their labels.
    keep
        Share of the rightly labelled held-out cells that keep their label.
    seed
        Of the samples.

    Returns
    -------
    head, record
        The fitted head, and what has to be known of its genes: encoder and template of their texts, and which they
        are.
    """
    table, columns = expression_genes(store, purpose=OPTION)
    head = AcrossGenesHead(keep=keep, random_state=seed)
    head.fit(RowSubset(store.view("X"), rows), y, vectors=table.vectors[columns], centre=table.vectors.mean(axis=0))
    genes = store.expression_genes[["symbol", "ensembl_id"]].astype(str)
    return head, {"gene_texts": _texts(table), "genes": genes.to_dict("list")}


def judge_across_genes(
    store: Store,
    head: AcrossGenesHead,
    record: Mapping[str, Any],
    name: str,
    rows: NDArray[np.int64],
    progress: Reporter,
) -> Iterator[tuple[int, NDArray[np.float64], None]]:
    """Probabilities of a store's cells, block by block: first row, ``(b, n_classes)``, and no novelty.

    Raises
    ------
    FeatureSpaceError
        If the gene texts were encoded otherwise, or the store has none.
    CellsError
        If there are too few cells to form groups.
    """
    table, columns = expression_genes(store, purpose=name)
    if fields := differences(record["gene_texts"], _texts(table)):
        listed = "\n  ".join(fields)
        msg = (
            f"{store.path}: its genes' texts were encoded otherwise than those that {name} was trained with. What "
            f"differs (head → store):\n  {listed}\nExtract these cells with --genes and a table of the same encoder."
        )
        raise FeatureSpaceError(msg)
    shared, measured = _shared_genes(store, record), len(store.var)
    held_out = head.held_out_
    told = f"{held_out['accuracy']:.2f}, macro-F1 {held_out['macro_f1']:.2f}"
    progress.warn(
        f"{name} labels across genes: {shared:,} of the {measured:,} genes here were measured in training. Labels rest "
        "on gene texts and on how these cells group; all are judged together, so a label may change with the cells "
        f"beside it. On training cells and genes held out: accuracy {told}."
    )
    judged = head.iter_proba(RowSubset(store.view("X"), rows), vectors=table.vectors[columns])
    return ((start, chances, None) for start, chances in judged)


def _texts(table: GeneTable) -> dict[str, Any]:
    return {"encoder": dict(table.encoder), "template": table.template}


def _shared_genes(store: Store, record: Mapping[str, Any]) -> int:
    try:
        return len(match_columns(store.expression_genes, record["genes"], source=str(store.path)).genes)
    except GenesError:  # none at all
        return 0
