"""The head for cells that were measured on other genes than the training cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize

from scstore.errors import CellsError, DamagedError, LabelsError, OptionError
from scstore.heads.across_genes_mixture import MIN_CELLS, ClassProfiles, ExpressionComponents, fit_mixture
from scstore.heads.base import JSON, take_array
from scstore.heads.calibration import fit_temperature
from scstore.heads.folds import stratified_folds, stratified_sample
from scstore.heads.held_out import scores
from scstore.heads.labels import encode_labels
from scstore.heads.rejection import KEEP, RULES, Thresholds, check_keep, may_fail
from scstore.heads.rows import Array, Rows, fetch, iter_raw_blocks
from scstore.heads.softmax import log_softmax

__all__ = ["KIND", "AcrossGenesHead", "ConfidenceRejection"]

KIND = "across-genes"
"""Its name among the heads."""

SAMPLE = 20_000
"""Cells that the mixture is fitted to, and that are held out for calibration, at the most."""

PROFILES = ("means", "axes", "strengths")


@dataclass(frozen=True)
class ConfidenceRejection:
    """Thresholds on confidence alone: how far a cell is from the training cells means nothing across genes.

    Attributes
    ----------
    confidence
        ``(m,)`` of the held-out cells that were labelled rightly, ascending; at least one.
    keep
        Share of them that keep their label, unless another one is asked for.
    """

    confidence: Array
    keep: float

    def thresholds(self, rule: str, keep: float | None = None) -> Thresholds:
        """As :meth:`scstore.heads.rejection.Rejection.thresholds`; ``both`` is confidence alone.

        Raises
        ------
        OptionError
            If distance alone is asked for, or the rule or share is none.
        """
        if rule == "distance":
            msg = f"--unassigned distance: a head of --head {KIND} knows no distance. Use confidence or none."
            raise OptionError(msg)
        if rule not in RULES:
            msg = f"--unassigned {rule}: must be one of {', '.join(RULES)}."
            raise OptionError(msg)
        keep = self.keep if keep is None else check_keep(keep)
        if rule == "none":
            return Thresholds(0.0, np.inf)
        return Thresholds(float(self.confidence[may_fail(len(self.confidence), keep)]), np.inf)


class AcrossGenesHead:
    """Labels cells by what their genes' texts say and by the groups they form, whatever genes were measured.

    Training cells give each class a mean in the space of gene texts. New cells are labelled all together, by the
    mixture of :mod:`scstore.heads.across_genes_mixture`. Gene vectors enter centred and with length one.

    Parameters
    ----------
    keep
        Share of the rightly labelled held-out cells that keep their label.
    random_state
        Of the samples and of the held-out genes.

    Attributes
    ----------
    classes_
        ``(n_classes,)`` labels, sorted.
    temperature_
        Calibrates the probabilities; fitted on cells held out *and* on genes held out.
    held_out_
        How well cells were labelled on genes that the training side did not have: half of the cells and half of the
        genes on either side, in turn (:func:`scstore.heads.held_out.scores`).
    confidence_
        ``(m,)`` calibrated probabilities of the held-out cells that were labelled rightly, ascending.
    held_out_codes_, held_out_proba_
        ``(2n,)`` classes and ``(2n, n_classes)`` calibrated probabilities of the held-out cells; not saved.
    """

    classes_: Array
    temperature_: float
    held_out_: dict[str, Any]
    confidence_: Array
    held_out_codes_: Array
    held_out_proba_: Array
    record_: dict[str, JSON]
    kind = KIND

    def __init__(self, *, keep: float = KEEP, random_state: int = 0) -> None:
        self.keep = check_keep(keep)
        self.random_state = random_state

    @property
    def views_(self) -> tuple[str, ...]:
        """What it reads."""
        return ("X",)

    @property
    def rejection_(self) -> ConfidenceRejection | None:
        """Thresholds; None where no held-out cell was labelled rightly."""
        return ConfidenceRejection(self.confidence_, self.keep) if len(self.confidence_) else None

    def fit(self, expression: Rows, y: Any, *, vectors: Array, centre: Array) -> Self:
        """Learn from labelled cells.

        Parameters
        ----------
        expression
            ``(n, n_genes)`` CSR rows, log-normalised.
        y
            ``(n,)`` labels.
        vectors
            ``(n_genes, d) float32``: of the genes' texts.
        centre
            ``(d,)``: mean of all vectors of the gene table.

        Raises
        ------
        LabelsError
            If there are fewer than two labels, or too few cells to hold some out.
        """
        labels = encode_labels(y, expression.shape[0])
        self.classes_ = labels.classes
        self._centre = np.asarray(centre, dtype=np.float64)
        units = self._units(vectors)
        self._profiles = self._learn(expression, labels.codes, units)
        self._calibrate(expression, labels.codes, units)
        return self

    def predict_proba(self, expression: Rows, *, vectors: Array) -> Array:
        """Probabilities ``(n, n_classes) float64`` of new cells, judged together.

        Parameters
        ----------
        expression
            ``(n, n_genes)`` CSR rows, log-normalised, of any genes.
        vectors
            ``(n_genes, d) float32``: of those genes' texts, by the encoder of the training cells'.

        Raises
        ------
        CellsError
            If there are too few cells to form groups.
        """
        proba = np.empty((expression.shape[0], len(self.classes_)))
        for start, block in self.iter_proba(expression, vectors=vectors):
            proba[start : start + len(block)] = block
        return proba

    def iter_proba(self, expression: Rows, *, vectors: Array) -> Iterator[tuple[int, Array]]:
        """The same in blocks: first row and probabilities. The mixture is fitted before the first."""
        n = expression.shape[0]
        if n < MIN_CELLS:
            msg = (
                f"{n} cells: --head {KIND} labels cells by the groups they form and needs {MIN_CELLS} or more. Give it "
                "the whole data set."
            )
            raise CellsError(msg)
        units = self._units(vectors)
        mixture, components = self._match(self._profiles, expression, units)
        for start, block in iter_raw_blocks(expression):
            judged = mixture.log_proba(_means(block, units), components.of(block))
            yield start, np.exp(log_softmax(judged / self.temperature_))

    def _units(self, vectors: Array) -> Array:
        if vectors.shape[1] != len(self._centre):
            msg = f"vectors: {vectors.shape[1]} wide where the head knows {len(self._centre)}."
            raise OptionError(msg)
        result: Array = normalize(vectors - self._centre.astype(np.float32))
        return result

    def _learn(self, expression: Rows, codes: Array, units: Array) -> ClassProfiles:
        blocks = (
            (_means(block, units), codes[start : start + block.shape[0]])
            for start, block in iter_raw_blocks(expression)
        )
        return ClassProfiles.fit(blocks, n_classes=len(self.classes_), width=units.shape[1])

    def _match(self, profiles: ClassProfiles, expression: Rows, units: Array) -> tuple[Any, ExpressionComponents]:
        n = expression.shape[0]
        rng = np.random.default_rng(self.random_state)
        some = np.sort(rng.choice(n, SAMPLE, replace=False)) if n > SAMPLE else np.arange(n)
        sample = csr_matrix(fetch(expression, some))
        components = ExpressionComponents.fit(sample, seed=self.random_state)
        return fit_mixture(profiles, _means(sample, units), components.of(sample)), components

    def _calibrate(self, expression: Rows, codes: Array, units: Array) -> None:
        """Label half of the cells, on half of the genes, from the other halves; four times, so all cells twice."""
        rng = np.random.default_rng(self.random_state)
        some = stratified_sample(codes, size=SAMPLE, rng=rng) if len(codes) > SAMPLE else np.arange(len(codes))
        sample, truth = csr_matrix(fetch(expression, some)), codes[some]
        halves = stratified_folds(truth, n_folds=2, rng=rng)
        if len(halves) < 2 or min(map(len, halves)) < MIN_CELLS:
            msg = f"{len(codes)} labelled cells: --head {KIND} needs {2 * MIN_CELLS} or more, two of each label."
            raise LabelsError(msg)
        dealt = rng.permutation(sample.shape[1])
        sides = np.sort(dealt[::2]), np.sort(dealt[1::2])
        found, true = [], []
        for inside in halves:
            outside = np.setdiff1d(np.arange(len(truth)), inside)
            for known, new in (sides, sides[::-1]):
                profiles = self._learn(sample[outside][:, known], truth[outside], units[known])
                left = sample[inside][:, new]
                mixture, components = self._match(profiles, left, units[new])
                found.append(mixture.log_proba(_means(left, units[new]), components.of(left)))
                true.append(truth[inside])
        log_proba, codes = np.concatenate(found), np.concatenate(true)
        self.temperature_ = fit_temperature(log_proba, codes)
        proba = np.exp(log_softmax(log_proba / self.temperature_))
        self.held_out_ = scores(proba, codes)
        self.held_out_codes_, self.held_out_proba_ = codes, proba
        self.confidence_ = np.sort(proba.max(axis=1)[proba.argmax(axis=1) == codes])

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, JSON]]:
        """The fitted head as named arrays and a JSON object; :meth:`from_arrays` takes them back."""
        arrays = {name: getattr(self._profiles, name) for name in PROFILES}
        arrays |= {"centre": self._centre, "confidence": self.confidence_}
        state = {
            "kind": KIND,
            "classes": self.classes_.tolist(),
            "floor": self._profiles.floor,
            "power": self._profiles.power,
            "temperature": self.temperature_,
            "held_out": self.held_out_,
            "keep": self.keep,
            "random_state": self.random_state,
        }
        return arrays, state

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], state: Mapping[str, JSON]) -> Self:
        """The fitted head from what :meth:`to_arrays` gave.

        Raises
        ------
        DamagedError
            If the arrays and the state do not fit together.
        """
        try:
            head = cls(keep=float(state["keep"]), random_state=int(state["random_state"]))
            head.classes_ = np.array([str(label) for label in state["classes"]])
            head.temperature_ = float(state["temperature"])
            head.held_out_ = dict(state["held_out"])
            floor, power = float(state["floor"]), float(state["power"])
        except (KeyError, TypeError, ValueError, OptionError) as error:
            msg = f"The head's description is malformed ({type(error).__name__}: {error}). Restore it or fit it again."
            raise DamagedError(msg) from error
        if not (floor > 0 and head.temperature_ > 0):
            msg = f"The head's description is malformed (floor {floor}, temperature {head.temperature_})."
            raise DamagedError(msg)
        head._centre = take_array(arrays, "centre", shape=(-1,))
        width = len(head._centre)
        means = take_array(arrays, "means", shape=(len(head.classes_), width))
        axes = take_array(arrays, "axes", shape=(-1, width))
        strengths = take_array(arrays, "strengths", shape=(len(axes),))
        head.confidence_ = take_array(arrays, "confidence", shape=(-1,))
        head._profiles = ClassProfiles(means, axes, strengths, floor, power)
        return head


def _means(expression: csr_matrix, units: Array) -> Array:
    """GenePT-w of gene vectors of length one: ``(n, d) float32`` rows of length one, or zero."""
    result: Array = normalize(expression @ units)
    return result
