from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scstore.errors import DamagedError
from scstore.heads.artifact import join_arrays, split_arrays
from scstore.heads.linear import LinearHead
from scstore.heads.mlp import MLPHead, _forward, _gradients, _initial_layers
from scstore.heads.training import cross_entropy


@pytest.mark.parametrize("hidden", [[7], [7, 5]])
def test_the_gradients_are_the_slopes_of_the_loss(hidden: list[int]) -> None:
    rng = np.random.default_rng(0)
    layers = [layer.astype(np.float64) for layer in _initial_layers([4, *hidden, 3], rng)]
    block, codes, weights = rng.normal(size=(9, 4)), rng.integers(0, 3, 9), rng.uniform(0.5, 2, 9)

    def loss() -> float:
        return cross_entropy(_forward(layers, block)[-1], codes, weights)[0] / len(codes)

    for layer, gradient in zip(layers, _gradients(layers, block, codes, weights), strict=True):
        assert gradient.shape == layer.shape
        place = tuple(rng.integers(0, size) for size in layer.shape)
        layer[place] += 1e-6
        above = loss()
        layer[place] -= 2e-6
        below = loss()
        layer[place] += 1e-6
        np.testing.assert_allclose(gradient[place], (above - below) / 2e-6, atol=1e-7)


def test_it_learns_what_no_line_can() -> None:
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (900, 2)).astype(np.float32)
    y = np.where((X[:, 0] > 0) == (X[:, 1] > 0), "same", "different")
    assert LinearHead().fit(X[:600], y[:600]).score(X[600:], y[600:]) < 0.7
    assert MLPHead((64,)).fit(X[:600], y[:600]).score(X[600:], y[600:]) > 0.93


def test_training_stops_when_the_held_out_loss_does_not_fall(cells: Any) -> None:
    rng = np.random.default_rng(0)
    head = MLPHead((16,)).fit(cells.X, rng.permutation(cells.y))
    assert head.n_iter_ < 100


def test_too_few_cells_to_hold_any_out(cells: Any) -> None:
    """RELIABILITY 42: two cells."""
    head = MLPHead((8,)).fit(cells.X[:2], ["a", "b"])
    assert head.n_iter_ == 15
    assert head.predict(cells.X[:2]).tolist() == ["a", "b"]


def test_streaming_agrees_with_memory(cells: Any, disk_rows: Any) -> None:
    rows = disk_rows(cells.X[:450])
    streamed = MLPHead((32,), memory_limit=1 << 14).fit(rows, cells.y[:450])
    assert rows.most < 450
    inside = MLPHead((32,)).fit(cells.X[:450], cells.y[:450])
    assert abs(streamed.score(cells.X[450:], cells.y[450:]) - inside.score(cells.X[450:], cells.y[450:])) < 0.06


def test_two_layers_come_back_from_their_arrays(cells: Any) -> None:
    head = MLPHead((12, 6), epochs=3).fit(cells.X, cells.y)
    arrays, state = split_arrays(head.to_state())
    assert sorted(arrays) == [f"layers.{i}.{name}" for i in range(3) for name in ("coef", "intercept")]
    restored = MLPHead.from_state(join_arrays(arrays, state))
    np.testing.assert_array_equal(restored.predict_proba(cells.X), head.predict_proba(cells.X))
    assert restored.hidden == (12, 6)
    layers = head.to_state()["layers"]
    for wrong in ([], layers[:1], layers[1:], layers[:2], [*layers, layers[-1]]):
        with pytest.raises(DamagedError):
            MLPHead.from_state({**head.to_state(), "layers": wrong})


def test_a_round_of_many_cells_is_no_whole_pass(cells: Any, disk_rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scstore.heads.mlp.LONGEST_ROUND", 2)
    monkeypatch.setattr("scstore.heads.mlp.HELD_OUT_ROWS", 30)
    monkeypatch.setattr("scstore.heads.mlp.BATCH_ROWS", 32)
    rows = disk_rows(cells.X)
    head = MLPHead((8,), epochs=3, memory_limit=1 << 13).fit(rows, cells.y)
    assert head.n_iter_ == 3
    # the scaling's pass, windows of 64 rows for 6 batches of 32, and 3 looks at 30 held-out rows
    assert rows.read == 600 + 3 * 64 + 3 * 30
    assert head.training_note() == "perceptron, streamed: the best of 3 rounds by held-out loss"
