from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score

from scstore.errors import DamagedError
from scstore.heads.artifact import join_arrays, split_arrays
from scstore.heads.linear import LinearHead
from scstore.heads.preprocessing import fit_scaling


def test_the_exact_fit_is_scikit_learns(cells: Any) -> None:
    scaled = fit_scaling(cells.X).apply(cells.X).astype(np.float64)
    reference = LogisticRegression(C=3.0, max_iter=5000, tol=1e-8).fit(scaled, cells.y)
    head = LinearHead(C=3.0).fit(cells.X, cells.y)
    np.testing.assert_allclose(head.predict_proba(cells.X), reference.predict_proba(scaled), atol=2e-3)


def test_two_classes_are_a_softmax_too(cells: Any) -> None:
    two = np.isin(cells.y, ["type 0", "type 1"])
    head = LinearHead().fit(cells.X[two], cells.y[two])
    assert head.coef_.shape == (2, cells.X.shape[1])
    logits = cells.X.astype(np.float64) @ head.coef_.T + head.intercept_
    np.testing.assert_allclose(1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), head.predict_proba(cells.X)[:, 1])


def test_streaming_agrees_with_the_exact_fit(cells_factory: Any, disk_rows: Any) -> None:
    made = cells_factory(4000, 60, 12, tail=1.3, spread=1.6)
    rows, y = disk_rows(made.X[:3000]), made.y[:3000]
    streamed = LinearHead(memory_limit=1 << 16).fit(rows, y)
    assert rows.most * 60 * 4 <= 1 << 16
    exact = LinearHead().fit(made.X[:3000], y)
    test, truth = made.X[3000:], made.y[3000:]
    wanted, found = exact.predict(test), streamed.predict(test)
    assert (found == wanted).mean() > 0.97
    assert abs((found == truth).mean() - (wanted == truth).mean()) < 0.01
    recalls = [recall_score(truth, p, average="macro", labels=np.unique(truth)) for p in (found, wanted)]
    assert recalls[0] > recalls[1] - 0.03
    assert (found == truth).mean() > 0.9


def test_streaming_is_the_same_from_disk_twice_and_from_wherever_the_rows_lie(cells: Any, disk_rows: Any) -> None:
    first, second = (LinearHead(memory_limit=4096).fit(disk_rows(cells.X), cells.y) for _ in range(2))
    np.testing.assert_array_equal(first.coef_, second.coef_)
    other = LinearHead(memory_limit=4096, random_state=1).fit(disk_rows(cells.X), cells.y)
    assert not np.array_equal(first.coef_, other.coef_)


def test_a_matrix_beyond_the_limit_is_never_whole_in_memory(disk_rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scstore.heads.linear.MIN_STEPS", 20)
    rng = np.random.default_rng(0)
    codes = np.arange(2000) % 3
    rows = disk_rows((rng.normal(size=(3, 5000))[codes] + rng.normal(size=(2000, 5000))).astype(np.float16))
    LinearHead(memory_limit=1 << 22, epochs=1).fit(rows, codes)
    assert rows.most * 5000 * 4 <= 1 << 25
    assert rows.most < 2000


def test_cells_sorted_by_class_are_learned_from_a_stream(cells_factory: Any, disk_rows: Any) -> None:
    made = cells_factory(1500, 30, 4, seed=2)
    order = np.argsort(made.y, kind="stable")
    head = LinearHead(memory_limit=1 << 17).fit(disk_rows(made.X[order]), made.y[order])
    assert head.score(made.X, made.y) > 0.95


def test_balanced_weights_favour_the_rare(cells_factory: Any) -> None:
    made = cells_factory(800, 10, 3, tail=3.0, spread=3.0)
    rare = made.y == "type 2"
    plain = LinearHead().fit(made.X, made.y)
    for limit in (1 << 30, 1024):
        balanced = LinearHead(class_weight="balanced", memory_limit=limit).fit(made.X, made.y)
        assert (balanced.predict(made.X) == "type 2").sum() > (plain.predict(made.X) == "type 2").sum()
        assert (balanced.predict(made.X)[rare] == "type 2").mean() > 0.65


@pytest.mark.parametrize("chunk", [64, 4096])
def test_the_size_of_the_chunks_does_not_matter(chunk: int, cells: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LinearHead().fit(cells.X, cells.y)
    monkeypatch.setattr("scstore.heads.linear.CHUNK", chunk)
    np.testing.assert_allclose(
        LinearHead().fit(cells.X, cells.y).predict_proba(cells.X), whole.predict_proba(cells.X), atol=1e-3
    )


def test_an_outlier_dimension_does_not_drown_the_others(cells: Any) -> None:
    X = np.column_stack([cells.X, np.full(len(cells.X), 3e4, dtype=np.float32) + cells.X[:, 0]])
    assert LinearHead().fit(X, cells.y).score(X, cells.y) > 0.95


def test_the_way_taken_is_told(cells: Any) -> None:
    exact = LinearHead().fit(cells.X, cells.y)
    assert (exact.solver_, exact.training_note()[:26]) == ("exact", "logistic regression, exact")
    streamed = LinearHead(memory_limit=1 << 12).fit(cells.X, cells.y)
    assert streamed.solver_ == "stream"
    assert "streamed: 200 passes over the rows, C = 10" in streamed.training_note()  # 5 batches each


def test_c_is_chosen_on_held_out_cells(cells_factory: Any) -> None:
    easy = cells_factory(800, 20, 4, spread=0.5)
    assert LinearHead("auto").fit(easy.X, easy.y).C_ >= 10
    rng = np.random.default_rng(0)
    noise = LinearHead("auto").fit(rng.normal(size=(200, 300)), rng.permutation(np.arange(200) % 4))
    assert noise.C_ == 0.1  # nothing to learn: the smallest weights are the best
    assert "C = 0.1" in noise.training_note()
    assert LinearHead("auto").fit(easy.X[:3], ["a", "b", "c"]).C_ == 10  # none can be held out
    streamed = LinearHead("auto", memory_limit=1 << 14).fit(easy.X, easy.y)
    assert (streamed.solver_, streamed.C_ >= 1) == ("stream", True)


@pytest.mark.parametrize("change", [{"C": 0.0}, {"C": None}, {"solver": "magic"}, {"n_iter": 0}])
def test_a_description_that_makes_no_sense_is_damage(change: dict[str, Any], cells: Any) -> None:
    arrays, state = split_arrays(LinearHead().fit(cells.X, cells.y).to_state())
    with pytest.raises(DamagedError):
        LinearHead.from_state(join_arrays(arrays, {**state, **change}))
