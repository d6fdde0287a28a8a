"""The mixture that joins what gene texts guess with how new cells group."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scstore.heads.across_genes_mixture import SHRINKAGE, ClassProfiles, ExpressionComponents, fit_mixture


def shaped(n: int, *, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes of three classes, their text rows (overlapping), and their components (well apart)."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, n)
    directions, places = np.eye(3, 12), np.random.default_rng(0).normal(size=(3, 4)) * 4
    rows = directions[codes] + rng.normal(size=(n, 12)) * noise
    components = places[codes] + rng.normal(size=(n, 4)) * 0.5
    return codes, rows.astype(np.float32), components


def test_profiles_are_means_and_the_covariance_within_classes() -> None:
    rng = np.random.default_rng(1)
    codes, rows = rng.integers(0, 4, 200), rng.normal(size=(200, 6)).astype(np.float32)
    whole = ClassProfiles.fit([(rows, codes)], n_classes=4, width=6)
    blocks = [(rows[start : start + 37], codes[start : start + 37]) for start in range(0, 200, 37)]
    pieces = ClassProfiles.fit(blocks, n_classes=4, width=6)
    means = np.stack([rows[codes == code].mean(axis=0) for code in range(4)])
    within = np.cov((rows - means[codes]).T, bias=True)
    shrunk = (1 - SHRINKAGE) * within + SHRINKAGE * np.trace(within) / 6 * np.eye(6)
    np.testing.assert_allclose(whole.means, means - rows.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(whole.precise(rows), np.linalg.solve(shrunk, rows.T).T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(whole.power, np.square(rows - rows.mean(axis=0)).sum(axis=1).mean(), rtol=1e-5)
    np.testing.assert_allclose(pieces.precise(rows), whole.precise(rows), rtol=1e-8, atol=1e-8)


def test_groups_of_expression_mend_the_guess_of_the_texts() -> None:
    codes, rows, _ = shaped(600, seed=2, noise=1.2)
    truth, new, components = shaped(500, seed=3, noise=1.2)
    profiles = ClassProfiles.fit([(rows, codes)], n_classes=3, width=12)
    centred = (new - new.mean(axis=0)).astype(np.float64)
    precise = profiles.precise(profiles.means)
    guess = centred @ precise.T - 0.5 * (profiles.means * precise).sum(axis=1)
    alone = (guess.argmax(axis=1) == truth).mean()
    together = (fit_mixture(profiles, new, components).log_proba(new, components).argmax(axis=1) == truth).mean()
    assert 0.5 < alone < 0.75
    assert together > 0.95


def test_a_shift_and_a_scale_of_the_new_side_change_nothing() -> None:
    codes, rows, _ = shaped(300, seed=4, noise=0.3)
    _, new, components = shaped(200, seed=5, noise=0.3)
    profiles = ClassProfiles.fit([(rows, codes)], n_classes=3, width=12)
    moved = (new * 0.5 + 3).astype(np.float32)
    here = fit_mixture(profiles, new, components).log_proba(new, components)
    there = fit_mixture(profiles, moved, components).log_proba(moved, components)
    np.testing.assert_allclose(here, there, atol=1e-3)


def test_the_order_of_the_cells_does_not_matter() -> None:
    codes, rows, _ = shaped(300, seed=6, noise=0.5)
    _, new, components = shaped(150, seed=7, noise=0.5)
    profiles = ClassProfiles.fit([(rows, codes)], n_classes=3, width=12)
    order = np.random.default_rng(0).permutation(150)
    straight = fit_mixture(profiles, new, components).log_proba(new, components)
    turned = fit_mixture(profiles, new[order], components[order]).log_proba(new[order], components[order])
    np.testing.assert_allclose(straight[order], turned, atol=1e-5)
    np.testing.assert_allclose(np.exp(straight).sum(axis=1), 1)


def test_cells_that_are_all_alike_get_finite_probabilities() -> None:
    codes, rows, _ = shaped(300, seed=8, noise=0.5)
    profiles = ClassProfiles.fit([(rows, codes)], n_classes=3, width=12)
    same = np.ones((60, 12), dtype=np.float32)
    found = fit_mixture(profiles, same, np.zeros((60, 4))).log_proba(same, np.zeros((60, 4)))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("n_cells", [12, 200])
def test_components_are_those_of_the_most_variable_genes(n_cells: int) -> None:
    rng = np.random.default_rng(9)
    dense = rng.normal(size=(n_cells, 700)) * np.where(np.arange(700) < 500, 1.0, 0.01)
    components = ExpressionComponents.fit(sparse.csr_matrix(dense), seed=0)
    assert set(components.genes) == set(range(500))
    found = components.of(sparse.csr_matrix(dense))
    assert found.shape == (n_cells, min(20, n_cells - 1))
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-8)
    np.testing.assert_allclose(np.cov(found.T).trace() / found.shape[1], 1, rtol=1e-6)
