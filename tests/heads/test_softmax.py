from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scstore.heads.softmax import cross_entropy, log_softmax


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), size=st.floats(0, 1e4), shift=st.floats(-1e6, 1e6))
def test_rows_sum_to_one_for_any_logits(seed: int, size: float, shift: float) -> None:
    logits = np.random.default_rng(seed).normal(0, 1, (5, 4)) * size + shift
    log_proba = log_softmax(logits)
    assert np.isfinite(log_proba).all()
    np.testing.assert_allclose(np.exp(log_proba).sum(axis=1), 1, rtol=1e-12)


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    logits, codes, weights = rng.normal(size=(6, 3)), rng.integers(0, 3, 6), rng.uniform(0.5, 2, 6)
    _, gradient = cross_entropy(logits, codes, weights)
    for place in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[place] = 1e-6
        rise = cross_entropy(logits + step, codes, weights)[0] - cross_entropy(logits - step, codes, weights)[0]
        np.testing.assert_allclose(gradient[place], rise / 2e-6, atol=1e-7)


def test_float32_stays_float32() -> None:
    _, gradient = cross_entropy(np.zeros((2, 3), dtype=np.float32), np.array([0, 1]), np.ones(2))
    assert gradient.dtype == np.float32
