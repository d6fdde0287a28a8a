"""When not to answer: distances from the classes' means, and thresholds on confidence and novelty."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.utils.extmath import randomized_svd

from scstore.errors import OptionError
from scstore.heads.base import State, check_choice, require, take_arrays
from scstore.heads.preprocessing import EXPRESSION, Members, Views, place_views, usable_scale
from scstore.heads.rows import Array, iter_blocks, read, widest
from scstore.heads.training import one_blas_thread

RULES = ("none", "confidence", "distance", "both")  # reasons that turn a label into ``unassigned``
KEEP = 0.95  # fraction of correctly labelled held-out cells that keep their label by default
SURE = 0.9  # confidence that no threshold asks for more than: nine in ten such labels are right
UNIT = 0.95  # quantile of a class's held-out distances that is a novelty of 1
SHRINK = 20  # held-out cells of a class at which its own quantile weighs as much as that of all classes
COMPONENTS = 50  # principal components of joined views in which the discriminant axes are sought, at most
EXPRESSION_COMPONENTS = 20  # those of expression
CELLS_PER_COMPONENT = 4  # reference cells for each of them, at least: fewer do not show the spread inside classes
RIDGE = 0.1  # share of the mean variance inside classes that is added to that of every direction
SAMPLE_CELLS = 10_000  # training cells that the space is fitted on, at most
FEWEST_CELLS = 5  # of each class, where there are so many
SAMPLE_BYTES = 1 << 27  # bytes of float32 that they may take


@dataclass(frozen=True, eq=False)
class Distances:
    """The classes' means, and the space in which distances from them are measured. No training cell is kept.

    With expression it is that of the principal components of the genes of the highest F, where an unseen class differs
    most; else that of Fisher's discriminant axes of the joined views. Whitened inside classes: Mahalanobis distances.
    """

    views: tuple[str, ...]
    mean: Array
    axes: Array
    centres: Array

    def place(self, members: Members, views: Views) -> Array:
        """Return where cells lie in the space, ``(n, k) float64``."""
        rows = place_views(members, views, self.views)
        with one_blas_thread():
            placed = [(block - self.mean) @ self.axes for _, block in iter_blocks(rows)]
        return np.concatenate([np.empty((0, self.axes.shape[1])), *placed])

    def measure(self, members: Members, views: Views, codes: Array) -> Array:
        """Return the distance ``(n,) float64`` of each cell from the mean of the class in ``codes`` ``(n,)``."""
        return self.from_centres(self.place(members, views), codes)

    def from_centres(self, places: Array, codes: Array) -> Array:
        """Return the distance ``(n,)`` of each place ``(n, k)`` from the mean of its class."""
        return np.asarray(np.linalg.norm(places - self.centres[codes], axis=1))

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, n_classes: int) -> Self:
        """Return the distances; :class:`DamagedError` where the parts do not fit together."""
        arrays = take_arrays(state, {"mean": "d", "axes": "dk", "centres": "ck"}, c=n_classes)
        return cls(tuple(map(str, state["views"])), **arrays)


def fit_distances(members: Members, views: Views, codes: Array, *, rng: np.random.Generator) -> Distances:
    """Fit the space on a sample of the training cells, as many of a rare class as of a common one."""
    names = [EXPRESSION] if EXPRESSION in members else sorted(members)
    rows = place_views(members, views, names)
    n_classes = int(codes.max()) + 1
    room = min(SAMPLE_CELLS, SAMPLE_BYTES // (4 * widest(rows)))
    each = max(FEWEST_CELLS, room // n_classes)
    chosen = [np.sort(rng.permutation(np.flatnonzero(codes == code))[:each]) for code in range(n_classes)]
    values = read(rows, np.concatenate(chosen)).astype(np.float64)
    mean = values.mean(axis=0)
    values -= mean
    scale = usable_scale(mean, np.einsum("ij,ij->j", values, values) / len(values))
    widths = [part.shape[1] for part in rows.below]
    scale *= np.sqrt(np.repeat(widths, widths))  # each view weighs the same, whatever its width
    counts = np.array([len(part) for part in chosen])
    axes = _whitened(values / scale, counts, seed=int(rng.integers(2**31)), discriminant=names != [EXPRESSION])
    axes = axes / scale[:, None]
    return Distances(tuple(names), mean, axes, _centres(values @ axes, counts))


def _centres(values: Array, counts: Array) -> Array:
    return np.asarray(np.add.reduceat(values, np.cumsum(counts) - counts) / counts[:, None])


def _whitened(values: Array, counts: Array, *, seed: int, discriminant: bool) -> Array:
    """Return axes ``(d, k)`` of centred cells, sorted by class, of spread 1 inside classes; ``discriminant`` or all."""
    most = COMPONENTS if discriminant else EXPRESSION_COMPONENTS
    size = max(2, min(most, values.shape[1], len(values) // CELLS_PER_COMPONENT))
    with one_blas_thread():  # small products: threads would wait for each other
        *_, components = randomized_svd(values, min(size, *values.shape), random_state=seed)
    reduced = values @ components.T
    centres = _centres(reduced, counts)
    inside = reduced - np.repeat(centres, counts, axis=0)
    spread, turn = np.linalg.eigh(inside.T @ inside / len(inside))
    ridge = max(RIDGE * float(spread.mean()), float(np.finfo(np.float32).tiny))
    whiten = turn / np.sqrt(np.maximum(spread, 0) + ridge)
    if not discriminant:
        return np.asarray(components.T @ whiten)
    between = centres @ whiten
    *_, directions = np.linalg.svd(between - between.mean(axis=0), full_matrices=False)
    return np.asarray(components.T @ whiten @ directions[: max(1, len(counts) - 1)].T)


@dataclass(frozen=True)
class Thresholds:
    """A label stands where confidence is at least the one and novelty at most the other; by default all stand."""

    confidence: float = 0.0
    novelty: float = np.inf


@dataclass(frozen=True, eq=False, kw_only=True)
class ConfidenceRejection:
    """Confidence and novelty ``(m,)``, infinite where unknown, of held-out cells labelled correctly.

    A cell of the confidence ``sure`` keeps its label whatever theirs was.
    """

    confidence: Array
    novelty: Array
    keep: float
    sure: float = SURE

    def thresholds(self, rule: str, keep: float | None = None) -> Thresholds:
        """Return thresholds that the fraction ``keep`` of the right held-out cells passes; ``both`` equally strict."""
        check_choice("unassigned", rule, RULES)
        allowed = max_rejected(len(self.confidence), self.keep if keep is None else check_keep(keep))
        confidence, novelty = np.minimum(np.sort(self.confidence), self.sure), np.sort(self.novelty)[::-1]
        if rule == "none":
            return Thresholds()
        if rule == "confidence":
            return Thresholds(confidence=float(confidence[allowed]))
        if rule == "distance" and np.isinf(novelty[0]):
            raise OptionError(
                "unassigned='distance': a head='across-genes' has no distance. Use 'confidence' or 'none'."
            )
        if rule == "distance":
            return Thresholds(novelty=float(novelty[allowed]))

        def rejected(rank: int) -> int:
            return int(((self.confidence < confidence[rank]) | (self.novelty > novelty[rank])).sum())

        # The strictest pair that rejects no more than allowed: the rejected cells only grow with the rank.
        rank = bisect_right(range(allowed + 1), allowed, key=rejected) - 1
        return Thresholds(float(confidence[rank]), float(novelty[rank]))


@dataclass(frozen=True, eq=False, kw_only=True)
class Rejection(ConfidenceRejection):
    """And the means from which novelty is measured: 1 is the distance ``units`` ``(n_classes,)``, a 95 % quantile."""

    distances: Distances
    units: Array

    def novelty_of(self, places: Array, codes: Array) -> Array:
        """Return the novelty ``(n,) float64`` of cells in ``places`` ``(n, k)`` that got the labels ``codes``."""
        return np.asarray(self.distances.from_centres(places, codes) / self.units[codes])

    def to_state(self) -> State:
        """Return nested JSON values and arrays; :meth:`from_state` takes them back."""
        return {**vars(self), "distances": {**vars(self.distances), "views": list(self.distances.views)}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, n_classes: int) -> Self:
        """Return the thresholds; :class:`DamagedError` where the parts do not fit together."""
        distances = Distances.from_state(state["distances"], n_classes=n_classes)
        arrays = take_arrays(state, {"units": "c", "confidence": "m", "novelty": "m"}, c=n_classes)
        sound = len(arrays["confidence"]) and (arrays["units"] > 0).all()
        require(sound, "rejection: no held-out cells, or units that are not positive.")
        return cls(distances=distances, **arrays, keep=check_keep(state["keep"]), sure=float(state["sure"]))


def check_keep(keep: float) -> float:
    """Return the fraction to keep as a float; refuse one that is not more than 0 and at most 1."""
    if not 0 < keep <= 1:
        raise OptionError(f"keep={keep}: must be more than 0 and at most 1, such as 0.95 to reject one in twenty.")
    return float(keep)


def max_rejected(n: int, keep: float) -> int:
    """Return how many of n cells may be rejected so that the fraction ``keep`` passes."""
    return int(np.floor((1 - keep) * n + 1e-9))  # a hair for 0.95 * 20 being 19.000000000000004


def fit_rejection(
    members: Members, views: Views, codes: Array, *, proba: Array, truth: Array, measured: Array, keep: float, seed: int
) -> Rejection | None:
    """Fit thresholds on held-out cells, ``measured`` from their true classes; None where none was right."""
    right = proba.argmax(axis=1) == truth
    if not right.any():
        return None
    classes, far, rng = truth[right], measured[right], np.random.default_rng(seed)
    distances = fit_distances(members, views, codes, rng=rng)

    def units(chosen: Array) -> Array:
        """Return the distances ``(n_classes,)`` that count as 1: with expression each class's own, else one for all."""
        found: Array = np.full(proba.shape[1], np.quantile(far[chosen], UNIT))
        for code in np.unique(classes[chosen]).tolist() if EXPRESSION in members else ():
            mine = far[chosen][classes[chosen] == code]
            weight = len(mine) / (len(mine) + SHRINK)
            found[code] = weight * np.quantile(mine, UNIT) + (1 - weight) * found[code]
        return np.maximum(found, np.finfo(np.float32).tiny)

    # The units of one half serve the other: a quantile never lies among the cells from which it was computed.
    halves = np.array_split(rng.permutation(len(classes)), 2)
    novelty = np.empty(len(classes))
    for mine, others in (halves, halves[::-1]):
        novelty[mine] = far[mine] / units(others if len(others) else mine)[classes[mine]]
    confidence, every = proba[right].max(axis=1), units(np.arange(len(classes)))
    return Rejection(confidence=confidence, novelty=novelty, keep=check_keep(keep), distances=distances, units=every)
