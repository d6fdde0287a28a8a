"""A small multilayer perceptron in NumPy, trained in memory or streamed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import islice, pairwise
from typing import Any, Self

import numpy as np

from scstore.errors import OptionError
from scstore.heads.base import RowClassifier, State, check_positive, class_weights, require, seeded, take_arrays
from scstore.heads.class_numbers import Labels, stratified_part
from scstore.heads.preprocessing import fit_scaling
from scstore.heads.rows import MEMORY_LIMIT, Array, Rows, RowSubset, block_within, fits, iter_blocks, materialise
from scstore.heads.training import Adam, cross_entropy, log_softmax, n_batches, one_blas_thread, shuffled_batches

ROUND_STEPS = 20  # steps of a round, after which the held-out loss is measured, where a pass is shorter than that
LONGEST_ROUND = 2000  # steps of a round where a pass is longer: a million cells need not be seen twenty times over
BATCH_ROWS = 128
HELD_OUT, HELD_OUT_ROWS = 0.1, 10_000  # share of the rows held out, and most of them
PATIENCE = 8  # rounds without a lower held-out loss before training stops
BLIND_ROUNDS = 15  # rounds when there are too few cells to hold any out
# Cells up to which the weight decay is as given; beyond, it falls in proportion, as a fixed penalty in a sum of losses.
FULL_DECAY = 10_000


@dataclass(eq=False, repr=False)
class MLPHead(RowClassifier):
    """Perceptron with one or two hidden layers of rectified linear units.

    Columns are standardised and divided by √d, the scaling folded into the first layer. Training is Adam on the
    cross-entropy with decoupled weight decay [1]_, from the initial weights of He et al. [2]_; a stratified part of the
    cells is held out, and the weights of the round with the lowest held-out loss are kept.

    Parameters
    ----------
    hidden
        Width of each hidden layer; one or two of them.
    weight_decay
        Weight decay for up to 10,000 cells; for n cells more than that it is ``weight_decay * 10_000 / n``.
    learning_rate
        Step size.
    epochs
        Most rounds. A round is a pass over the rows, but at least 20 and at most 2,000 steps.
    class_weight
        ``None``, ``"balanced"``, or a mapping of label to weight.
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

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter, Decoupled weight decay regularization, ICLR 2019.
    .. [2] K. He, X. Zhang, S. Ren and J. Sun, Delving deep into rectifiers, ICCV 2015.
    """

    hidden: Sequence[int] = (128,)
    _: KW_ONLY
    weight_decay: float = 0.5
    learning_rate: float = 3e-3
    epochs: int = 100
    class_weight: Any = None
    memory_limit: int = MEMORY_LIMIT
    random_state: Any = 0

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from rows ``(n, d)`` and labels ``(n,)``.

        Raises
        ------
        LabelsError, CellsError, OptionError
            If the labels cannot be learned from, a value is not finite, or a parameter is out of its range.
        """
        self._check_options()
        rows, labels = self._begin(X, y)
        weights = class_weights(self.class_weight, labels)
        scaling = fit_scaling(rows, memory_limit=self.memory_limit)
        scaled: Rows = scaling.over(rows)
        self.streamed_ = not fits(rows, self.memory_limit)
        with one_blas_thread():
            scaled = scaled if self.streamed_ else materialise(scaled)
            layers = self._train(scaled, labels, weights / weights.mean())
            coef, intercept = scaling.fold(*layers[:2])
        self.coefs_ = [coef, *(layer.astype(np.float64) for layer in layers[2::2])]
        self.intercepts_ = [intercept, *(layer.astype(np.float64) for layer in layers[3::2])]
        return self

    def training_note(self) -> str:
        """Return one line that says how the head was trained."""
        how = "streamed" if self.streamed_ else "rows in memory"
        return f"perceptron, {how}: the best of {self.n_iter_} rounds by held-out loss"

    def _check_options(self) -> None:
        sizes = list(self.hidden)
        if not 1 <= len(sizes) <= 2 or not all(isinstance(size, int | np.integer) and size > 0 for size in sizes):
            raise OptionError(f"hidden={self.hidden!r}: give the width of one or two hidden layers, such as (128,).")
        if not 0 <= self.weight_decay < np.inf:
            raise OptionError(f"weight_decay={self.weight_decay!r}: must be 0 or more.")
        check_positive(learning_rate=self.learning_rate, epochs=self.epochs, memory_limit=self.memory_limit)

    def _train(self, rows: Rows, labels: Labels, weights: Array) -> list[Array]:
        """Return weights and biases in turn, those of the best round; set ``n_iter_``."""
        rng, n = seeded(self.random_state), rows.shape[0]
        size = min(HELD_OUT_ROWS, round(n * HELD_OUT))
        held_out = stratified_part(labels.codes, size=size, rng=rng)
        index = np.setdiff1d(np.arange(n), held_out)
        layers = _initial_layers([rows.shape[1], *self.hidden, len(labels.classes)], rng)
        adam = Adam(layers, weight_decay=self.weight_decay * min(1.0, FULL_DECAY / n))
        per_pass = n_batches(len(index), BATCH_ROWS)
        steps = min(LONGEST_ROUND, per_pass * n_batches(ROUND_STEPS, per_pass))
        batches = self._batches(rows, index, rng)
        best, best_loss, best_round = [layer.copy() for layer in layers], np.inf, 0
        rounds = int(self.epochs) if len(held_out) else min(BLIND_ROUNDS, int(self.epochs))
        for self.n_iter_ in range(1, rounds + 1):
            for chosen, block in islice(batches, steps):
                gradients = _gradients(layers, block, labels.codes[chosen], weights[chosen])
                adam.step(gradients, learning_rate=self.learning_rate)
            if not len(held_out):
                continue
            loss = self._loss(layers, RowSubset(rows, held_out), labels.codes[held_out], weights[held_out])
            if loss < best_loss:
                best, best_loss, best_round = [layer.copy() for layer in layers], loss, self.n_iter_
            elif self.n_iter_ - best_round >= PATIENCE:
                break
        return best if len(held_out) else layers

    def _batches(self, rows: Rows, index: Array, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
        """Yield the batches of one pass after another, without end."""
        while True:
            yield from shuffled_batches(rows, index, rng=rng, batch_rows=BATCH_ROWS, memory_limit=self.memory_limit)

    def _loss(self, layers: Sequence[Array], rows: Rows, codes: Array, weights: Array) -> float:
        total = 0.0
        for start, block in iter_blocks(rows, block_bytes=block_within(self.memory_limit)):
            part = slice(start, start + len(block))
            total += cross_entropy(_forward(layers, block)[-1], codes[part], weights[part])[0]
        return total / len(codes)

    def _log_proba(self, block: Array) -> Array:
        layers = [layer for pair in zip(self.coefs_, self.intercepts_, strict=True) for layer in pair]
        return log_softmax(_forward(layers, block.astype(np.float64))[-1])

    def _learned(self) -> State:
        layers = [{"coef": c, "intercept": b} for c, b in zip(self.coefs_, self.intercepts_, strict=True)]
        return {"layers": layers, "n_iter": self.n_iter_, "streamed": self.streamed_}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.coefs_, self.intercepts_, width = [], [], self.n_features_in_
        for layer in state["layers"]:
            coef, intercept = take_arrays(layer, {"coef": "oi", "intercept": "o"}, i=width).values()
            self.coefs_.append(coef)
            self.intercepts_.append(intercept)
            width = len(coef)
        require(2 <= len(self.coefs_) <= 3 and width == len(self.classes_), "Its layers do not end in its classes.")
        self.n_iter_, self.streamed_ = int(state["n_iter"]), bool(state["streamed"])


def _initial_layers(widths: Sequence[int], rng: np.random.Generator) -> list[Array]:
    """Return weights and biases in turn; rows enter with a norm of about 1, so the first spread is not divided."""
    layers: list[Array] = []
    for depth, (into, out) in enumerate(pairwise(widths)):
        spread = np.sqrt(2.0 / (into if depth else 1))
        layers += [rng.normal(0, spread, (out, into)).astype(np.float32), np.zeros(out, dtype=np.float32)]
    return layers


def _forward(layers: Sequence[Array], block: Array) -> list[Array]:
    """Return the input of each layer, and the logits last."""
    values = [block]
    for coef, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        values.append(np.maximum(values[-1] @ coef.T + bias, 0))
    return [*values, values[-1] @ layers[-2].T + layers[-1]]


def _gradients(layers: Sequence[Array], block: Array, codes: Array, weights: Array) -> list[Array]:
    """Return the gradients of the batch's mean loss, in the order of ``layers``."""
    *inputs, logits = _forward(layers, block)
    _, slope = cross_entropy(logits, codes, weights)
    slope /= len(codes)
    gradients: list[Array] = []
    for depth in range(len(inputs) - 1, -1, -1):
        gradients = [slope.T @ inputs[depth], slope.sum(axis=0), *gradients]
        if depth:
            slope = (slope @ layers[2 * depth]) * (inputs[depth] > 0)
    return gradients
