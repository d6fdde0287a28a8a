"""The head for cells measured on other genes than the training cells.

Expression cannot be compared where no gene is in common. Weighted means of the genes' text vectors can be; but the two
sides' means are shifted against each other, in ways that depend on each side's genes. What remains is a weak guess for
each cell. The new cells' own expression says more clearly which of them belong together, though not what they are. A
Gaussian mixture with one component per class joins both: it starts at the guess of the texts, and its classes must be
groups in the texts' space *and* in the principal components of the new cells' expression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import logsumexp
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize
from sklearn.utils.sparsefuncs import mean_variance_axis

from scstore.errors import CellsError, LabelsError, OptionError
from scstore.heads.base import JSON, DescribedHead, State, loading, require, take_arrays
from scstore.heads.calibration import Fusion, fit_temperature
from scstore.heads.class_numbers import encode_groups, encode_labels, held_out_folds, stratified_sample
from scstore.heads.missing_genes import HeldOutCase, MissingCase, MissingGenes, measured_cases
from scstore.heads.rejection import KEEP, ConfidenceRejection, check_keep
from scstore.heads.rows import Array, Rows, fetch, iter_raw_blocks
from scstore.heads.scores import held_out_scores, widened
from scstore.heads.training import log_softmax

KIND = "across-genes"  # name of the head among the others
SAMPLE = 20_000  # cells that the mixture is fitted to, at most
HELD_OUT = 2_500  # cells that are held out, at most
GROUP_FOLDS = 5  # parts that groups are held out in, at most
# How often the genes are dealt to the two sides: by chance one deal does far better or worse than the next.
DEALS = 3
TAKEN = (0.5, 0.9, 0.97)  # shares of the new side's genes that are taken away as well: new cells may have few
AGREEING_CELLS, SPLITS = 1_000, 4  # cells that the halves of the genes are compared on, and how often these are drawn
NOT_LEARNED = -1e4  # log-probability, before temperatures of up to 50, of a class that the other groups do not have
MIN_CELLS = 50  # fewest new cells that can form groups
# Shrinkage of the covariance within classes towards a sphere: two sets of genes differ in their strong directions.
SHRINKAGE = 0.9
MAX_AXES = 256
TEMPER = 20.0  # divisor of the texts' log-likelihood: its hundreds of dimensions are far from independent
ANCHOR = 50.0  # cells' worth of trust in a class's mean among the training cells, against what the new cells say
SHARE_CELLS = 20.0  # cells' worth of trust in equal shares of the classes
N_ITERATIONS = 30
N_COMPONENTS = 20
VARIABLE_GENES = 500
COMPONENT_SHRINKAGE = 0.1
TINY = 1e-30


class AcrossGenesHead(DescribedHead):
    """Labels cells by what their genes' texts say and by the groups they form, whatever genes were measured.

    Training cells give each class a mean in the space of gene texts (GenePT-w [1]_). A Gaussian mixture is fitted to
    all new cells together, without labels: it is transductive, and a cell's label may change with the cells beside it.
    Gene vectors enter centred and with length one.

    Parameters
    ----------
    keep
        Fraction of the correctly labelled held-out cells that keep their label.
    random_state
        Seed of the samples and of the held-out genes.

    Attributes
    ----------
    classes_
        ``(n_classes,)`` labels, sorted.
    temperature_
        Calibrates the probabilities; fitted on cells held out *and* on genes held out.
    held_out_
        ``n``, ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``nll``, ``ece`` and ``coverage_95`` of cells on genes
        that the training side did not have: half of the cells, or whole groups, and half of the genes in turn.
    confidence_
        ``(m,)`` calibrated probabilities of the held-out cells that were labelled correctly, ascending.
    cases_
        What held-out cells showed with ever fewer of these genes, by :func:`text_agreement`; None if none was right.
    held_out_codes_, held_out_proba_
        ``(6n,)`` classes and ``(6n, n_classes)`` calibrated probabilities of the held-out cells; not saved.

    References
    ----------
    .. [1] Y. Chen and J. Zou, GenePT: a simple but effective foundation model for genes and cells built from ChatGPT,
       bioRxiv 2023.
    """

    record_: dict[str, JSON]
    kind = KIND
    hierarchy_ = None  # coarser levels of the labels: it has none
    views_: tuple[str, ...] = ("X",)  # views that a prediction needs

    def __init__(self, *, keep: float = KEEP, random_state: int = 0) -> None:
        self.keep = check_keep(keep)
        self.random_state = random_state
        self.files_: dict[str, Path] = {}

    @property
    def rejection_(self) -> ConfidenceRejection | None:
        """Thresholds; None where no held-out cell was labelled correctly."""
        sure, far = self.confidence_, np.full(len(self.confidence_), np.inf)  # across genes distances mean nothing
        return ConfidenceRejection(confidence=sure, novelty=far, keep=self.keep, sure=1.0) if len(sure) else None

    def fit(self, expression: Rows, y: Any, *, vectors: Array, centre: Array, groups: Any = None) -> Self:
        """Learn from labelled cells.

        Parameters
        ----------
        expression
            ``(n, n_genes)`` CSR rows, log-normalised.
        y
            ``(n,)`` labels.
        vectors
            ``(n_genes, d) float32`` vectors of the genes' texts.
        centre
            ``(d,)`` mean of all vectors of the gene table.
        groups
            ``(n,)`` donors or laboratories, which are held out as a whole; random cells are without.

        Raises
        ------
        LabelsError
            If there are fewer than two labels or groups, or too few cells to hold some out.
        """
        labels = encode_labels(y, expression.shape[0])
        numbers = None if groups is None else encode_groups(groups, expression.shape[0])
        self.classes_ = labels.classes
        self._centre = np.asarray(centre, dtype=np.float64)
        units = self._units(vectors)
        self._profiles = _learn(expression, labels.codes, units)
        self._calibrate(expression, labels.codes, units, numbers)
        return self

    def for_cells(self, expression: Rows, *, vectors: Array) -> tuple[Self, MissingCase | None]:
        """Return the head for new cells, and what held-out cells showed where gene texts agreed as little about them.

        The head has their temperature and thresholds. Takes what :meth:`predict_proba` does. No case where no held-out
        cell was labelled correctly.
        """
        if self.cases_ is None:
            return self, None
        units, rng = self._units(vectors, n_cells=expression.shape[0]), np.random.default_rng(self.random_state)
        some = np.sort(rng.permutation(expression.shape[0])[:AGREEING_CELLS])
        agreement = text_agreement(self._profiles, csr_matrix(fetch(expression, some)), units, rng)
        case, head = self.cases_.at(agreement), copy(self)
        head.temperature_, head.confidence_ = case.temperature, np.sort(case.confidence)
        return head, case

    def predict_proba(self, expression: Rows, *, vectors: Array) -> Array:
        """Return probabilities ``(n, n_classes) float64`` of new cells, labelled together.

        Parameters
        ----------
        expression
            ``(n, n_genes)`` CSR rows, log-normalised, of any genes.
        vectors
            ``(n_genes, d) float32`` vectors of those genes' texts, by the same encoder as for the training cells.

        Raises
        ------
        CellsError
            If there are too few cells to form groups.
        """
        proba = self.fit_cells(expression, vectors=vectors)
        return np.concatenate([proba(block) for _, block in iter_raw_blocks(expression)])

    def fit_cells(self, expression: Rows, *, vectors: Array) -> Callable[[csr_matrix], Array]:
        """Return the function from some of the new cells to their probabilities; takes what ``predict_proba`` does."""
        units = self._units(vectors, n_cells=expression.shape[0])
        log_proba = self._fit_mixture(self._profiles, expression, units)
        return lambda block: np.exp(log_softmax(log_proba(block) / self.temperature_))

    def _units(self, vectors: Array, *, n_cells: int = MIN_CELLS) -> Array:
        """Return centred gene vectors of length one; refuse those of another encoder, and too few cells."""
        if n_cells < MIN_CELLS:
            few = f"{n_cells} cells: head={KIND!r} labels groups of {MIN_CELLS} cells or more."
            raise CellsError(f"{few} Give all cells.")
        if vectors.shape[1] != len(self._centre):
            raise OptionError(f"vectors: {vectors.shape[1]} wide, not {len(self._centre)}. Use the same text encoder.")
        return np.asarray(normalize(vectors - self._centre.astype(np.float32)))

    def _fit_mixture(self, profiles: ClassProfiles, expression: Rows, units: Array) -> Callable[[csr_matrix], Array]:
        """Fit the mixture to new cells; return the function from their expression to log-probabilities."""
        n = expression.shape[0]
        rng = np.random.default_rng(self.random_state)
        some = np.sort(rng.choice(n, SAMPLE, replace=False)) if n > SAMPLE else np.arange(n)
        sample = csr_matrix(fetch(expression, some))
        components = expression_components(sample)
        mixture = fit_mixture(profiles, _means(sample, units), components(sample))
        return lambda block: mixture(_means(block, units), components(block))

    def _calibrate(self, expression: Rows, codes: Array, units: Array, groups: Array | None) -> None:
        """Label held-out cells, or whole groups in turn, by heads of the other cells on the other half of the genes."""
        rng = np.random.default_rng(self.random_state)
        some = stratified_sample(codes, size=HELD_OUT, rng=rng) if len(codes) > HELD_OUT else np.arange(len(codes))
        sample, truth = csr_matrix(fetch(expression, some)), codes[some]
        whole, n_folds = (None, 2) if groups is None else (groups[some], GROUP_FOLDS)
        deals = [rng.permutation(sample.shape[1]) for _ in range(DEALS)]
        halves = [(np.sort(dealt[::2]), np.sort(dealt[1::2])) for dealt in deals]
        found, true = [], []
        for outside, inside in held_out_folds(truth, whole, n_folds=n_folds, seed=self.random_state):
            learned = np.unique(truth[outside])
            if len(inside) < MIN_CELLS:
                continue
            numbers = np.searchsorted(learned, truth[outside])
            for known, new in (sides for pair in halves for sides in (pair, pair[::-1])):
                profiles = _learn(sample[outside][:, known], numbers, units[known])
                found.append(list(self._cases(profiles, sample[inside][:, new], units[new], learned, rng)))
                true.append(truth[inside])
        if len(found) < 4 * DEALS:  # two folds
            few = f"{2 * MIN_CELLS} or more, two of each label, in two groups if there are groups"
            raise LabelsError(f"{len(codes)} labelled cells are too few to hold some out: give {few}.")
        cases, held_out = [HeldOutCase.join(parts) for parts in zip(*found, strict=True)], np.concatenate(true)
        self.temperature_ = fit_temperature(cases[0].log_proba, held_out)
        proba = np.exp(log_softmax(cases[0].log_proba / self.temperature_))
        self.held_out_ = held_out_scores(held_out, proba)
        self.held_out_codes_, self.held_out_proba_ = held_out, proba
        self.confidence_ = np.sort(proba.max(axis=1)[proba.argmax(axis=1) == held_out])
        n_classes = len(self.classes_)
        plain = Fusion(np.ones(n_classes), prior_adjustment=0.0, temperatures=(1.0,), temperature=1.0)
        self.cases_ = MissingGenes.fit(cases, held_out, plain, units=np.ones(n_classes))

    def _cases(
        self, profiles: ClassProfiles, cells: csr_matrix, units: Array, learned: Array, rng: np.random.Generator
    ) -> Iterator[HeldOutCase]:
        """Label held-out cells on all of their genes and on some; of distances nothing is known."""
        for measured in measured_cases(np.asarray(cells.mean(axis=0)).ravel(), rng, TAKEN):
            some, vectors = cells[:, measured], units[measured]
            log_proba = self._fit_mixture(profiles, some, vectors)(some)
            wide = widened(log_proba, learned, len(self.classes_), least=NOT_LEARNED)
            few = some[np.sort(rng.permutation(some.shape[0])[:AGREEING_CELLS])]
            yield HeldOutCase(text_agreement(profiles, few, vectors, rng), wide, np.zeros(some.shape[0]))

    def to_state(self) -> State:
        """Return the fitted head as nested JSON values and arrays; :meth:`from_state` takes them back."""
        profiles, classes = vars(self._profiles), self.classes_.tolist()
        state: State = {"kind": KIND, "classes": classes, "centre": self._centre, "profiles": profiles}
        state |= {"confidence": self.confidence_, "temperature": self.temperature_, "held_out": self.held_out_}
        state["cases"] = None if self.cases_ is None else self.cases_.to_state()
        return state | {"keep": self.keep, "random_state": self.random_state}

    @classmethod
    @loading()
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the fitted head; :class:`DamagedError` where its parts do not fit together."""
        head = cls(keep=float(state["keep"]), random_state=int(state["random_state"]))
        head.classes_ = np.array([str(label) for label in state["classes"]])
        head.temperature_, head.held_out_ = float(state["temperature"]), dict(state["held_out"])
        head._centre, head.confidence_ = take_arrays(state, {"centre": "d", "confidence": "m"}).values()
        saved, cases = state["profiles"], state["cases"]
        head.cases_ = None if cases is None else MissingGenes.from_state(cases)
        floor, power = float(saved["floor"]), float(saved["power"])
        require(floor > 0 and head.temperature_ > 0, f"floor={floor}, temperature={head.temperature_}.")
        shapes = {"means": "cd", "axes": "qd", "strengths": "q"}
        arrays = take_arrays(saved, shapes, c=len(head.classes_), d=len(head._centre))
        head._profiles = ClassProfiles(**arrays, floor=floor, power=power)
        return head


