from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scstore.heads.calibrated_fusion import Fusion, fit_fusion
from scstore.heads.softmax import log_softmax

SHARES = np.array([0.7, 0.2, 0.1])
LOGITS = arrays(np.float64, (5, 3), elements=st.floats(-30, 30))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(first=LOGITS, second=LOGITS, amount=st.floats(0, 1), hot=st.floats(0.1, 10))
def test_probabilities_sum_to_one_whatever_the_order_of_branches(
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


def test_an_overconfident_branch_is_cooled_before_it_is_averaged() -> None:
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
