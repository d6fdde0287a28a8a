"""Training cells and test cells measured on different genes, as targeted panels against whole transcriptomes are."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from sklearn.preprocessing import normalize

from scstore.errors import OptionError
from scstore.evaluation.cells import EvaluationCells
from scstore.evaluation.design import ACROSS_RANDOM, EvaluationRow, Split, ViewSource
from scstore.genes.table import GeneTable, expression_genes
from scstore.heads.across_genes import KIND, AcrossGenesHead
from scstore.heads.rows import Rows, fetch
from scstore.tokens.genept import companion_vectors

OPTION = "hold_out_genes"
UNWHITENED = "genept_unwhitened"


def gene_split_rows() -> list[EvaluationRow]:
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
    return np.asarray(held_out[place])


@dataclass(frozen=True, eq=False)
class GeneSplitFeatures:
    """Features of an evaluation whose runs each deal the genes anew: run r with ``seed + r``."""

    cells: EvaluationCells
    fraction: float
    seed: int
    gene_names: Sequence[str] = ()  # expression cannot run here

    def sides(self, source: ViewSource, split: Split) -> tuple[Rows, Rows]:
        """Return means of gene vectors of either side by its own genes, centred on its mean; no label is seen."""
        vectors = self._vectors[source.view]
        train, test = (normalize(expression @ vectors[genes]) for expression, genes in self._dealt(split))
        return train - train.mean(axis=0, keepdims=True), test - test.mean(axis=0, keepdims=True)

    def own_proba(self, row: EvaluationRow, split: Split, *, seed: int) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Return classes, and probabilities of the test cells, by the across-genes head or its random control."""
        (train, of_train), (test, of_test) = self._dealt(split)
        vectors = self._vectors["genept_random" if row.name == ACROSS_RANDOM else UNWHITENED]
        head, centre = AcrossGenesHead(random_state=seed), vectors[self._table.encoded].mean(axis=0)
        head.fit(train, self.cells.labels[split.train], vectors=vectors[of_train], centre=centre)
        able, _ = head.for_cells(test, vectors=vectors[of_test])
        proba = able.predict_proba(test, vectors=vectors[of_test])
        return tuple(str(name) for name in head.classes_), proba

    def _dealt(self, split: Split) -> list[tuple[csr_matrix, NDArray[np.bool_]]]:
        """Return the expression of either side's cells over its genes, and which genes of the table these are."""
        on_test_side = deal_genes(self._table, fraction=self.fraction, seed=self.seed + split.run)
        encoded = self._table.encoded
        sides = ((split.train, ~on_test_side & encoded), (split.test, on_test_side & encoded))
        found = [(self._expression[cells][:, genes], genes) for cells, genes in sides]
        if not all(expression.nnz for expression, _ in found):
            raise OptionError(f"{OPTION}={self.fraction:g}: this leaves one side without any gene that it expresses.")
        return found

    @cached_property
    def _table(self) -> GeneTable:
        return expression_genes(self.cells.stores[0], purpose=OPTION)[0]

    @cached_property
    def _vectors(self) -> dict[str, NDArray[np.float32]]:
        return companion_vectors(self._table, np.arange(len(self._table))) | {UNWHITENED: self._table.vectors}

    @cached_property
    def _expression(self) -> csr_matrix:
        """Expression of the cells, which lie in the order of the stores, over the genes of the table."""
        parts = []
        for number, store in enumerate(self.cells.stores):
            table, columns = expression_genes(store, purpose=OPTION)
            own: csr_matrix = fetch(store.view("X"), self.cells.rows[self.cells.source == number])
            shape = (own.shape[0], len(table))
            parts.append(csr_matrix((own.data, columns[own.indices], own.indptr), shape=shape))
        return csr_matrix(vstack(parts))
