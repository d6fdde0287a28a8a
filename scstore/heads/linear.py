"""Multinomial logistic regression, exact in memory and streamed beyond it; and several of them on expression."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize

from scstore.cluster import Held, cluster_in_use
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
from scstore.heads.preprocessing import ExpressionReducer, Scaling, few_share, fit_scaling, marker_count
from scstore.heads.rows import (
    MEMORY_LIMIT,
    Array,
    MappedRows,
    Rows,
    RowSubset,
    fits,
    is_spread,
    materialise,
    read,
    to_dense,
    with_arrays,
)
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

# On a cluster: the share of the workers' memory that rows may take, others being read in each iteration; and what is
# added to the variances of a sample, as a share of their mean, before the weights are sought in its whitened space.
HELD, RIDGE = 0.4, 1e-4

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
    rows, learning rate falling to 0), or where a cluster is in use fitted to convergence there: its workers sum the
    gradient over parts of the rows.

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
        ``"exact"``, ``"stream"`` or ``"cluster"``.
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
        many = "cluster" if is_spread(rows, self.memory_limit) else "stream"
        self.solver_ = "exact" if fits(rows, self.memory_limit) else many
        with one_blas_thread():
            scaled = materialise(scaled) if self.solver_ == "exact" else scaled
            self.C_ = self._choose_c(scaled, labels, weights, groups)
            penalty = 1 / (self.C_ * weights.sum())
            if isinstance(scaled, np.ndarray):
                coef, intercept, self.n_iter_ = _fit_exact(scaled, labels, weights, penalty=penalty)
            elif self.solver_ == "cluster":
                coef, intercept, self.n_iter_ = self._fit_spread(rows, scaling, labels, weights, penalty=penalty)
            else:
                coef, intercept, self.n_iter_ = self._fit_streamed(scaled, labels, weights, penalty=penalty)
        self.coef_, self.intercept_ = scaling.fold(coef, intercept)
        return self

    def training_note(self) -> str:
        """Return one line that says how the head was trained."""
        if self.solver_ == "exact":
            return f"logistic regression, exact: {self.n_iter_} iterations over rows in memory, C = {self.C_:g}"
        if self.solver_ == "cluster":
            return f"logistic regression, on a cluster: {self.n_iter_} iterations over the rows, C = {self.C_:g}"
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
        sample = self._sample(labels, rows, rng)
        batches = None if groups is None else encode_groups(groups, len(labels.codes))[sample]
        folds = held_out_folds(labels.codes[sample], batches, n_folds=PATH_FOLDS, seed=int(rng.integers(2**31)))
        if not folds:
            return DEFAULT_C
        inside, held_out = folds[0]
        values, train, test = materialise(RowSubset(rows, sample)), sample[inside], sample[held_out]
        part, start, losses = Labels(labels.classes, labels.codes[train]), None, []
        for C in PATH:
            penalty = 1 / (C * weights[train].sum())
            coef, intercept, _ = _fit_exact(values[inside], part, weights[train], penalty=penalty, start=start)
            start = coef, intercept
            log_proba = log_softmax(values[held_out].astype(np.float64) @ coef.T + intercept)
            losses.append(negative_log_likelihood(labels.codes[test], np.exp(log_proba)))
        return PATH[int(np.argmin(losses))]

    def _sample(self, labels: Labels, rows: Rows, rng: np.random.Generator) -> Array:
        """Return rows, as many of each class as its share asks for, that fit into memory."""
        room = max(1, min(PATH_ROWS, self.memory_limit // (4 * rows.shape[1])))
        return stratified_sample(labels.codes, size=min(room, rows.shape[0]), rng=rng)

    def _fit_spread(
        self, rows: Rows, scaling: Scaling, labels: Labels, weights: Array, *, penalty: float
    ) -> tuple[Array, Array, int]:
        """L-BFGS over parts on a cluster, from the weights of a sample, in the space that whitens it."""
        sample = self._sample(labels, rows, seeded(self.random_state))
        values = materialise(RowSubset(scaling.over(rows), sample))
        own = Labels(labels.classes, labels.codes[sample]), weights[sample]
        coef, intercept, _ = _fit_exact(values, *own, penalty=1 / (self.C_ * own[1].sum()))
        spread = (values.T @ values).astype(np.float64) / len(values)
        spread[np.diag_indices_from(spread)] += RIDGE * max(np.trace(spread) / len(spread), np.finfo(float).tiny)
        cluster, row_bytes = cluster_in_use(), rows[np.arange(1)].nbytes
        keep = cluster is not None and row_bytes * rows.shape[0] <= HELD * cluster.memory
        held = Held.make(partial(_held, keep), with_arrays(rows, labels.codes, weights))

        def sums(*theta: Array) -> Sums:
            return held.map(_sums_of_part, (scaling, *theta)).total(_added)

        return _minimise(sums, (coef, intercept), weights.sum(), penalty=penalty, root=cholesky(spread, lower=True))

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
        sound = isinstance(C, float) and C > 0 and solver in ("exact", "stream", "cluster")
        require(sound and isinstance(n_iter, int) and n_iter > 0, f"C={C!r}, solver={solver!r}, n_iter={n_iter!r}.")


Sums = tuple[float, Array, Array]  # loss, and its slopes for weights ``(n_classes, d)`` and intercepts ``(n_classes,)``


def _fit_exact(
    rows: Array, labels: Labels, weights: Array, *, penalty: float, start: tuple[Array, Array] | None = None
) -> tuple[Array, Array, int]:
    """L-BFGS over rows in memory, from ``start`` or zero: weights, intercepts, and the number of iterations."""
    n, width = rows.shape
    n_classes = len(labels.classes)
    pieces = [slice(first, first + CHUNK) for first in range(0, n, CHUNK)]

    def sums(*theta: Array) -> Sums:
        return _added(in_threads(lambda one: _sums(rows[one], labels.codes[one], weights[one], *theta), pieces))

    start = start or (np.zeros((n_classes, width)), np.zeros(n_classes))
    return _minimise(sums, start, weights.sum(), penalty=penalty)


def _minimise(
    sums: Callable[[Array, Array], Sums],
    start: tuple[Array, Array],
    total: float,
    *,
    penalty: float,
    root: Array | None = None,
) -> tuple[Array, Array, int]:
    """L-BFGS in float64 steps, where ``root`` is given of weights times it, the Cholesky factor of the rows' spread."""
    n_classes = len(start[1])

    def weights_of(theta: Array) -> tuple[Array, Array]:
        coef = theta[:-n_classes].reshape(n_classes, -1)
        return coef if root is None else solve_triangular(root, coef.T, lower=True, trans="T").T, theta[-n_classes:]

    def objective(theta: Array) -> tuple[float, Array]:
        coef, intercept = weights_of(theta)
        loss, slope, bias_slope = sums(coef.astype(np.float32), intercept.astype(np.float32))
        slope = slope / total + penalty * coef
        slope = slope if root is None else solve_triangular(root, slope.T, lower=True).T
        value = loss / total + 0.5 * penalty * float(np.vdot(coef, coef))
        return value, np.concatenate([slope.ravel(), bias_slope / total])

    first = start[0] if root is None else start[0] @ root
    options = {"maxiter": MAX_ITERATIONS, "gtol": 1e-5, "ftol": 1e-8}
    theta = np.concatenate([first.ravel(), start[1]])
    found = minimize(objective, theta, jac=True, method="L-BFGS-B", options=options)
    return *weights_of(found.x), max(1, int(found.nit))


