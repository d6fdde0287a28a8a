"""Cells that were measured on other genes: the training side sees one part of the genes, the test side the rest.

No gene is on both sides, so expression cannot be compared at all, and whatever carries labels over is what the genes'
vectors know about each other. This is the case of targeted panels against whole-transcriptome references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from scstore.errors import OptionError
from scstore.evaluation.cells import EvaluationCells
from scstore.evaluation.rows import ACROSS_RANDOM, EvaluationRow, ViewSource
from scstore.evaluation.splits import Split
from scstore.genes.store_genes import expression_genes_in, store_gene_table
from scstore.genes.table import GeneTable
from scstore.heads.across_genes import KIND, AcrossGenesHead
from scstore.heads.metrics import widen
from scstore.heads.rows import Rows, fetch
from scstore.store.reader import Store
from scstore.tokens.genept import companion_vectors, weighted_means
from scstore.tokens.ranking import rank_genes

__all__ = ["GeneSplit", "GeneSplitFeatures", "centred", "gene_split_features", "gene_split_rows"]

OPTION = "--hold-out-genes"
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
    """The rows of this table: the head that is made for it, the views of :func:`gene_split_features`, the controls."""
    return [
        EvaluationRow(KIND, (), "gene texts"),
        EvaluationRow("genept", ("genept",), "gene texts"),
        EvaluationRow(UNWHITENED, (UNWHITENED,), "gene texts"),
        EvaluationRow("genept_random", ("genept_random",), "nothing"),
        EvaluationRow(ACROSS_RANDOM, (), "nothing"),
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
    table = store_gene_table(store, option=OPTION)
    rows = expression_genes_in(store, table, option=OPTION)
    symbols = table.obs["symbol"].astype(str).to_numpy()
    on_test_side = _on_test_side(table, fraction=fraction, seed=seed)[rows]
    if not 0 < on_test_side.sum() < len(rows):
        msg = f"--hold-out-genes {fraction:g}: it leaves one side without any of the {len(rows):,} genes of X."
        raise OptionError(msg)
    vectors = companion_vectors(table, rows)
    vectors[UNWHITENED] = table.vectors[rows]
    sides = [_means(store, vectors, admitted) for admitted in (~on_test_side, on_test_side)]
    measured = symbols[rows]
    return GeneSplit(tuple(measured[~on_test_side]), tuple(measured[on_test_side]), *sides)


def _on_test_side(table: GeneTable, *, fraction: float, seed: int) -> NDArray[np.bool_]:
    """``(n_genes,)`` of the table: dealt to the test side, all genes of a symbol to one side."""
    names, place = np.unique(table.obs["symbol"].astype(str).to_numpy(), return_inverse=True)
    held_out = np.zeros(len(names), dtype=bool)
    held_out[np.random.default_rng(seed).permutation(len(names))[: round(fraction * len(names))]] = True
    dealt: NDArray[np.bool_] = held_out[place]
    return dealt


def centred(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows less their own mean.

    Either side is centred on itself, so that a shift between two sets of genes, which says nothing of cell types, is
    taken out. For the test side this is transductive: it looks at all cells to be labelled, though at no label.
    """
    result: NDArray[np.float32] = rows - rows.mean(axis=0, keepdims=True)
    return result


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

    def sides(self, source: ViewSource, split: Split) -> tuple[Rows, Rows]:
        """A view of the training cells from their genes and of the test cells from the others, each centred."""
        if self._dealt is None or self._dealt[0] != split.run:
            dealt = [
                gene_split_features(s, fraction=self.fraction, seed=self.seed + split.run) for s in self.cells.stores
            ]
            self._dealt = (split.run, dealt)
        train = self._gather([one.train[source.view] for one in self._dealt[1]], split.train)
        test = self._gather([one.test[source.view] for one in self._dealt[1]], split.test)
        return centred(train), centred(test)

    def judge(self, row: EvaluationRow, split: Split, *, seed: int) -> NDArray[np.float64]:
        """Probabilities by the head that is made for other genes; its control has random gene vectors."""
        table = store_gene_table(self.cells.stores[0], option=OPTION)
        on_test_side = _on_test_side(table, fraction=self.fraction, seed=self.seed + split.run)
        if row.name == ACROSS_RANDOM:
            vectors = companion_vectors(table, np.arange(len(table)), names=("genept_random",))["genept_random"]
        else:
            vectors = table.vectors
        head = AcrossGenesHead(random_state=seed)
        head.fit(
            self._expression(split.train, ~on_test_side),
            self.cells.labels[split.train],
            vectors=vectors[~on_test_side],
            centre=vectors.mean(axis=0),
        )
        proba = head.predict_proba(self._expression(split.test, on_test_side), vectors=vectors[on_test_side])
        return widen(proba, [str(name) for name in head.classes_], self.cells.classes)

    def _expression(self, which: NDArray[np.int64], genes: NDArray[np.bool_]) -> csr_matrix:
        """Expression ``(n, n_genes)`` of cells, wherever they lie, over some genes of the table; held in memory."""
        parts: list[csr_matrix] = []
        order: list[NDArray[np.int64]] = []
        for number, store in enumerate(self.cells.stores):
            here = np.flatnonzero(self.cells.source[which] == number)
            table = store_gene_table(store, option=OPTION)
            columns = expression_genes_in(store, table, option=OPTION)
            own: csr_matrix = fetch(store.view("X"), self.cells.rows[which[here]])
            shape = (own.shape[0], len(table))
            parts.append(csr_matrix((own.data, columns[own.indices], own.indptr), shape=shape)[:, genes])
            order.append(here)
        result: csr_matrix = vstack(parts, format="csr")[np.argsort(np.concatenate(order))]
        return result

    def _gather(self, matrices: Sequence[NDArray[Any]], which: NDArray[np.int64]) -> NDArray[np.float32]:
        gathered = np.empty((len(which), matrices[0].shape[1]), dtype=np.float32)
        for number, matrix in enumerate(matrices):
            here = self.cells.source[which] == number
            gathered[here] = matrix[self.cells.rows[which[here]]]
        return gathered
