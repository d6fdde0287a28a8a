"""A small multilayer perceptron in NumPy, trained in memory or streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any, Self

import numpy as np

from scstore.errors import DamagedError, OptionError
from scstore.heads.adam import Adam, n_batches, shuffled_batches
from scstore.heads.base import (
    JSON,
    RowClassifier,
    check_positive,
    choose_scaling,
    class_weights,
    seeded,
    take_array,
)
from scstore.heads.folds import stratified_part
from scstore.heads.labels import Labels
from scstore.heads.rows import MEMORY_LIMIT, Array, Rows, RowSubset, block_within, fits, iter_blocks, materialise
from scstore.heads.softmax import cross_entropy, log_softmax
from scstore.heads.threads import one_blas_thread

__all__ = ["MLPHead"]

ROUND_STEPS = 20
"""The held-out part is looked at after each pass, or after so many steps where a pass is shorter."""

LONGEST_ROUND = 2000
"""Steps after which it is looked at where a pass is longer: a million cells need not be seen twenty times over."""

HELD_OUT_ROWS = 10_000
"""Held-out rows at most; more would not tell a better round from a worse one any surer."""

BLIND_ROUNDS = 15
"""Rounds when there are too few cells to hold any out."""

FULL_DECAY = 10_000
"""Cells up to which the weight decay is as given. More cells need less: it falls in proportion, as the share of a fixed
penalty in the sum of their losses would."""


class MLPHead(RowClassifier):
    """Perceptron with one or two hidden layers of rectified linear units.

    Columns are standardised and divided by √d, the scaling folded into the first layer. Training is Adam on the
    cross-entropy with decoupled weight decay; a stratified part of the cells is held out, and the weights of the
    round with the lowest held-out loss are kept.

    Parameters
    ----------
    hidden
        Width of each hidden layer; one or two of them.
    weight_decay, learning_rate, batch_rows
        Of Adam. The decay is that for up to 10,000 cells, and less for more: ``weight_decay * 10_000 / n``.
    epochs
        Most rounds. A round is a pass over the rows, but at least 20 and at most 2,000 steps.
    patience
        Rounds without a lower held-out loss before training stops.
    validation_fraction
        Share of the cells held out, at most 10,000 cells.
    class_weight
        ``None``, ``"balanced"``, or a mapping of label to weight.
    standardize
        Whether to scale the columns; ``False`` for rows that were scaled before.
    memory_limit
        Bytes of float32 rows that training may hold; more are streamed.
    random_state
        Seed of the weights, the held-out part and the order.

    Attributes
    ----------
    classes_
        ``(n_classes,)`` labels, sorted.
    coefs_
        Weights ``(out, in) float64`` of each layer, the first for the rows as they are given.
    intercepts_
        Biases ``(out,) float64`` of each layer.
    n_features_in_
        d.
    n_iter_
        Rounds trained.
    streamed_
        Whether the rows did not fit into ``memory_limit``.
    """

    coefs_: list[Array]
    intercepts_: list[Array]
    n_iter_: int
    streamed_: bool

    def __init__(
        self,
        hidden: Sequence[int] = (128,),
        *,
        weight_decay: float = 0.5,
        learning_rate: float = 3e-3,
        batch_rows: int = 128,
        epochs: int = 100,
        patience: int = 8,
        validation_fraction: float = 0.1,
        class_weight: Any = None,
        standardize: bool = True,
        memory_limit: int = MEMORY_LIMIT,
        random_state: Any = 0,
    ) -> None:
        self.hidden = hidden
        self.weight_decay = weight_decay
        self.learning_rate = learning_rate
        self.batch_rows = batch_rows
        self.epochs = epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.standardize = standardize
        self.memory_limit = memory_limit
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from rows ``(n, d)`` and labels ``(n,)``.

        Raises
        ------
        LabelsError
            If the labels cannot be learned from (missing, one class, another length).
        CellsError
            If a value is not finite.
        OptionError
            If a parameter is out of its range.
        """
        self._check_options()
        rows, labels = self._begin(X, y)
        weights = class_weights(self.class_weight, labels)
        scaling = choose_scaling(rows, standardize=self.standardize, memory_limit=self.memory_limit)
        scaled: Rows = scaling.over(rows)
        self.streamed_ = not fits(rows, self.memory_limit)
        if not self.streamed_:
            scaled = materialise(scaled)
        with one_blas_thread():
            layers, self.n_iter_ = self._train(scaled, labels, weights / weights.mean())
            first = scaling.fold(layers[0], layers[1])
        self.coefs_ = [first[0], *(layer.astype(np.float64) for layer in layers[2::2])]
        self.intercepts_ = [first[1], *(layer.astype(np.float64) for layer in layers[3::2])]
        return self

    def training_note(self) -> str:
        """How the head was trained, in words."""
        how = "streamed" if self.streamed_ else "rows in memory"
        return f"perceptron, {how}: the best of {self.n_iter_} rounds by held-out loss"

    def _check_options(self) -> None:
        sizes = list(self.hidden)
        if not 1 <= len(sizes) <= 2 or not all(isinstance(size, int | np.integer) and size > 0 for size in sizes):
            msg = f"hidden={self.hidden!r}: give the width of one or two hidden layers, such as (128,)."
            raise OptionError(msg)
        if not 0 < self.validation_fraction < 1:
            msg = f"validation_fraction={self.validation_fraction!r}: must lie between 0 and 1."
            raise OptionError(msg)
        if not 0 <= self.weight_decay < np.inf:
            msg = f"weight_decay={self.weight_decay!r}: must be 0 or more."
            raise OptionError(msg)
        check_positive(
            learning_rate=self.learning_rate,
            batch_rows=self.batch_rows,
            epochs=self.epochs,
            patience=self.patience,
            memory_limit=self.memory_limit,
        )

    def _train(self, rows: Rows, labels: Labels, weights: Array) -> tuple[list[Array], int]:
        """Layers as weights and biases in turn, and the rounds trained."""
        rng, n = seeded(self.random_state), rows.shape[0]
        size = min(HELD_OUT_ROWS, round(n * self.validation_fraction))
        held_out = stratified_part(labels.codes, size=size, rng=rng)
        index = np.setdiff1d(np.arange(n), held_out)
        layers = _initial([rows.shape[1], *self.hidden, len(labels.classes)], rng)
        adam = Adam(layers, weight_decay=self.weight_decay * min(1.0, FULL_DECAY / n))
        best, best_loss, best_round = [layer.copy() for layer in layers], np.inf, 0
        most = int(self.epochs) if len(held_out) else min(BLIND_ROUNDS, int(self.epochs))
        per_pass = n_batches(len(index), int(self.batch_rows))
        steps = min(LONGEST_ROUND, per_pass * n_batches(ROUND_STEPS, per_pass))
        batches = self._batches(rows, index, rng)
        done = 0
        for done in range(1, most + 1):
            for chosen, block in islice(batches, steps):
                gradients = _gradients(layers, block, labels.codes[chosen], weights[chosen])
                adam.step(gradients, learning_rate=self.learning_rate)
            if not len(held_out):
                continue
            loss = _loss(
                layers,
                RowSubset(rows, held_out),
                labels.codes[held_out],
                weights=weights[held_out],
                block_bytes=block_within(self.memory_limit),
            )
            if loss < best_loss:
                best, best_loss, best_round = [layer.copy() for layer in layers], loss, done
            elif done - best_round >= self.patience:
                break
        return (best if len(held_out) else layers), done

    def _batches(self, rows: Rows, index: Array, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
        """Pass after pass without end."""
        while True:
            yield from shuffled_batches(
                rows, index, rng=rng, batch_rows=int(self.batch_rows), memory_limit=self.memory_limit
            )

    def _log_proba(self, block: Array) -> Array:
        values = block.astype(np.float64)
        for coef, intercept in zip(self.coefs_[:-1], self.intercepts_[:-1], strict=True):
            values = np.maximum(values @ coef.T + intercept, 0)
        return log_softmax(values @ self.coefs_[-1].T + self.intercepts_[-1])

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, JSON]]:
        """The fitted head as ``coef_i`` and ``intercept_i`` of each layer i, and its parameters as JSON."""
        counts = {"n_iter": int(self.n_iter_), "streamed": bool(self.streamed_)}
        state = {**self._state(), **counts, "widths": [len(b) for b in self.intercepts_]}
        arrays = {f"coef_{i}": coef for i, coef in enumerate(self.coefs_)}
        return {**arrays, **{f"intercept_{i}": bias for i, bias in enumerate(self.intercepts_)}}, state

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], params: Mapping[str, JSON]) -> Self:
        """The fitted head from what :meth:`to_arrays` gave; :class:`DamagedError` where the two do not fit."""
        head = cls._restore(params)
        widths = params.get("widths")
        if not isinstance(widths, list) or not 2 <= len(widths) <= 3 or widths[-1] != len(head.classes_):
            msg = f"MLPHead: widths {widths!r} do not end in {len(head.classes_)} classes. The head is damaged."
            raise DamagedError(msg)
        ins = [head.n_features_in_, *widths[:-1]]
        head.coefs_ = [
            take_array(arrays, f"coef_{i}", shape=(out, into))
            for i, (out, into) in enumerate(zip(widths, ins, strict=True))
        ]
        head.intercepts_ = [take_array(arrays, f"intercept_{i}", shape=(out,)) for i, out in enumerate(widths)]
        head.n_iter_, head.streamed_ = int(params.get("n_iter", 0)), params.get("streamed") is True
        return head


