"""Multinomial logistic regression, exact in memory and streamed beyond it; and several of them on expression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize

from scstore.heads.base import (
    RowClassifier,
    State,
    check_choice,
    check_positive,
    class_weights,
    require,
    seeded,
    take_arrays,
)
from scstore.heads.class_numbers import Labels, encode_groups, held_out_folds, stratified_sample
from scstore.heads.preprocessing import ExpressionReducer, few_share, fit_scaling, marker_count
from scstore.heads.rows import MEMORY_LIMIT, Array, MappedRows, Rows, RowSubset, fits, materialise, to_dense
from scstore.heads.scores import negative_log_likelihood
from scstore.heads.training import (
    Adam,
    cross_entropy,
    in_threads,
    log_softmax,
    n_batches,
    one_blas_thread,
    shuffled_batches,
)

MAX_ITERATIONS = 500
CHUNK = 4096  # rows of one product in the exact fit: so many go to a thread, and their logits are small beside the rows
BATCH_ROWS = 128
MIN_STEPS = 1000
LEARNING_RATE = 0.1
# Values that ``C="auto"`` tries, weakest weights first: each fit starts from the one before.
PATH = (0.1, 1.0, 10.0, 100.0)
DEFAULT_C = 10.0  # C where ``"auto"`` has no cell to hold out
PATH_ROWS, PATH_FOLDS = 20_000, 5  # cells on which ``C="auto"`` is chosen at most; a fifth of them is held out

EXPRESSION_C = 30.0
MARKER_C = 1 / 6  # C of the markers over that of all genes: 5, or scikit-learn's C of 0.05 on 100 standardised columns
MARKER_WEIGHT = 1 / 3  # weight of the markers' log-probabilities; the rest is that of all genes
AXES_C = 10 / 3  # C along the axes over that of all genes


@dataclass(eq=False, repr=False)
class LinearHead(RowClassifier):
    """Multinomial logistic regression on standardised columns, or on columns as they are.

    Minimises ``Σ wᵢ CEᵢ + ‖W‖² / 2C`` with the softmax, for two classes as
    well; the intercept is not penalised. Columns are standardised and divided by √d, so that rows have a norm of
    about 1 and one ``C`` suits narrow and wide views; the scaling is then folded into the weights. Rows that fit
    into ``memory_limit`` are fitted to convergence (L-BFGS [1]_); others are streamed (Adam [2]_ on shuffled runs of
    rows, learning rate falling to 0).

    Parameters
    ----------
    C
        Inverse strength of the penalty, or ``"auto"``: the one of 0.1, 1, 10, 100 that gives held-out cells the
        highest likelihood, found on at most 20,000 of the training cells.
    class_weight
        ``None``, ``"balanced"``, or a mapping of label to weight.
    epochs
        Passes over rows that are streamed (more when that makes fewer than 1,000 steps).
    memory_limit
        Bytes of float32 rows that training may hold; more are streamed.
    random_state
        Seed of the streamed order and of the cells held out for ``C="auto"``; the exact fit has no randomness.
    standardize
        Whether columns are standardised. Rows that have a length of one already are better left as they are.

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
    C_
        The C that was used.
    solver_
        ``"exact"`` or ``"stream"``.
    n_iter_
        Iterations of L-BFGS, or passes of Adam.

    References
    ----------
    .. [1] R. Byrd, P. Lu, J. Nocedal and C. Zhu, A limited memory algorithm for bound constrained optimization,
       SIAM J. Sci. Comput. 16 (1995).
    .. [2] D. Kingma and J. Ba, Adam: a method for stochastic optimization, ICLR 2015.
    """

    C: float | str = DEFAULT_C
    _: KW_ONLY
    class_weight: Any = None
    epochs: int = 5
    memory_limit: int = MEMORY_LIMIT
    random_state: Any = 0
    standardize: bool = True

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Learn from rows ``(n, d)`` and labels ``(n,)``; for ``C="auto"`` whole ``groups`` ``(n,)`` are held out.

        Raises
        ------
        LabelsError, CellsError, OptionError
            If the labels cannot be learned from, a value is not finite, or a parameter is out of its range.
        """
        self._check_options()
        rows, labels = self._begin(X, y)
        weights = class_weights(self.class_weight, labels)
        scaling = fit_scaling(rows, memory_limit=self.memory_limit, standardize=self.standardize)
        scaled: Rows = scaling.over(rows)
        self.solver_ = "exact" if fits(rows, self.memory_limit) else "stream"
        with one_blas_thread():
            scaled = materialise(scaled) if self.solver_ == "exact" else scaled
            self.C_ = self._choose_c(scaled, labels, weights, groups)
            penalty = 1 / (self.C_ * weights.sum())
            if isinstance(scaled, np.ndarray):
                theta, self.n_iter_ = _fit_exact(scaled, labels, weights, penalty=penalty)
                coef, intercept = _split(theta, len(labels.classes))
            else:
                coef, intercept, self.n_iter_ = self._fit_streamed(scaled, labels, weights, penalty=penalty)
        self.coef_, self.intercept_ = scaling.fold(coef, intercept)
        return self

    def training_note(self) -> str:
        """Return one line that says how the head was trained."""
        if self.solver_ == "exact":
            return f"logistic regression, exact: {self.n_iter_} iterations over rows in memory, C = {self.C_:g}"
        return f"logistic regression, streamed: {self.n_iter_} passes over the rows, C = {self.C_:g}"

    def _check_options(self) -> None:
        check_positive(epochs=self.epochs, memory_limit=self.memory_limit)
        if isinstance(self.C, str):
            check_choice("C", self.C, ("auto",))
        else:
            check_positive(C=self.C)

    def _choose_c(self, rows: Rows, labels: Labels, weights: Array, groups: Any) -> float:
        """Return ``C``, or for ``"auto"`` the best of the path on cells held out from a sample of scaled rows."""
        if not isinstance(self.C, str):
            return float(self.C)
        rng = seeded(self.random_state)
        room = max(1, min(PATH_ROWS, self.memory_limit // (4 * rows.shape[1])))
        sample = stratified_sample(labels.codes, size=min(room, rows.shape[0]), rng=rng)
        batches = None if groups is None else encode_groups(groups, len(labels.codes))[sample]
        folds = held_out_folds(labels.codes[sample], batches, n_folds=PATH_FOLDS, seed=int(rng.integers(2**31)))
        if not folds:
            return DEFAULT_C
        inside, held_out = folds[0]
        values, train, test = materialise(RowSubset(rows, sample)), sample[inside], sample[held_out]
        part, theta, losses = Labels(labels.classes, labels.codes[train]), None, []
        for C in PATH:
            penalty = 1 / (C * weights[train].sum())
            theta, _ = _fit_exact(values[inside], part, weights[train], penalty=penalty, start=theta)
            coef, intercept = _split(theta, len(labels.classes))
            log_proba = log_softmax(values[held_out].astype(np.float64) @ coef.T + intercept)
            losses.append(negative_log_likelihood(labels.codes[test], np.exp(log_proba)))
        return PATH[int(np.argmin(losses))]

    def _fit_streamed(self, rows: Rows, labels: Labels, weights: Array, *, penalty: float) -> tuple[Array, Array, int]:
        """Adam on the mean loss of scaled rows, its learning rate falling to 0."""
        every, rng, mean_weight = np.arange(rows.shape[0]), seeded(self.random_state), weights.mean()
        per_pass = n_batches(len(every), BATCH_ROWS)
        passes = max(int(self.epochs), n_batches(MIN_STEPS, per_pass))
        coef = np.zeros((len(labels.classes), rows.shape[1]), dtype=np.float32)
        intercept = np.zeros(len(labels.classes), dtype=np.float32)
        adam = Adam([coef, intercept])
        for done in range(passes):
            batches = shuffled_batches(rows, every, rng=rng, batch_rows=BATCH_ROWS, memory_limit=self.memory_limit)
            for step, (index, block) in enumerate(batches):
                _, slope = cross_entropy(block @ coef.T + intercept, labels.codes[index], weights[index])
                slope /= len(index) * mean_weight
                gradients = [slope.T @ block + np.float32(penalty) * coef, slope.sum(axis=0)]
                rate = LEARNING_RATE * max(0.0, 1 - (done + step / per_pass) / passes)
                adam.step(gradients, learning_rate=rate)
        return coef, intercept, passes

    def _log_proba(self, block: Array) -> Array:
        return log_softmax(block.astype(np.float64) @ self.coef_.T + self.intercept_)

    def _learned(self) -> State:
        return {name: getattr(self, f"{name}_") for name in ("coef", "intercept", "C", "solver", "n_iter")}

    def _load(self, state: Mapping[str, Any]) -> None:
        arrays = take_arrays(state, {"coef": "cd", "intercept": "c"}, c=len(self.classes_), d=self.n_features_in_)
        self.coef_, self.intercept_ = arrays.values()
        self.C_, self.solver_, self.n_iter_ = C, solver, n_iter = state["C"], state["solver"], state["n_iter"]
        sound = isinstance(C, float) and C > 0 and solver in ("exact", "stream")
        require(sound and isinstance(n_iter, int) and n_iter > 0, f"C={C!r}, solver={solver!r}, n_iter={n_iter!r}.")


def _split(theta: Array, n_classes: int) -> tuple[Array, Array]:
    """Return weights ``(n_classes, d)`` and intercepts ``(n_classes,)`` from one vector of all."""
    return theta[:-n_classes].reshape(n_classes, -1), theta[-n_classes:]


def _fit_exact(
    rows: Array, labels: Labels, weights: Array, *, penalty: float, start: Array | None = None
) -> tuple[Array, int]:
    """L-BFGS in float32 products and float64 steps, from ``start`` or zero: weights as one vector, and iterations."""
    n, width = rows.shape
    n_classes, total = len(labels.classes), weights.sum()
    parts = [slice(first, first + CHUNK) for first in range(0, n, CHUNK)]

    def objective(theta: Array) -> tuple[float, Array]:
        coef, intercept = _split(theta, n_classes)
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

    theta = np.zeros(n_classes * (width + 1)) if start is None else start
    options = {"maxiter": MAX_ITERATIONS, "gtol": 1e-5, "ftol": 1e-8}
    found = minimize(objective, theta, jac=True, method="L-BFGS-B", options=options)
    return found.x, max(1, int(found.nit))


@dataclass(eq=False, repr=False)
class ExpressionHead(RowClassifier):
    """Logistic regression on all genes of each cell at unit length, and on the standardised markers, averaged.

    They err on different cells. Unit length takes out a cell's depth; standardising lends weight to the markers of rare
    classes. Of the log-probabilities a third is the markers': benchmarks/transfer.py. ``C`` is that of the first, a
    sixth of it that of the second; or ``"auto"`` for both. The other parameters are as for :class:`LinearHead`.

    A third reads the genes that a reducer chose without labels, at unit length and along its axes: cells without labels
    show how genes vary together. Its weight ``share_`` falls with the labelled cells of a class.
    """

    C: float | str = EXPRESSION_C
    _: KW_ONLY
    class_weight: Any = None
    epochs: int = 5
    memory_limit: int = MEMORY_LIMIT
    random_state: Any = 0

    def fit(self, X: Any, y: Any, groups: Any = None, reducer: ExpressionReducer | None = None) -> Self:
        """Learn from log-normalised expression ``(n, d)`` and labels ``(n,)``; ``groups`` as for a linear head."""
        rows, _ = self._begin(X, y)
        options = {name: value for name, value in self.get_params().items() if name != "C"}
        fewer, more = (self.C if isinstance(self.C, str) else self.C * factor for factor in (MARKER_C, AXES_C))
        width = self._n_markers
        unit = MappedRows(rows, lambda block: unit_length(to_dense(block)), width=rows.shape[1])
        markers = MappedRows(rows, lambda block: to_dense(block)[:, :width], width=width)
        self.parts_ = {"genes": LinearHead(self.C, standardize=False, **options).fit(unit, y, groups)}
        self.parts_["markers"] = LinearHead(fewer, **options).fit(markers, y, groups)
        self.free_, self.share_ = np.zeros(0, dtype=np.int64), 0.0
        if reducer is not None and len(reducer.free):
            self.free_, self.share_ = free, _ = reducer.free, few_share(rows.shape[0], len(self.classes_))
            axes = reducer.axes[:, free].astype(np.float32)
            along = MappedRows(rows, lambda block: unit_length(to_dense(block)[:, free]) @ axes.T, width=len(axes))
            self.parts_["label-free"] = head = LinearHead(more, standardize=False, **options).fit(along, y, groups)
            head.coef_, head.n_features_in_ = head.coef_ @ axes, len(free)
        return self

    @property
    def _n_markers(self) -> int:
        return min(marker_count(len(self.classes_)), self.n_features_in_)

    def _weighted(self) -> Iterator[tuple[float, Any, LinearHead]]:
        """Yield of each regression its weight, the genes that it reads, and itself."""
        rest, genes = 1 - self.share_, (slice(None), slice(self._n_markers), self.free_)
        weights = rest * (1 - MARKER_WEIGHT), rest * MARKER_WEIGHT, self.share_
        return zip(weights, genes, self.parts_.values(), strict=False)

    def training_note(self) -> str:
        """Return one line that says how the head was trained."""
        return "; ".join(f"{part.n_features_in_} {name}: {part.training_note()}" for name, part in self.parts_.items())

    def _log_proba(self, block: Array) -> Array:
        total = np.zeros((len(block), len(self.classes_)))
        for weight, genes, head in self._weighted():
            values = block[:, genes]
            total += weight * head.predict_log_proba(values if head is self.parts_["markers"] else unit_length(values))
        return log_softmax(total)

    def importance(self, scale: Array) -> Array:
        """Return how much labels depend on each gene, ``(d,)``: mean absolute weights times the spread ``scale``."""
        total = np.zeros(self.n_features_in_)
        for weight, genes, head in self._weighted():
            mean = np.abs(head.coef_).mean(axis=0) * scale[genes]
            total[genes] += weight * mean / max(float(mean.sum()), np.finfo(np.float64).tiny)
        return total

    def weights(self, scale: Array) -> Array:
        """Return how much a spread ``scale`` of each gene speaks for each class, ``(n_classes, d)``, 1 at most."""
        total = np.zeros((len(self.classes_), self.n_features_in_))
        for weight, genes, head in self._weighted():
            part = head.coef_ * scale[genes]
            total[:, genes] += weight * part / max(float(np.abs(part).max()), np.finfo(np.float64).tiny)
        return total

    def _learned(self) -> State:
        parts = {name: head.to_state() for name, head in self.parts_.items()}
        return {**parts, "free": self.free_, "share": self.share_}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.free_ = free = take_arrays(state, {"free": "f"}, integers=("free",))["free"]
        self.share_ = float(state["share"])
        widths = {"genes": self.n_features_in_, "markers": self._n_markers, "label-free": len(free)}
        self.parts_ = {name: LinearHead.from_state(state[name]) for name, width in widths.items() if width}
        parts = [(part.n_features_in_, part.classes_.tolist()) for part in self.parts_.values()]
        same = parts == [(width, self.classes_.tolist()) for width in widths.values() if width]
        fits = same and 0 <= self.share_ < 1 and np.isin(free, np.arange(self.n_features_in_)).all()
        require(fits, "ExpressionHead: its regressions have other classes or genes.")


def unit_length(values: Array) -> Array:
    """Return rows ``(b, d) float32`` divided by their lengths; rows of zeros as they are."""
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    return (values / np.where(lengths > 0, lengths, 1.0)[:, None]).astype(np.float32)
