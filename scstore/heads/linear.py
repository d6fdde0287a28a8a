"""Multinomial logistic regression, exact in memory and streamed beyond it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize
from sklearn.utils.validation import check_is_fitted

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
from scstore.heads.labels import Labels
from scstore.heads.rows import MEMORY_LIMIT, Array, Rows, fits, materialise
from scstore.heads.softmax import cross_entropy, log_softmax
from scstore.heads.threads import in_threads, one_blas_thread

__all__ = ["LinearHead"]

MAX_ITERATIONS = 500
CHUNK = 4096
"""Rows of one product in the exact fit: so many go to a thread, and their logits are small beside the rows."""

BATCH_ROWS = 128
MIN_STEPS = 200
LEARNING_RATE = 0.05


class LinearHead(RowClassifier):
    r"""Multinomial logistic regression on standardised columns.

    Minimises :math:`\sum_i w_i \, \mathrm{CE}_i + \lVert W \rVert^2 / 2C` with the softmax, for two classes as
    well; the intercept is not penalised. Columns are standardised and divided by √d, so that rows have a norm of
    about 1 and one ``C`` suits narrow and wide views; the scaling is then folded into the weights. Rows that fit
    into ``memory_limit`` are fitted to convergence (L-BFGS); others are streamed (Adam on shuffled runs of rows,
    learning rate falling to 0).

    Parameters
    ----------
    C
        Inverse strength of the penalty.
    class_weight
        ``None``, ``"balanced"``, or a mapping of label to weight.
    epochs
        Passes over rows that are streamed (more when that makes fewer than 200 steps).
    standardize
        Whether to scale the columns; ``False`` for rows that were scaled before.
    memory_limit
        Bytes of float32 rows that training may hold.
    random_state
        Seed of the streamed order; the exact fit has no randomness.

    Attributes
    ----------
    classes_
        ``(n_classes,)`` labels, sorted.
    coef_
        ``(n_classes, d) float64`` weights for the rows as they are given.
    intercept_
        ``(n_classes,) float64``.
    n_features_in_
        d.
    n_iter_
        Iterations of L-BFGS, or passes of Adam.
    """

    coef_: Array
    intercept_: Array
    n_iter_: int

    def __init__(
        self,
        C: float = 10.0,
        *,
        class_weight: Any = None,
        epochs: int = 5,
        standardize: bool = True,
        memory_limit: int = MEMORY_LIMIT,
        random_state: Any = 0,
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.epochs = epochs
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
        check_positive(C=self.C, epochs=self.epochs, memory_limit=self.memory_limit)
        rows, labels = self._begin(X, y)
        weights = class_weights(self.class_weight, labels)
        scaling = choose_scaling(rows, standardize=self.standardize, memory_limit=self.memory_limit)
        scaled = scaling.over(rows)
        penalty = 1 / (self.C * weights.sum())
        with one_blas_thread():
            if fits(rows, self.memory_limit):
                learned, self.n_iter_ = _fit_exact(materialise(scaled), labels, weights, penalty=penalty)
            else:
                learned, self.n_iter_ = self._fit_streamed(scaled, labels, weights, penalty=penalty)
            self.coef_, self.intercept_ = scaling.fold(*learned)
        return self

    def decision_function(self, X: Any) -> Array:
        """Logits ``(n, n_classes)`` up to a constant per row; for two classes their difference ``(n,)``."""
        log_proba = self.predict_log_proba(X)
        return log_proba[:, 1] - log_proba[:, 0] if len(self.classes_) == 2 else log_proba

    def _log_proba(self, block: Array) -> Array:
        return log_softmax(block.astype(np.float64) @ self.coef_.T + self.intercept_)

    def _fit_streamed(
        self, rows: Rows, labels: Labels, weights: Array, *, penalty: float
    ) -> tuple[tuple[Array, Array], int]:
        rng, n = seeded(self.random_state), rows.shape[0]
        per_pass = n_batches(n, BATCH_ROWS)
        passes = max(int(self.epochs), n_batches(MIN_STEPS, per_pass))
        coef = np.zeros((len(labels.classes), rows.shape[1]), dtype=np.float32)
        intercept = np.zeros(len(labels.classes), dtype=np.float32)
        adam, mean_weight = Adam([coef, intercept]), weights.mean()
        for _ in range(passes):
            for index, block in shuffled_batches(
                rows, np.arange(n), rng=rng, batch_rows=BATCH_ROWS, memory_limit=self.memory_limit
            ):
                _, slope = cross_entropy(block @ coef.T + intercept, labels.codes[index], weights[index])
                slope /= len(index) * mean_weight
                rate = LEARNING_RATE * max(0.0, 1 - adam.steps / (passes * per_pass))
                adam.step([slope.T @ block + np.float32(penalty) * coef, slope.sum(axis=0)], learning_rate=rate)
        return (coef, intercept), passes

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, JSON]]:
        """The fitted head as ``coef`` and ``intercept``, and its parameters as JSON."""
        state = self._state()
        return {"coef": self.coef_, "intercept": self.intercept_}, {**state, "n_iter": int(self.n_iter_)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], params: Mapping[str, JSON]) -> Self:
        """The fitted head from what :meth:`to_arrays` gave; :class:`DamagedError` where the two do not fit."""
        head = cls._restore(params)
        n_classes = len(head.classes_)
        head.coef_ = take_array(arrays, "coef", shape=(n_classes, head.n_features_in_))
        head.intercept_ = take_array(arrays, "intercept", shape=(n_classes,))
        head.n_iter_ = int(params.get("n_iter", 0))
        check_is_fitted(head)
        return head


def _fit_exact(rows: Array, labels: Labels, weights: Array, *, penalty: float) -> tuple[tuple[Array, Array], int]:
    """L-BFGS on the mean loss; products in float32, sums and steps in float64."""
    n, width = rows.shape
    n_classes, total = len(labels.classes), weights.sum()

    parts = [slice(first, first + CHUNK) for first in range(0, n, CHUNK)]

    def objective(theta: Array) -> tuple[float, Array]:
        coef, intercept = theta[:-n_classes].reshape(n_classes, width), theta[-n_classes:]
        coef32, intercept32 = coef.astype(np.float32), intercept.astype(np.float32)

        def partial(part: slice) -> tuple[float, Array, Array]:
            loss, errors = cross_entropy(rows[part] @ coef32.T + intercept32, labels.codes[part], weights[part])
            return loss, errors.T @ rows[part], errors.sum(axis=0, dtype=np.float64)

        loss, slope, bias_slope = 0.0, np.zeros_like(coef), np.zeros(n_classes)
        for part_loss, part_slope, part_bias_slope in in_threads(partial, parts):
            loss += part_loss
            slope += part_slope
            bias_slope += part_bias_slope
        value = loss / total + 0.5 * penalty * float(np.vdot(coef, coef))
        return value, np.concatenate([(slope / total + penalty * coef).ravel(), bias_slope / total])

    start = np.zeros(n_classes * (width + 1))
    options = {"maxiter": MAX_ITERATIONS, "gtol": 1e-5, "ftol": 1e-8}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    theta = np.asarray(found.x)
    return (theta[:-n_classes].reshape(n_classes, width), theta[-n_classes:]), max(1, int(found.nit))
