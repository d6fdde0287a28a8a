"""Training cells and test cells measured on different genes, as targeted panels against whole transcriptomes are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from scstore.errors import OptionError
from scstore.evaluation.cells import EvaluationCells
from scstore.evaluation.splits import Split
from scstore.evaluation.table_rows import ACROSS_RANDOM, EvaluationRow, ViewSource
from scstore.genes.table import GeneTable, expression_genes
from scstore.heads.across_genes import KIND, AcrossGenesHead
from scstore.heads.rows import Rows, fetch
from scstore.store.reader import Store
from scstore.tokens.genept import companion_vectors, weighted_means
from scstore.tokens.sequences import rank_genes

OPTION = "hold_out_genes"
BLOCK_ROWS = 4096
UNWHITENED = "genept_unwhitened"

# By view, ``(n_obs, width)``: rows of length one, or zero where a cell expresses no gene of the side.
Means = dict[str, NDArray[np.float32]]


def gene_split_rows() -> list[EvaluationRow]:
    """Return the rows of this table: the across-genes head, means of gene vectors, and their controls."""
    return [
        EvaluationRow(KIND, (), "gene texts"),
        EvaluationRow("genept", ("genept",), "gene texts"),
        EvaluationRow(UNWHITENED, (UNWHITENED,), "gene texts"),
        EvaluationRow("genept_random", ("genept_random",), "nothing"),
        EvaluationRow(ACROSS_RANDOM, (), "nothing"),
    ]


def deal_genes(table: GeneTable, *, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return which genes of the table the test side gets, ``(n_genes,)``; genes of one symbol stay together."""
    names, place = np.unique(table.obs["symbol"].astype(str).to_numpy(), return_inverse=True)
    held_out = np.zeros(len(names), dtype=bool)
    held_out[np.random.default_rng(seed).permutation(len(names))[: round(fraction * len(names))]] = True
    dealt: NDArray[np.bool_] = held_out[place]
    return dealt


def gene_split_means(store: Store, *, fraction: float, seed: int) -> tuple[Means, Means]:
    """Return weighted means of vectors of all genes of the training side, and of the test side, by view."""
    table, rows = expression_genes(store, purpose=OPTION)
    on_test_side = deal_genes(table, fraction=fraction, seed=seed)[rows]
    if not 0 < on_test_side.sum() < len(rows):
        raise OptionError(f"{OPTION}={fraction:g}: this leaves one side without any of the {len(rows):,} genes of X.")
    vectors = companion_vectors(table, rows)
    vectors[UNWHITENED] = table.vectors[rows]
    return _means(store, vectors, ~on_test_side), _means(store, vectors, on_test_side)


def _means(store: Store, vectors: Means, admitted: NDArray[np.bool_]) -> Means:
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
    """Features of an evaluation whose runs each deal the genes anew: run r with ``seed + r``."""

    cells: EvaluationCells
    fraction: float
    seed: int
    _dealt: tuple[int, Means, Means] = field(default=(-1, {}, {}), repr=False)

    @property
    def gene_names(self) -> list[str]:
        """No names: expression cannot run here."""
        return []

    def sides(self, source: ViewSource, split: Split) -> tuple[Rows, Rows]:
        """Return training cells by their genes and test cells by the others, each side centred on its own mean.

        That takes out a shift between the two sets of genes; it looks at all cells to be labelled, though at no label.
        """
        if self._dealt[0] != split.run:
            seed = self.seed + split.run
            found = [gene_split_means(store, fraction=self.fraction, seed=seed) for store in self.cells.stores]
            train_means, test_means = zip(*found, strict=True)
            self._dealt = split.run, self._of_cells(train_means), self._of_cells(test_means)
        train, test = self._dealt[1][source.view][split.train], self._dealt[2][source.view][split.test]
        return train - train.mean(axis=0, keepdims=True), test - test.mean(axis=0, keepdims=True)

    def own_proba(self, row: EvaluationRow, split: Split, *, seed: int) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Return classes, and probabilities of the test cells, by the across-genes head or its random control."""
        table, _ = expression_genes(self.cells.stores[0], purpose=OPTION)
        on_test_side = deal_genes(table, fraction=self.fraction, seed=self.seed + split.run)
        vectors = table.vectors
        if row.name == ACROSS_RANDOM:
            vectors = companion_vectors(table, np.arange(len(table)), names=("genept_random",))["genept_random"]
        on_train_side, on_test_side = ~on_test_side & table.encoded, on_test_side & table.encoded
        train, test = self._expression[split.train][:, on_train_side], self._expression[split.test][:, on_test_side]
        head = AcrossGenesHead(random_state=seed)
        labels, centre = self.cells.labels[split.train], vectors[table.encoded].mean(axis=0)
        head.fit(train, labels, vectors=vectors[on_train_side], centre=centre)
        able, _ = head.for_cells(test, vectors=vectors[on_test_side])
        proba = able.predict_proba(test, vectors=vectors[on_test_side])
        return tuple(str(name) for name in head.classes_), proba

    @cached_property
    def _expression(self) -> csr_matrix:
        """Expression of the cells over the genes of the table."""
        parts = []
        for number, store in enumerate(self.cells.stores):
            table, columns = expression_genes(store, purpose=OPTION)
            own: csr_matrix = fetch(store.view("X"), self.cells.rows[self.cells.source == number])
            shape = (own.shape[0], len(table))
            parts.append(csr_matrix((own.data, columns[own.indices], own.indptr), shape=shape))
        return csr_matrix(vstack(parts))

    def _of_cells(self, of_stores: tuple[Means, ...]) -> Means:
        """Return rows of the cells, which lie in the order of the stores."""
        rows = [self.cells.rows[self.cells.source == number] for number in range(len(of_stores))]
        return {
            view: np.concatenate([means[view][index] for means, index in zip(of_stores, rows, strict=True)])
            for view in of_stores[0]
        }
