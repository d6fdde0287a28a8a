from __future__ import annotations

import numpy as np
from scipy.stats import ortho_group

from scstore.genes.vectors import matrix_power, whiten


def test_whitened_vectors_have_unit_covariance() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6)) + 3).astype(np.float32)
    white = whiten(vectors, shrinkage=0)
    np.testing.assert_allclose(np.cov(white.T), np.eye(6), atol=1e-3)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-5)


def test_whitening_turns_with_the_vectors() -> None:
    """It does not depend on the basis, hence not on eigenvector signs that differ between libraries."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((100, 5)).astype(np.float32)
    turn = ortho_group.rvs(5, random_state=2)
    np.testing.assert_allclose(whiten((vectors @ turn).astype(np.float32)), whiten(vectors) @ turn, atol=1e-3)


def test_fewer_genes_than_dimensions_stay_finite() -> None:
    assert np.isfinite(whiten(np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32))).all()


def test_powers_multiply() -> None:
    rng = np.random.default_rng(3)
    half = rng.standard_normal((4, 4))
    matrix = half @ half.T
    root = matrix_power(matrix, 0.5, 0.0)
    np.testing.assert_allclose(root @ root, matrix, atol=1e-9)
