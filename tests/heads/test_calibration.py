from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from scstore.heads.calibration import expected_calibration_error, fit_temperature, negative_log_likelihood, reliability
from scstore.heads.softmax import log_softmax


def honest(n: int = 4000, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and classes drawn with exactly their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes))
    drawn = (rng.uniform(size=(n, 1)) > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1)
    return logits, np.minimum(drawn, classes - 1)


@pytest.mark.parametrize("factor", [0.2, 1.0, 7.0])
def test_the_temperature_undoes_a_factor(factor: float) -> None:
    logits, y = honest()
    assert fit_temperature(factor * logits, y) == pytest.approx(factor, rel=0.06)


def test_it_lowers_the_loss_and_the_calibration_error() -> None:
    logits, y = honest()
    raw, mended = softmax(5 * logits, axis=1), softmax(5 * logits / fit_temperature(5 * logits, y), axis=1)
    assert negative_log_likelihood(mended, y) < negative_log_likelihood(raw, y)
    assert expected_calibration_error(mended, y) < 0.03 < expected_calibration_error(raw, y)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), n=st.integers(1, 50), size=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
def test_any_temperature_keeps_the_best_class(seed: int, n: int, size: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3)) * size
    temperature = fit_temperature(logits + shift, rng.integers(0, 3, n))
    assert 1 / 50 <= temperature <= 50
    np.testing.assert_array_equal(log_softmax(logits / temperature).argmax(axis=1), logits.argmax(axis=1))


def test_few_cells_all_right_do_not_make_it_certain() -> None:
    logits = np.eye(3)[[0, 1, 2, 0]] * 2
    assert 0.2 < fit_temperature(logits, np.array([0, 1, 2, 0])) < 1


def test_no_cells_no_change() -> None:
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=np.int64)) == 1


def test_calibration_error_by_hand() -> None:
    proba = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    y = np.array([0, 1, 0, 0])
    # bins of 0.1: two cells at .9 (half right), one at .6 (right), one at .7 (wrong)
    assert expected_calibration_error(proba, y, bins=10) == pytest.approx((2 * 0.4 + 0.4 + 0.7) / 4)
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_a_probability_of_zero_has_a_finite_loss() -> None:
    assert np.isfinite(negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])))


def test_a_reliability_diagram_by_hand() -> None:
    proba = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    found = reliability(proba, np.array([0, 1, 0, 0]), bins=10)
    assert [part["n"] for part in found] == [1, 1, 2]
    assert [part["accuracy"] for part in found] == [1.0, 0.0, 0.5]
    assert [part["confidence"] for part in found] == pytest.approx([0.6, 0.7, 0.9])
    assert reliability(np.empty((0, 2)), np.zeros(0, dtype=np.int64)) == []