def _sums(block: Array, codes: Array, weights: Array, coef: Array, intercept: Array) -> Sums:
    loss, errors = cross_entropy(block @ coef.T + intercept, codes, weights)
    return loss, errors.T @ block, errors.sum(axis=0, dtype=np.float64)


def _added(parts: Iterable[Sums]) -> Sums:
    loss, slope, bias_slope = 0.0, np.zeros(()), np.zeros(())
    for part_loss, part_slope, part_bias_slope in parts:
        loss += part_loss
        slope = slope + part_slope
        bias_slope = bias_slope + part_bias_slope
    return loss, slope, bias_slope


def _held(keep: bool, part: tuple[Rows, Array, Array]) -> tuple[Any, Array, Array]:  # noqa: FBT001
    rows, codes, weights = part
    return rows[np.arange(rows.shape[0])] if keep else rows, codes, weights


def _sums_of_part(part: tuple[Any, Array, Array], argument: tuple[Scaling, Array, Array]) -> Sums:
    """Return the sums over a part of the rows, which are scaled on their way."""
    (rows, codes, weights), (scaling, coef, intercept) = part, argument
    pieces = (slice(first, first + CHUNK) for first in range(0, len(codes), CHUNK))
    with one_blas_thread():
        return _added(
            _sums(scaling.apply(read(rows, one)), codes[one], weights[one], coef, intercept) for one in pieces
        )


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