def _learn(expression: Rows, codes: Array, units: Array) -> ClassProfiles:
    blocks = ((_means(b, units), codes[at : at + b.shape[0]]) for at, b in iter_raw_blocks(expression))
    return ClassProfiles.fit(blocks, n_classes=int(codes.max()) + 1, width=units.shape[1])


def text_agreement(profiles: ClassProfiles, expression: csr_matrix, units: Array, rng: np.random.Generator) -> float:
    """Return how far texts of random halves of the genes say the same of cells ``(n, g)``: a correlation, 0 to 1."""
    directions = profiles.whiten(profiles.means - profiles.means.mean(axis=0)).T
    found = []
    for _ in range(SPLITS):
        order = rng.permutation(len(units))
        halves = (np.sort(order[::2]), np.sort(order[1::2]))
        one, other = (_means(expression[:, half], units[half]) @ directions for half in halves)
        one, other = one - one.mean(axis=0), other - other.mean(axis=0)
        found.append((one * other).sum() / max(np.sqrt((one**2).sum() * (other**2).sum()), TINY))
    return max(0.0, float(np.mean(found)))


def _means(expression: csr_matrix, units: Array) -> Array:
    """Return cells' GenePT-w, ``(n, d) float32`` rows of length one (or zero), from gene vectors of length one."""
    return np.asarray(normalize(expression @ units))


