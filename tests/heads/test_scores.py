from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score

from scstore.heads.scores import (
    METRICS,
    coverage,
    expected_calibration_error,
    held_out_scores,
    negative_log_likelihood,
    prediction_scores,
    reliability,
    scores_by_class,
    widened,
)


def one_hot(codes: np.ndarray, n: int, sure: float = 0.9) -> np.ndarray:
    return np.where(np.eye(n)[codes] > 0, sure, (1 - sure) / (n - 1))


def test_figures_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 200)
    predicted = np.where(rng.random(200) < 0.7, truth, rng.integers(0, 4, 200))
    found = prediction_scores(truth, one_hot(predicted, 4))
    assert tuple(found) == METRICS
    assert found["accuracy"] == pytest.approx((truth == predicted).mean())
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert found["macro_recall"] == pytest.approx(recall_score(truth, predicted, average="macro"))
    assert found["macro_precision"] == pytest.approx(precision_score(truth, predicted, average="macro"))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert found["ece"] == pytest.approx(abs(0.9 - (truth == predicted).mean()))


def test_means_are_over_the_classes_that_have_true_cells() -> None:
    """A class that is only predicted lowers the precision of nobody but still costs the cells it took."""
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    found = prediction_scores(truth, one_hot(predicted, 3))
    assert found["macro_recall"] == pytest.approx(0.75)
    assert found["macro_precision"] == pytest.approx(1.0)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)


def test_a_perfect_order_has_an_area_of_one_and_one_class_has_none() -> None:
    truth = np.array([0, 1, 2, 0])
    assert prediction_scores(truth, one_hot(truth, 3))["auroc"] == 1.0
    assert prediction_scores(truth, np.full((4, 3), 1 / 3))["auroc"] == 0.5
    assert prediction_scores(np.zeros(3, dtype=int), one_hot(np.zeros(3, dtype=int), 2))["auroc"] is None


def test_by_class() -> None:
    found = scores_by_class(np.array([0, 0, 2]), np.array([0, 2, 2]), ["a", "b", "c"])
    assert set(found) == {"a", "c"}
    assert found["a"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}


@settings(max_examples=50)
@given(st.permutations(range(4)), st.integers(1, 4))
def test_widened_probabilities_keep_their_class(codes: list[int], known: int) -> None:
    proba = np.arange(1.0, known + 1)[None, :]
    wide = widened(proba, np.array(codes[:known]), 4)
    assert wide.sum() == proba.sum()
    assert wide[0, codes[:known]].tolist() == proba[0].tolist()


def test_calibration_error_by_hand() -> None:
    proba = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    y = np.array([0, 1, 0, 0])
    # two cells at .9 (half right), one at .6 (right), one at .7 (wrong)
    assert expected_calibration_error(y, proba) == pytest.approx((2 * 0.4 + 0.4 + 0.7) / 4)
    assert expected_calibration_error(np.array([0]), np.array([[1.0, 0.0]])) == 0


def test_a_probability_of_zero_has_a_finite_loss() -> None:
    assert np.isfinite(negative_log_likelihood(np.array([1]), np.array([[1.0, 0.0]])))


def test_a_reliability_diagram_by_hand() -> None:
    proba = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    found = reliability(np.array([0, 1, 0, 0]), proba)
    assert [part["n"] for part in found] == [1, 1, 2]
    assert [part["accuracy"] for part in found] == [1.0, 0.0, 0.5]
    assert [part["confidence"] for part in found] == pytest.approx([0.6, 0.7, 0.9])
    assert reliability(np.zeros(0, dtype=np.int64), np.empty((0, 2))) == []


def test_what_a_head_remembers_of_its_held_out_cells() -> None:
    proba = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3]])
    figures = held_out_scores(np.array([0, 1, 0]), proba)
    assert figures["n"] == 3
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["macro_f1"] == pytest.approx(f1_score([0, 1, 0], [0, 1, 1], average="macro"))
    assert figures["nll"] == pytest.approx(-np.log([0.7, 0.8, 0.2]).mean())
    assert all(type(value) in (int, float) for value in figures.values())
    nobody = held_out_scores(np.zeros(0, dtype=np.int64), np.empty((0, 2)))
    assert nobody == {**dict.fromkeys(figures), "n": 0}


def test_coverage_is_the_largest_share_that_is_right_enough() -> None:
    confidence = np.array([0.99, 0.98, 0.97, 0.9, 0.8, 0.7, 0.7, 0.6])
    proba = np.column_stack([confidence, 1 - confidence])
    assert coverage(np.array([0, 0, 0, 0, 1, 0, 0, 0]), proba) == 4 / 8
    assert coverage(np.array([0, 0, 0, 0, 1, 0, 0, 0]), proba, right=0.8) == 1
    assert coverage(np.array([0, 0, 0, 0, 0, 0, 1, 1]), proba) == 5 / 8  # equal ones go together
    assert coverage(np.array([1, 0, 0, 0, 0, 0, 0, 0]), proba) == 0
    assert coverage(np.zeros(8, dtype=int), proba) == 1
