from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax

from scstore.heads.calibration import Fusion, earning_members, fit_fusion, fit_temperature
from scstore.heads.scores import expected_calibration_error, negative_log_likelihood
from scstore.heads.training import log_softmax


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
    assert negative_log_likelihood(y, mended) < negative_log_likelihood(y, raw)
    assert expected_calibration_error(y, mended) < 0.03 < expected_calibration_error(y, raw)


@settings(max_examples=40)
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


SHARES = np.array([0.7, 0.2, 0.1])
LOGITS = arrays(np.float64, (5, 3), elements=st.floats(-30, 30))


@settings(max_examples=40)
@given(first=LOGITS, second=LOGITS, amount=st.floats(0, 1), hot=st.floats(0.1, 10))
def test_probabilities_sum_to_one_whatever_the_order_of_members(
    first: np.ndarray, second: np.ndarray, amount: float, hot: float
) -> None:
    said = [log_softmax(first), log_softmax(second)]
    proba = Fusion(SHARES, amount, (hot, 2.0), 1.5).proba(said)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_allclose(Fusion(SHARES, amount, (2.0, hot), 1.5).proba(said[::-1]), proba, rtol=1e-9)


def test_shares_are_taken_back_by_their_power() -> None:
    flat = np.full((1, 3), -np.log(3))
    taken = Fusion(SHARES, 0.5, (1.0,), 1.0).proba([flat])
    np.testing.assert_allclose(taken[0], SHARES**-0.5 / (SHARES**-0.5).sum())
    np.testing.assert_allclose(Fusion(SHARES, 0.0, (1.0,), 1.0).proba([flat]), 1 / 3)


def test_an_overconfident_member_is_cooled_before_it_is_averaged() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 400)
    honest = log_softmax(np.eye(3)[codes] * 2 + rng.normal(0, 1, (400, 3)))
    loud = log_softmax(rng.normal(0, 40, (400, 3)))
    fusion = fit_fusion([honest, loud], codes, shares=SHARES, prior_adjustment=0.0)
    assert fusion.temperatures[0] < 3 < 20 < fusion.temperatures[1]
    right = [(proba.argmax(axis=1) == codes).mean() for proba in (fusion.proba([honest, loud]), np.exp(honest))]
    assert right[0] == pytest.approx(right[1], abs=0.05)


def test_without_held_out_cells_nothing_is_calibrated() -> None:
    nobody = np.empty((0, 3))
    fusion = fit_fusion([nobody, nobody], np.zeros(0, dtype=np.int64), shares=SHARES, prior_adjustment=0.5)
    assert (fusion.temperatures, fusion.temperature) == ((1.0, 1.0), 1.0)
    assert fusion.proba([nobody, nobody]).shape == (0, 3)


@pytest.mark.parametrize(("n", "errors"), [(200, 1.0), (20, 3**0.5), (10, 6**0.5)])
def test_a_member_earns_its_place_by_more_standard_errors_where_labels_are_few(n: int, errors: float) -> None:
    stayed = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        codes = np.arange(n) % 2
        said = {name: log_softmax(np.eye(2)[codes] * 2 + rng.normal(0, 2, (n, 2))) for name in ("X", "readout")}
        options = {"shares": np.array([0.5, 0.5]), "prior_adjustment": 0.0}
        losses = [
            -np.log(fit_fusion(parts, codes, **options).proba(parts)[np.arange(n), codes])
            for parts in ([said["X"]], list(said.values()))
        ]
        gain = losses[0] - losses[1]
        earned = gain.mean() / (gain.std() / n**0.5)
        found = earning_members(said, codes, optional=["readout"], **options)
        assert (len(found) == 2) == (earned > errors)
        stayed.append(earned > errors)
    assert 0 < sum(stayed) < 30 or n == 200
