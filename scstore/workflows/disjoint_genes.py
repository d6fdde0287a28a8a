"""Cells that were measured on other genes: the training side sees one part of the genes, the test side the rest.

No gene is on both sides, so expression cannot be compared at all, and whatever carries labels over is what the genes'
vectors know about each other. This is the case of targeted panels against whole-transcriptome references.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore.errors import FeatureSpaceError, OptionError
from scstore.genes.table import GeneTable, load_gene_table
from scstore.heads.rows import Rows
from scstore.heads.splits import Split
from scstore.stores.reader import Store
from scstore.tokens.genept import companion_vectors, weighted_means
from scstore.tokens.ranking import rank_genes
from scstore.workflows.evaluation_cells import EvaluationCells
from scstore.workflows.evaluation_rows import EvaluationRow

__all__ = ["GeneSplit", "GeneSplitFeatures", "centred", "gene_split_features", "gene_split_rows"]

BLOCK_ROWS = 4096
UNWHITENED = "genept_unwhitened"


@dataclass(frozen=True)
class GeneSplit:
    """Features of the same cells from two sets of genes that have no gene in common.

    Attributes
    ----------
    train_genes, test_genes
        Symbols of the measured genes of either side.
    train, test
        ``(n_obs, width) float32`` by view; rows have length one, or are zero where a cell expresses no gene of the
        side. Not centred: see :func:`centred`.
    """

    train_genes: tuple[str, ...]
    test_genes: tuple[str, ...]
    train: dict[str, NDArray[np.float32]]
    test: dict[str, NDArray[np.float32]]


def gene_split_rows() -> list[EvaluationRow]:
    """The rows of this table: the views of :func:`gene_split_features`."""
    return [
        EvaluationRow("genept", ("genept",), "gene texts"),
        EvaluationRow(UNWHITENED, (UNWHITENED,), "gene texts"),
        EvaluationRow("genept_random", ("genept_random",), "nothing"),
    ]


def gene_split_features(store: Store, *, fraction: float, seed: int) -> GeneSplit:
    """Weighted means of gene vectors, of one part of the genes for training and of the others for testing.

    The genes are dealt by symbol, over the whole gene table: stores of one table are dealt alike. All genes of a side
    count, whatever panel the store was extracted with.

    Parameters
    ----------
    store
        A store with expression (``X``) whose gene table is where its record says.
    fraction
        Share of the genes that the test side gets.
    seed
        The same seed deals the same genes.

    Returns
    -------
    GeneSplit
        Views ``genept`` (vectors whitened, as in the store), ``genept_unwhitened`` (as they come) and
        ``genept_random``. It takes 6 × n_obs × width × 4 bytes.

    Raises
    ------
    OptionError
        If the fraction leaves a side without genes.
    FeatureSpaceError
        If the store has no record or expression, or its gene table is gone or another one.
    """
    table = _gene_table(store)
    rows = _table_rows(store, table)
    symbols = table.obs["symbol"].astype(str).to_numpy()
    names, place = np.unique(symbols, return_inverse=True)
    held_out = np.zeros(len(names), dtype=bool)
    held_out[np.random.default_rng(seed).permutation(len(names))[: round(fraction * len(names))]] = True
    on_test_side = held_out[place][rows]
    if not 0 < on_test_side.sum() < len(rows):
        msg = f"--hold-out-genes {fraction:g}: it leaves one side without any of the {len(rows):,} genes of X."
        raise OptionError(msg)
    vectors = companion_vectors(table, rows)
    vectors[UNWHITENED] = table.vectors[rows]
    sides = [_means(store, vectors, admitted) for admitted in (~on_test_side, on_test_side)]
    measured = symbols[rows]
    return GeneSplit(tuple(measured[~on_test_side]), tuple(measured[on_test_side]), *sides)


def centred(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows less their own mean.

    Either side is centred on itself, so that a shift between two sets of genes, which says nothing of cell types, is
    taken out. For the test side this is transductive: it looks at all cells to be labelled, though at no label.
    """
    result: NDArray[np.float32] = rows - rows.mean(axis=0, keepdims=True)
    return result


