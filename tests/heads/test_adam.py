from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scstore.heads.adam import Adam, n_batches, shuffled_batches


def test_adam_finds_the_bottom_of_a_bowl() -> None:
    weights, target = np.zeros(3, dtype=np.float32), np.array([1.0, -2, 0.5], dtype=np.float32)
    adam = Adam([weights])
    for step in range(400):
        adam.step([2 * (weights - target)], learning_rate=0.05 * (1 - step / 400))
    np.testing.assert_allclose(weights, target, atol=1e-3)


def test_the_first_step_has_the_length_of_the_learning_rate() -> None:
    weights = np.zeros(2)
    Adam([weights]).step([np.array([1e-3, -50])], learning_rate=0.1)
    np.testing.assert_allclose(weights, [-0.1, 0.1], rtol=1e-4)


def test_decay_shrinks_matrices_and_leaves_biases() -> None:
    matrix, bias = np.ones((2, 2)), np.ones(2)
    Adam([matrix, bias], weight_decay=0.5).step([np.zeros((2, 2)), np.zeros(2)], learning_rate=0.1)
    np.testing.assert_allclose(matrix, 0.95)
    np.testing.assert_allclose(bias, 1)


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("memory_limit", [1, 4 * 4 * 8 * 128 * 3, 1 << 30])
def test_a_pass_visits_every_row_once(where: str, memory_limit: int, disk_rows: Any) -> None:
    values = np.arange(500, dtype=np.float32)[:, None] * np.ones(8, dtype=np.float32)
    rows = values if where == "memory" else disk_rows(values)
    index = np.arange(0, 500, 2)
    seen = []
    for numbers, block in shuffled_batches(
        rows, index, rng=np.random.default_rng(0), batch_rows=50, memory_limit=memory_limit
    ):
        assert len(block) <= 50
        np.testing.assert_array_equal(block[:, 0], numbers)
        seen.append(numbers)
    order = np.concatenate(seen)
    np.testing.assert_array_equal(np.sort(order), index)
    assert (order != index).any()
    if where == "disk" and memory_limit == 1:
        assert rows.most <= 64


def test_the_same_seed_gives_the_same_order(disk_rows: Any) -> None:
    rows = disk_rows(np.zeros((300, 2)))
    orders = [
        np.concatenate(
            [
                numbers
                for numbers, _ in shuffled_batches(
                    rows, np.arange(300), rng=np.random.default_rng(7), batch_rows=32, memory_limit=4096
                )
            ]
        )
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*orders)


def test_batches_are_counted_upwards() -> None:
    assert [n_batches(n, 10) for n in (1, 10, 11)] == [1, 1, 2]
