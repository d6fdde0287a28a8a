from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scstore.evaluation import regression
from scstore.evaluation.regression import regression_proba

N, TRAIN = 240, 160


@pytest.fixture(scope="module")
def made() -> tuple[Any, np.ndarray, np.ndarray]:
    """Expression of 60 genes, labels of unequal shares, and four groups that differ in their own genes."""
    rng = np.random.default_rng(0)
    codes = rng.choice(3, N, p=[0.6, 0.3, 0.1])
    groups = rng.integers(0, 4, N)
    rates = (
        (0.5 + rng.gamma(1, 1, 60))
        * np.exp(rng.normal(0, 0.5, (3, 60)))[codes]
        * np.exp(rng.normal(0, 0.5, (4, 60)))[groups]
    )
    return sparse.csr_matrix(np.log1p(rng.poisson(rates))), np.array(["a", "b", "c"], dtype=object)[codes], groups


def by_hand(k: int, penalty: float) -> Any:
    head = LogisticRegression(C=penalty, class_weight="balanced", max_iter=1000)
    return make_pipeline(SelectKBest(f_classif, k=k), StandardScaler(), head)


@pytest.mark.parametrize("grouped", [False, True])
def test_it_is_the_best_setting_on_inner_folds_of_the_training_cells(
    grouped: bool, made: tuple[Any, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y, groups = made
    monkeypatch.setattr(regression, "N_GENES", (4, 20))
    monkeypatch.setattr(regression, "PENALTIES", (0.001, 0.1))
    folds: list[np.ndarray] = []
    real = regression._folds
    monkeypatch.setattr(regression, "_folds", lambda *given: folds.extend(real(*given)) or folds)
    given = groups[:TRAIN] if grouped else None
    names, proba = regression_proba(X[:TRAIN], y[:TRAIN], X[TRAIN:], groups=given, seed=0)
    whole = [bool(set(groups[fold]) & set(np.delete(groups[:TRAIN], fold))) for fold in folds]
    assert whole == [not grouped] * regression.INNER_FOLDS
    dense, scores = X.toarray(), {}
    for setting in [(4, 0.001), (4, 0.1), (20, 0.001), (20, 0.1)]:
        said = np.empty(TRAIN, dtype=object)
        for fold in folds:
            known = np.delete(np.arange(TRAIN), fold)
            said[fold] = by_hand(*setting).fit(dense[known], y[known]).predict(dense[fold])
        scores[setting] = f1_score(y[:TRAIN].astype(str), said.astype(str), average="macro")
    best = by_hand(*max(scores, key=lambda setting: scores[setting])).fit(dense[:TRAIN], y[:TRAIN])
    assert names == ("a", "b", "c")
    np.testing.assert_allclose(proba, best.predict_proba(dense[TRAIN:]), atol=2e-3)


def test_one_cell_a_class_and_one_group_are_enough(made: tuple[Any, np.ndarray, np.ndarray]) -> None:
    X, y, _ = made
    rows = [int(np.flatnonzero(y == name)[0]) for name in ("a", "b")]
    names, proba = regression_proba(X[rows], y[rows], X, groups=np.zeros(2, dtype=int), seed=0)
    assert names == ("a", "b")
    assert proba.shape == (N, 2)
    np.testing.assert_allclose(proba.sum(axis=1), 1)


def test_of_very_many_cells_a_part_is_read(
    made: tuple[Any, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y, groups = made
    monkeypatch.setattr(regression, "CHOOSING_CELLS", 60)
    monkeypatch.setattr(regression, "FITTING_CELLS", 90)
    names, proba = regression_proba(X[:TRAIN], y[:TRAIN], X[TRAIN:], groups=groups[:TRAIN], seed=0)
    assert (np.array(names)[proba.argmax(axis=1)] == y[TRAIN:]).mean() > 0.7
