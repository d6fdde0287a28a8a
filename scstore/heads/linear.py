"""Multinomial logistic regression, exact in memory and streamed beyond it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize
from sklearn.utils.validation import check_is_fitted

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
from scstore.heads.calibration import negative_log_likelihood
from scstore.heads.folds import stratified_part, stratified_sample
from scstore.heads.labels import Labels, encode_known_labels, encode_labels
from scstore.heads.rows import MEMORY_LIMIT, Array, Rows, RowSubset, fits, materialise
from scstore.heads.scaling import Scaling
from scstore.heads.softmax import cross_entropy, log_softmax
from scstore.heads.threads import in_threads, one_blas_thread

__all__ = ["LinearHead"]

MAX_ITERATIONS = 500
CHUNK = 4096
"""Rows of one product in the exact fit: so many go to a thread, and their logits are small beside the rows."""

BATCH_ROWS = 128
MIN_STEPS = 1000
LEARNING_RATE = 0.1

SOLVERS = ("auto", "exact", "stream")

PATH = (0.1, 1.0, 10.0, 100.0)
"""What ``C="auto"`` chooses from, weakest weights first: each fit starts from the one before."""

DEFAULT_C = 10.0
"""Where no cell can be held out to choose by."""

PATH_ROWS = 20_000
"""Cells that ``C="auto"`` is chosen on at most; a fifth of them is held out."""

PATH_HELD_OUT = 0.2

PARTIAL_RATE = 0.05

PARTIAL_STEPS = 100
"""Steps after which the rate of :meth:`LinearHead.partial_fit` begins to fall as one over their root."""


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
        Inverse strength of the penalty, or ``"auto"``: the one of 0.1, 1, 10, 100 that gives held-out cells the
        highest likelihood, found on at most 20,000 of the training cells.
    class_weight
        ``None``, ``"balanced"``, or a mapping of label to weight.
    solver
        ``"exact"``, ``"stream"``, or ``"auto"``: exact where the rows fit into ``memory_limit``.
    epochs
        Passes over rows that are streamed (more when that makes fewer than 1,000 steps).
    standardize
        Whether to scale the columns; ``False`` for rows that were scaled before.
    warm_start
        Whether :meth:`fit` starts from the weights of the fit before, class by class. The exact solution is the same,
        sooner; classes may have come or gone.
    memory_limit
        Bytes of float32 rows that training may hold; a bound for ``"exact"`` only where the solver is ``"auto"``.
    random_state
        Seed of the streamed order and of the cells held out for ``C="auto"``; the exact fit has no randomness.

    Attributes
    ----------
    classes_
        ``(n_classes,)`` labels, sorted.
    coef_
        ``(n_classes, d) float64`` weights for the rows as they are given.
    intercept_
        ``(n_classes,) float64``.
    mean_, scale_
        ``(d,) float64``: the scaling that is folded into the weights.
    n_features_in_
        d.
    C_
        The C that was used.
    solver_
        ``"exact"`` or ``"stream"``.
    n_iter_
        Iterations of L-BFGS, or passes of Adam.
    n_seen_
        Training rows seen, each counted once by :meth:`fit` and by every :meth:`partial_fit`.
    """

    coef_: Array
    intercept_: Array
    mean_: Array
    scale_: Array
    C_: float
    solver_: str
    n_iter_: int
    n_seen_: int
    _adam: Adam | None

    def __init__(
        self,
        C: float | str = DEFAULT_C,
        *,
        class_weight: Any = None,
        solver: str = "auto",
        epochs: int = 5,
        standardize: bool = True,
        warm_start: bool = False,
        memory_limit: int = MEMORY_LIMIT,
        random_state: Any = 0,
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.solver = solver
        self.epochs = epochs
        self.standardize = standardize
        self.warm_start = warm_start
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
        before = (self.classes_, self.coef_, self.intercept_) if self.warm_start and hasattr(self, "coef_") else None
        rows, labels = self._begin(X, y)
        weights = class_weights(self.class_weight, labels)
        scaling = choose_scaling(rows, standardize=self.standardize, memory_limit=self.memory_limit)
        scaled = scaling.over(rows)
        start = _start(labels.classes, rows.shape[1], before, scaling)
        self.solver_ = self.solver
        if self.solver == "auto":
            self.solver_ = "exact" if fits(rows, self.memory_limit) else "stream"
        with one_blas_thread():
            whole = materialise(scaled) if self.solver_ == "exact" else scaled
            self.C_ = self._choose_c(whole, labels, weights)
            penalty = 1 / (self.C_ * weights.sum())
            if isinstance(whole, np.ndarray):
                learned, self.n_iter_ = _fit_exact(whole, labels, weights, penalty=penalty, start=start)
            else:
                learned, self.n_iter_ = self._fit_streamed(whole, labels, weights, penalty=penalty, start=start)
        self._finish(learned, scaling)
        self.n_seen_, self._adam = rows.shape[0], None
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Learn from more cells in one pass, starting from what was learned: :meth:`fit`, or earlier calls.

        Adam in batches of 128, at a rate that falls with the cells seen so far. The columns' scaling stays that of
        the first cells. Old cells are not seen again: where there is time, fit all cells together with ``warm_start``.

        Parameters
        ----------
        X, y
            Rows ``(n, d)`` and labels ``(n,)``, in an order that says nothing (they are shuffled within the call).
        classes
            All labels there will ever be, on the first call of a head that was not fitted; those of ``y`` by default.

        Raises
        ------
        LabelsError
            If a label is none of the head's classes, or missing.
        CellsError, FeatureSpaceError, OptionError
            As :meth:`fit`.
        """
        self._check_options()
        if self.class_weight == "balanced":
            msg = (
                "class_weight='balanced': some cells do not tell the shares of all. Give partial_fit a weight by label."
            )
            raise OptionError(msg)
        fresh = not hasattr(self, "coef_")
        rows = self._rows(X, reset=fresh)
        if fresh:
            every = np.asarray(y if classes is None else classes)
            self.classes_ = encode_labels(every, len(every)).classes
        labels = encode_known_labels(y, rows.shape[0], self.classes_)
        weights = class_weights(self.class_weight, labels)
        with one_blas_thread():
            if fresh:
                scaling = choose_scaling(rows, standardize=self.standardize, memory_limit=self.memory_limit)
                coef, intercept = _start(self.classes_, rows.shape[1], None, scaling)
                self.C_ = DEFAULT_C if isinstance(self.C, str) else float(self.C)
                self.solver_, self.n_iter_, self.n_seen_, self._adam = "stream", 1, 0, None
            else:
                scaling = Scaling(self.mean_, self.scale_)
                coef, intercept = scaling.unfold(self.coef_, self.intercept_)
            if self._adam is None:
                self._adam = Adam([coef.astype(np.float32), intercept.astype(np.float32)])
            done = self.n_seen_ / BATCH_ROWS
            self.n_seen_ += rows.shape[0]
            penalty = 1 / (self.C_ * self.n_seen_ * weights.mean())
            self._pass(
                scaling.over(rows),
                labels,
                weights,
                self._adam,
                penalty=penalty,
                rng=np.random.default_rng([int(seeded(self.random_state).integers(2**31)), self.n_seen_]),
                rate=lambda step: PARTIAL_RATE / (1 + (done + step) / PARTIAL_STEPS) ** 0.5,
            )
        self._finish((self._adam.weights[0], self._adam.weights[1]), scaling)
        return self

    def training_note(self) -> str:
        """How the head was trained, in words."""
        if self.solver_ == "exact":
            return f"logistic regression, exact: {self.n_iter_} iterations over rows in memory, C = {self.C_:g}"
        return f"logistic regression, streamed: {self.n_iter_} passes over {self.n_seen_:,} cells, C = {self.C_:g}"

    def _check_options(self) -> None:
        check_positive(epochs=self.epochs, memory_limit=self.memory_limit)
        if self.C != "auto":
            if isinstance(self.C, str):
                msg = f"C={self.C!r}: must be a positive number or 'auto'."
                raise OptionError(msg)
            check_positive(C=self.C)
        if self.solver not in SOLVERS:
            msg = f"solver={self.solver!r}: must be one of {', '.join(SOLVERS)}."
            raise OptionError(msg)

    def _finish(self, learned: tuple[Array, Array], scaling: Scaling) -> None:
        self.coef_, self.intercept_ = scaling.fold(*learned)
        self.mean_, self.scale_ = scaling.mean, scaling.scale

    def _choose_c(self, rows: Rows, labels: Labels, weights: Array) -> float:
        """``C``, or for ``"auto"`` the best of the path on cells held out from a sample of scaled rows."""
        if not isinstance(self.C, str):
            return float(self.C)
        rng = seeded(self.random_state)
        room = max(1, min(PATH_ROWS, self.memory_limit // (4 * rows.shape[1])))
        sample = stratified_sample(labels.codes, size=min(room, rows.shape[0]), rng=rng)
        held_out = stratified_part(labels.codes[sample], size=round(len(sample) * PATH_HELD_OUT), rng=rng)
        if not len(held_out):
            return DEFAULT_C
        values = materialise(RowSubset(rows, sample))
        inside = np.setdiff1d(np.arange(len(sample)), held_out)
        train, test = sample[inside], sample[held_out]
        part = Labels(labels.classes, labels.codes[train])
        learned = _start(labels.classes, rows.shape[1], None, None)
        losses = []
        for C in PATH:
            penalty = 1 / (C * weights[train].sum())
            learned, _ = _fit_exact(values[inside], part, weights[train], penalty=penalty, start=learned)
            log_proba = log_softmax(values[held_out].astype(np.float64) @ learned[0].T + learned[1])
            losses.append(negative_log_likelihood(np.exp(log_proba), labels.codes[test]))
        return PATH[int(np.argmin(losses))]

    def decision_function(self, X: Any) -> Array:
        """Logits ``(n, n_classes)`` up to a constant per row; for two classes their difference ``(n,)``."""
        log_proba = self.predict_log_proba(X)
        return log_proba[:, 1] - log_proba[:, 0] if len(self.classes_) == 2 else log_proba

    def _log_proba(self, block: Array) -> Array:
        return log_softmax(block.astype(np.float64) @ self.coef_.T + self.intercept_)

    def _fit_streamed(
        self, rows: Rows, labels: Labels, weights: Array, *, penalty: float, start: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], int]:
        rng, per_pass = seeded(self.random_state), n_batches(rows.shape[0], BATCH_ROWS)
        passes = max(int(self.epochs), n_batches(MIN_STEPS, per_pass))
        adam = Adam([start[0].astype(np.float32), start[1].astype(np.float32)])
        for done in range(passes):

            def rate(step: int, done: int = done) -> float:
                return LEARNING_RATE * max(0.0, 1 - (done + step / per_pass) / passes)

            self._pass(rows, labels, weights, adam, penalty=penalty, rng=rng, rate=rate)
        return (adam.weights[0], adam.weights[1]), passes

    def _pass(
        self,
        rows: Rows,
        labels: Labels,
        weights: Array,
        adam: Adam,
        *,
        penalty: float,
        rng: np.random.Generator,
        rate: Callable[[int], float],
    ) -> None:
        """One pass of Adam over scaled rows; ``rate`` gives the learning rate of each of its steps."""
        (coef, intercept), mean_weight = adam.weights, weights.mean()
        batches = shuffled_batches(
            rows, np.arange(rows.shape[0]), rng=rng, batch_rows=BATCH_ROWS, memory_limit=self.memory_limit
        )
        for step, (index, block) in enumerate(batches):
            _, slope = cross_entropy(block @ coef.T + intercept, labels.codes[index], weights[index])
            slope /= len(index) * mean_weight
            gradients = [slope.T @ block + np.float32(penalty) * coef, slope.sum(axis=0)]
            adam.step(gradients, learning_rate=rate(step))

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, JSON]]:
        """The fitted head as arrays named after its attributes, and its parameters as JSON."""
        state = self._state()
        arrays = {"coef": self.coef_, "intercept": self.intercept_, "mean": self.mean_, "scale": self.scale_}
        return arrays, {
            **state,
            "C": float(self.C_),
            "solver": self.solver_,
            "n_iter": int(self.n_iter_),
            "n_seen": int(self.n_seen_),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], params: Mapping[str, JSON]) -> Self:
        """The fitted head from what :meth:`to_arrays` gave; :class:`DamagedError` where the two do not fit."""
        head = cls._restore(params)
        n_classes, width = len(head.classes_), head.n_features_in_
        head.coef_ = take_array(arrays, "coef", shape=(n_classes, width))
        head.intercept_ = take_array(arrays, "intercept", shape=(n_classes,))
        head.mean_ = take_array(arrays, "mean", shape=(width,))
        head.scale_ = take_array(arrays, "scale", shape=(width,))
        C, solver, n_iter, n_seen = (params.get(name) for name in ("C", "solver", "n_iter", "n_seen"))
        counted = all(isinstance(count, int) and count > 0 for count in (n_iter, n_seen))
        usable = isinstance(C, float) and C > 0 and counted and (head.scale_ > 0).all()
        if not usable or solver not in SOLVERS or C is None or n_iter is None or n_seen is None:
            msg = "LinearHead: its C, solver, n_iter, n_seen or scale make no sense. The head is damaged."
            raise DamagedError(msg)
        head.C_, head.solver_, head.n_iter_, head.n_seen_, head._adam = float(C), str(solver), n_iter, n_seen, None
        check_is_fitted(head)
        return head


def _start(
    classes: Array, width: int, before: tuple[Array, Array, Array] | None, scaling: Scaling | None
) -> tuple[Array, Array]:
    """Weights and intercepts for scaled rows to start from: zeros, or where a class had some before, those."""
    coef, intercept = np.zeros((len(classes), width)), np.zeros(len(classes))
    if before is None or scaling is None or before[1].shape[1] != width:
        return coef, intercept
    known, here, there = np.intersect1d(classes, before[0], return_indices=True)
    if len(known):
        coef[here], intercept[here] = scaling.unfold(before[1][there], before[2][there])
    return coef, intercept


def _fit_exact(
    rows: Array, labels: Labels, weights: Array, *, penalty: float, start: tuple[Array, Array]
) -> tuple[tuple[Array, Array], int]:
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

    options = {"maxiter": MAX_ITERATIONS, "gtol": 1e-5, "ftol": 1e-8}
    found = minimize(
        objective, np.concatenate([start[0].ravel(), start[1]]), jac=True, method="L-BFGS-B", options=options
    )
    theta = np.asarray(found.x)
    return (theta[:-n_classes].reshape(n_classes, width), theta[-n_classes:]), max(1, int(found.nit))
