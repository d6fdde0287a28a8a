from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score

from scstore.heads.metrics import METRICS, metrics_by_class, prediction_metrics, widen


def one_hot(codes: np.ndarray, n: int, sure: float = 0.9) -> np.ndarray:
    return np.where(np.eye(n)[codes] > 0, sure, (1 - sure) / (n - 1))


def test_figures_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 200)
    predicted = np.where(rng.random(200) < 0.7, truth, rng.integers(0, 4, 200))
    found = prediction_metrics(truth, one_hot(predicted, 4))
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
    found = prediction_metrics(truth, one_hot(predicted, 3))
    assert found["macro_recall"] == pytest.approx(0.75)
    assert found["macro_precision"] == pytest.approx(1.0)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)


def test_a_perfect_order_has_an_area_of_one_and_one_class_has_none() -> None:
    truth = np.array([0, 1, 2, 0])
    assert prediction_metrics(truth, one_hot(truth, 3))["auroc"] == 1.0
    assert prediction_metrics(truth, np.full((4, 3), 1 / 3))["auroc"] == 0.5
    assert prediction_metrics(np.zeros(3, dtype=int), one_hot(np.zeros(3, dtype=int), 2))["auroc"] is None


def test_by_class() -> None:
    found = metrics_by_class(np.array([0, 0, 2]), np.array([0, 2, 2]), ["a", "b", "c"])
    assert set(found) == {"a", "c"}
    assert found["a"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.permutations(["a", "b", "c", "d"]), st.integers(1, 4))
def test_widened_probabilities_keep_their_class(names: list[str], known: int) -> None:
    proba = np.arange(1.0, known + 1)[None, :]
    wide = widen(proba, names[:known], ["a", "b", "c", "d"])
    assert wide.sum() == proba.sum()
    assert [wide[0, "abcd".index(name)] for name in names[:known]] == proba[0].tolist()