@dataclass(frozen=True)
class ClassProfiles:
    """Means of the classes in the space of gene texts, and one covariance within all of them.

    ``means`` ``(n_classes, d) float64`` are centred on the mean of all training cells. The covariance is ``floor`` in
    all directions, and ``strengths`` ``(q,)`` more along the orthonormal ``axes`` ``(q, d)``. ``power`` is the mean
    squared length of a centred training cell.
    """

    means: Array
    axes: Array
    strengths: Array
    floor: float
    power: float

    @classmethod
    def fit(cls, blocks: Iterable[tuple[Array, Array]], *, n_classes: int, width: int) -> Self:
        """Learn in one pass from weighted means ``(b, width) float32`` and class numbers ``(b,)`` of all classes."""
        sums, products, counts = np.zeros((n_classes, width)), np.zeros((width, width)), np.zeros(n_classes)
        for rows, codes in blocks:
            wide = rows.astype(np.float64)
            np.add.at(sums, codes, wide)
            products += wide.T @ wide
            counts += np.bincount(codes, minlength=n_classes)
        n = counts.sum()
        means = sums / counts[:, None]
        within = (products - (means * counts[:, None]).T @ means) / n
        centre = sums.sum(axis=0) / n
        values, vectors = np.linalg.eigh(within)
        top = np.argsort(values)[::-1][: min(MAX_AXES, len(values))]
        floor = SHRINKAGE * max(float(values.mean()), TINY)
        strengths = (1 - SHRINKAGE) * np.maximum(values[top], 0)
        power = float(np.trace(products) / n - centre @ centre)
        return cls(means - centre, vectors[:, top].T.copy(), strengths, floor, power)

    def whiten(self, rows: Array) -> Array:
        """Return rows ``(n, d)`` times the inverse covariance."""
        along = rows @ self.axes.T
        return (rows - (along * (self.strengths / (self.floor + self.strengths))) @ self.axes) / self.floor