def _gene_table(store: Store) -> GeneTable:
    record = store.record
    if record is None or "X" not in store.views:
        what = "scstore did not extract it" if record is None else "it was extracted with --no-expression"
        msg = f"--hold-out-genes: {store.path} cannot be read on a part of its genes, since {what}."
        raise FeatureSpaceError(msg)
    path = Path(os.path.normpath(store.path.parent / record["options"]["genes"]))
    if not path.is_file():
        msg = f"--hold-out-genes: the gene table {path} of {store.path} is not there. Put it back beside the store."
        raise FeatureSpaceError(msg)
    table = load_gene_table(path)
    if table.digest != record["genes"]["digest"]:
        msg = f"--hold-out-genes: {path} is another gene table than {store.path} was extracted with. Put that one back."
        raise FeatureSpaceError(msg)
    return table


def _table_rows(store: Store, table: GeneTable) -> NDArray[np.int64]:
    """Row of the gene table of each column of ``X``, which is named after it."""
    rows: NDArray[np.int64] = pd.Index(table.obs.index).get_indexer(pd.Index(store.var.index.astype(str)))
    if (rows < 0).any():
        msg = f"--hold-out-genes: genes of X in {store.path} are not in its gene table. Extract the store again."
        raise FeatureSpaceError(msg)
    return rows


def _means(
    store: Store, vectors: dict[str, NDArray[np.float32]], admitted: NDArray[np.bool_]
) -> dict[str, NDArray[np.float32]]:
    means = {name: np.empty((store.n_obs, matrix.shape[1]), dtype=np.float32) for name, matrix in vectors.items()}
    expression = store.view("X")
    for start in range(0, store.n_obs, BLOCK_ROWS):
        block: csr_matrix = expression[start : start + BLOCK_ROWS]
        ranked = rank_genes(block, top_genes=block.shape[1], admitted=admitted)
        for name, matrix in vectors.items():
            means[name][start : start + block.shape[0]] = weighted_means(ranked, matrix)
    return means


@dataclass
class GeneSplitFeatures:
    """Features of an evaluation whose runs each deal the genes anew.

    Parameters
    ----------
    cells
        To be scored.
    fraction
        Share of the genes that the test side gets.
    seed
        Run r deals the genes with ``seed + r``.
    """

    cells: EvaluationCells
    fraction: float
    seed: int
    _dealt: tuple[int, Sequence[GeneSplit]] | None = field(default=None, repr=False)

    @property
    def gene_names(self) -> list[str]:
        """None: expression cannot run here."""
        return []

    def sides(self, row: EvaluationRow, split: Split) -> tuple[dict[str, Rows], dict[str, Rows]]:
        """Views by name: training cells from their genes, test cells from the others, each side centred on itself."""
        if self._dealt is None or self._dealt[0] != split.run:
            dealt = [
                gene_split_features(s, fraction=self.fraction, seed=self.seed + split.run) for s in self.cells.stores
            ]
            self._dealt = (split.run, dealt)
        train: dict[str, Rows] = {}
        test: dict[str, Rows] = {}
        for view in row.views:
            train[view] = centred(self._gather([one.train[view] for one in self._dealt[1]], split.train))
            test[view] = centred(self._gather([one.test[view] for one in self._dealt[1]], split.test))
        return train, test

    def _gather(self, matrices: Sequence[NDArray[Any]], which: NDArray[np.int64]) -> NDArray[np.float32]:
        gathered = np.empty((len(which), matrices[0].shape[1]), dtype=np.float32)
        for number, matrix in enumerate(matrices):
            here = self.cells.source[which] == number
            gathered[here] = matrix[self.cells.rows[which[here]]]
        return gathered
