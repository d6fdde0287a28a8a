from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from scstore.heads import held_out
from scstore.heads.held_out import choose_held_out, out_of_fold, scores


class Marker:
    """Stands for a fitted branch: says which rows it was fitted on."""

    def __init__(self, seen: np.ndarray) -> None:
        self.seen = set(seen.ravel().tolist())

    def log_proba(self, views: Mapping[str, Any], *, selected: bool) -> np.ndarray:
        assert not selected
        rows = views["a"][slice(None)][:, 0]
        return np.array([[row in self.seen, row] for row in rows.tolist()], dtype=np.float64)


def test_no_row_is_predicted_by_what_saw_it() -> None:
    views = {"a": np.arange(40.0)[:, None]}
    y = np.array(["x", "y"] * 20, dtype=object)
    folds = choose_held_out((y == "y").astype(int), n_folds=5, rng=np.random.default_rng(0))
    found = out_of_fold(views, y, folds=folds, fit=lambda seen, _: [Marker(seen["a"][slice(None)])])  # type: ignore[list-item]
    (table,) = found.log_probas
    assert not table[:, 0].any()
    np.testing.assert_array_equal(table[:, 1], found.index)
    np.testing.assert_array_equal(np.sort(found.index), np.arange(40))


def test_many_cells_are_held_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MANY_ROWS", 99)
    monkeypatch.setattr(held_out, "PART_ROWS", 20)
    codes = np.arange(100) % 4
    (part,) = choose_held_out(codes, n_folds=5, rng=np.random.default_rng(0))
    assert len(part) == 20
    assert choose_held_out(np.arange(100), n_folds=5, rng=np.random.default_rng(0)) == []


def test_nothing_to_hold_out() -> None:
    found = out_of_fold({"a": np.zeros((2, 1))}, np.array(["x", "y"]), folds=[], fit=lambda *_: [])
    assert (len(found.index), found.log_probas) == (0, ())
    assert scores(np.empty((0, 2)), found.index) == {
        "n": 0,
        "accuracy": None,
        "balanced_accuracy": None,
        "macro_f1": None,
        "nll": None,
        "ece": None,
    }


def test_scores_are_plain_numbers() -> None:
    proba = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3]])
    figures = scores(proba, np.array([0, 1, 0]))
    assert figures["n"] == 3
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["macro_f1"] == pytest.approx(f1_score([0, 1, 0], [0, 1, 1], average="macro"))
    assert figures["nll"] == pytest.approx(-np.log([0.7, 0.8, 0.2]).mean())
    assert all(type(value) in (int, float) for value in figures.values())
