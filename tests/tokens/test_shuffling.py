from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from scstore.tokens.ranking import rank_genes
from scstore.tokens.shuffling import reordered, shuffled_order

SYMBOLS = [f"GENE{i}" for i in range(30)]


def test_a_place_is_of_the_symbol_alone() -> None:
    places = shuffled_order(SYMBOLS, seed=0)
    assert sorted(places) == list(range(30))
    few = shuffled_order(SYMBOLS[10:20][::-1], seed=0)
    assert np.argsort(few).tolist() == [9 - i for i in np.argsort(places[10:20])]
    assert not np.array_equal(places, shuffled_order(SYMBOLS, seed=1))
    assert not np.array_equal(places, np.arange(30))


def test_every_cell_keeps_its_genes_and_values() -> None:
    rows = csr_matrix(np.array([[3, 1, 2, 0], [0, 0, 0, 0], [0, 4, 5, 6]], dtype=np.float32))
    shuffled = reordered(rank_genes(rows, top_genes=3), np.array([2, 3, 0, 1]))
    assert shuffled.offsets.tolist() == [0, 3, 3, 6]
    assert shuffled.genes.tolist() == [2, 0, 1, 2, 3, 1]
    assert shuffled.values.tolist() == [2, 3, 1, 5, 6, 4]