def expression_components(expression: csr_matrix) -> Callable[[csr_matrix], Array]:
    """Return the function from cells ``(m, n_genes)`` to principal components ``(m, p)`` of the most variable genes."""
    genes = np.sort(np.argsort(-mean_variance_axis(expression, axis=0)[1], kind="stable")[:VARIABLE_GENES])
    pca = PCA(min(N_COMPONENTS, len(genes), expression.shape[0] - 1), svd_solver="covariance_eigh")
    with np.errstate(invalid="ignore"):  # genes that no cell expresses have no variance to explain
        pca.fit(expression[:, genes].toarray().astype(np.float64))
    scale = max(float(np.sqrt(pca.explained_variance_.mean())), TINY)
    return lambda cells: pca.transform(cells[:, genes].toarray().astype(np.float64)) / scale


def fit_mixture(profiles: ClassProfiles, rows: Array, components: Array) -> Callable[[Array, Array], Array]:
    """Find the classes among new cells by expectation-maximisation, starting from the guess of the texts alone.

    ``rows`` ``(n, d) float32`` are the new cells' weighted means, over genes that need not be the training cells', and
    ``components`` ``(n, p)`` the principal components of their expression. Returns the function from such rows and
    components of any cells to their log-probabilities ``(m, n_classes) float64``.
    """
    centre = rows.mean(axis=0, dtype=np.float64)
    texts = rows.astype(np.float64) - centre
    length = float(np.square(texts).sum(axis=1).mean())
    scale = float(np.sqrt(profiles.power / length)) if length > 0 else 1.0
    texts *= scale

    def log_proba(rows: Array, components: Array) -> Array:
        texts = (rows.astype(np.float64) - centre) * scale
        density = _log_normal(texts, text_means, profiles.whiten(text_means)) / TEMPER
        density += _log_normal(components, component_means, component_means @ precision) + log_shares
        return np.asarray(density - logsumexp(density, axis=1, keepdims=True))

    n, n_classes = len(rows), len(profiles.means)
    start = _log_normal(texts, profiles.means, profiles.whiten(profiles.means)) / TEMPER
    belongs = np.exp(start - logsumexp(start, axis=1, keepdims=True))
    squares = components.T @ components
    for _ in range(N_ITERATIONS):
        counts = belongs.sum(axis=0)
        text_means = (ANCHOR * profiles.means + belongs.T @ texts) / (ANCHOR + counts)[:, None]
        component_means = (belongs.T @ components) / np.maximum(counts, 1e-9)[:, None]
        within = (squares - (component_means * counts[:, None]).T @ component_means) / n
        spread = max(float(np.trace(within)) / len(within), 1e-9)
        within = (1 - COMPONENT_SHRINKAGE) * within + COMPONENT_SHRINKAGE * spread * np.eye(len(within))
        precision = np.linalg.inv(within)
        log_shares = np.log((SHARE_CELLS / n_classes + counts) / (SHARE_CELLS + n))
        belongs = np.exp(log_proba(rows, components))
    return log_proba


def _log_normal(rows: Array, means: Array, whitened: Array) -> Array:
    """Return the log-density of rows ``(n, d)`` up to a constant; ``whitened`` is means times the precision."""
    return np.asarray(rows @ whitened.T - 0.5 * np.einsum("kd,kd->k", means, whitened))
