"""Training by gradients: softmax cross-entropy, Adam over shuffled batches of rows, and threads."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from scstore.heads.rows import Array, Rows, read, widest

T = TypeVar("T")
R = TypeVar("R")
RUN = 64  # rows read in one go: a random order of single rows would turn a pass over a disk into as many seeks
WINDOW_BYTES = 1 << 28  # bytes of float32 rows that are shuffled together at most


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities ``(n, c)`` of logits ``(n, c)``, in their dtype; safe for large logits."""
    shifted: Array = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def cross_entropy(logits: Array, codes: Array, weights: Array) -> tuple[float, Array]:
    """Return the weighted sum of the negative log-likelihood, and its gradient ``(n, c)`` in the logits' dtype."""
    log_proba = log_softmax(logits)
    picked = np.arange(len(codes)), codes
    loss = -float(np.dot(log_proba[picked].astype(np.float64), weights))
    gradient = np.exp(log_proba)
    gradient[picked] -= 1
    gradient *= weights[:, None].astype(gradient.dtype)
    return loss, gradient


class Adam:
    """Adam (Kingma and Ba, 2015), in place; decoupled weight decay (Loshchilov and Hutter, 2019) of matrices alone."""

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
    """Return the number of batches in one pass over ``n`` rows."""
    return -(-n // batch_rows)


def shuffled_batches(
    rows: Rows, index: Array, *, rng: np.random.Generator, batch_rows: int, memory_limit: int
) -> Iterator[tuple[Array, Array]]:
    """Yield row numbers and rows of random batches, one pass; from a disk as shuffled windows of runs of 64 rows."""
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


def one_blas_thread() -> Any:
    """Run each matrix product on one thread inside the ``with`` block.

    A head's products are small: beside a busy process OpenBLAS's spinning threads take 5 to 30 times as long, and the
    last bit would depend on the number of cores. Before a search of FAISS's they would hold the cores that it needs.
    """
    return _blas().limit(limits=1)


@cache
def _blas() -> Any:
    """Return the libraries of NumPy and SciPy: to look for them takes longer than a small product."""
    return ThreadpoolController().select(user_api="blas")


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield the results of ``function`` for each item, in the order of the items, computed side by side."""
    workers = min(len(items), os.cpu_count() or 1, 8)
    if workers < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(function, items)
