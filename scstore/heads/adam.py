"""Adam over shuffled batches of rows that need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from scstore.heads.rows import Array, Rows, read, widest

__all__ = ["Adam", "n_batches", "shuffled_batches"]

RUN = 64
"""Rows read in one go: a random order of single rows would turn a pass over a disk into as many seeks."""

WINDOW_BYTES = 1 << 28
"""At most so many bytes of float32 are shuffled together."""


class Adam:
    """Adam (Kingma and Ba, 2015) with decoupled weight decay (Loshchilov and Hutter, 2019), updating in place.

    Parameters
    ----------
    weights
        Arrays to learn.
    weight_decay
        Share of each matrix that is taken off per unit of learning rate; vectors (biases) are left alone.
    """

    def __init__(self, weights: Sequence[Array], *, weight_decay: float = 0.0) -> None:
        self.weights = list(weights)
        self.weight_decay = weight_decay
        self.steps = 0
        self._first = [np.zeros_like(w) for w in weights]
        self._second = [np.zeros_like(w) for w in weights]

    def step(self, gradients: Sequence[Array], *, learning_rate: float) -> None:
        """Take one step down the gradients, given in the order of the weights."""
        self.steps += 1
        correct_first, correct_second = 1 - 0.9**self.steps, 1 - 0.999**self.steps
        for weight, gradient, first, second in zip(self.weights, gradients, self._first, self._second, strict=True):
            first *= 0.9
            first += 0.1 * gradient
            second *= 0.999
            second += 0.001 * np.square(gradient)
            if self.weight_decay and weight.ndim > 1:
                weight *= 1 - learning_rate * self.weight_decay
            weight -= (learning_rate / correct_first) * first / (np.sqrt(second / correct_second) + 1e-8)


def n_batches(n: int, batch_rows: int) -> int:
    """Batches of one pass over ``n`` rows."""
    return -(-n // batch_rows)


def shuffled_batches(
    rows: Rows, index: Array, *, rng: np.random.Generator, batch_rows: int, memory_limit: int
) -> Iterator[tuple[Array, Array]]:
    """One pass over some rows in random order.

    Rows in memory are shuffled outright. Others are read as windows of randomly drawn runs of 64 rows, shuffled
    inside the window: neighbours in a file are often of one type or donor, and a batch of one run would see nothing
    else.

    Parameters
    ----------
    index
        ``(m,)`` rows to visit, ascending.
    batch_rows
        Rows of a batch.
    memory_limit
        Bytes that training may take; a quarter of it is the most that a window takes.

    Yields
    ------
    ``(row numbers (b,), rows (b, d) float32)``
    """
    if isinstance(rows, np.ndarray):
        for batch in _cut(rng.permutation(index), batch_rows):
            yield batch, read(rows, batch)
        return
    runs = [index[start : start + RUN] for start in range(0, len(index), RUN)]
    in_window = max(1, min(WINDOW_BYTES, memory_limit // 4) // (4 * RUN * widest(rows)))
    for chosen in _cut(rng.permutation(len(runs)), in_window):
        window = np.concatenate([runs[run] for run in sorted(chosen.tolist())])
        block = read(rows, window)
        for places in _cut(rng.permutation(len(window)), batch_rows):
            yield window[places], block[places]


def _cut(order: Array, size: int) -> Iterator[Array]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