def _initial(widths: Sequence[int], rng: np.random.Generator) -> list[Array]:
    """Weights and biases in turn (He et al., 2015); rows enter with a norm of about 1, so the first divides by none."""
    layers: list[Array] = []
    for depth, (into, out) in enumerate(pairwise(widths)):
        spread = np.sqrt(2.0 / (into if depth else 1))
        layers += [rng.normal(0, spread, (out, into)).astype(np.float32), np.zeros(out, dtype=np.float32)]
    return layers


def _forward(layers: Sequence[Array], block: Array) -> list[Array]:
    """What enters each layer, and the logits last."""
    values = [block]
    for coef, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        values.append(np.maximum(values[-1] @ coef.T + bias, 0))
    return [*values, values[-1] @ layers[-2].T + layers[-1]]


def _gradients(layers: Sequence[Array], block: Array, codes: Array, weights: Array) -> list[Array]:
    """Gradients of the batch's mean loss, in the order of ``layers``."""
    *entering, logits = _forward(layers, block)
    _, slope = cross_entropy(logits, codes, weights)
    slope /= len(codes)
    gradients: list[Array] = []
    for depth in range(len(entering) - 1, -1, -1):
        gradients = [slope.T @ entering[depth], slope.sum(axis=0), *gradients]
        if depth:
            slope = (slope @ layers[2 * depth]) * (entering[depth] > 0)
    return gradients


def _loss(layers: Sequence[Array], rows: Rows, codes: Array, *, weights: Array, block_bytes: int) -> float:
    total = 0.0
    for start, block in iter_blocks(rows, block_bytes=block_bytes):
        part = slice(start, start + len(block))
        total += cross_entropy(_forward(layers, block)[-1], codes[part], weights[part])[0]
    return total / len(codes)
