from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from scstore.tokens.genept import weighted_means
from scstore.tokens.sequences import rank_genes


def test_the_formula_by_hand() -> None:
    """GenePT-w: L2-normalised expression-weighted mean of gene vectors."""
    rows = csr_matrix(np.array([[1, 2, 0], [0, 0, 0], [0, 0, 5]], dtype=np.float32))
    vectors = np.array([[1, 0], [1, 1], [0, -3]], dtype=np.float32)
    means = weighted_means(rank_genes(rows, top_genes=3), vectors)
    first = np.array([3, 2]) / np.sqrt(13)
    np.testing.assert_allclose(means, [first, [0, 0], [0, -1]], rtol=1e-6)


def test_only_ranked_genes_count() -> None:
    rows = csr_matrix(np.array([[1, 2]], dtype=np.float32))
    vectors = np.eye(2, dtype=np.float32)
    assert weighted_means(rank_genes(rows, top_genes=1), vectors).tolist() == [[0, 1]]
