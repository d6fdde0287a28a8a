"""Votes of the nearest training cells, found with FAISS."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np

from scstore.heads.base import RowClassifier, State, check_choice, check_positive, require, seeded, take_arrays
from scstore.heads.class_numbers import stratified_sample
from scstore.heads.neighbour_search import (
    EXACT_BELOW,
    FARTHEST,
    FEWEST,
    WIDTHS,
    ApproximateIndex,
    MeasuredRecall,
    build_index,
)
from scstore.heads.preprocessing import column_moments, usable_scale
from scstore.heads.rows import MEMORY_LIMIT, Array, MappedRows, RowSubset, block_within, materialise, to_dense

METRICS = ("cosine", "euclidean")
PRIOR_VOTES = 0.3  # votes shared out by class frequency, so that no class ever gets a probability of 0
GATHER_VALUES = 1 << 22  # neighbour values held at a time while distances are computed in float64


@dataclass(eq=False, repr=False)
class KNNHead(RowClassifier):
    """Distance-weighted votes of the k nearest training cells.

    ``metric="cosine"`` compares rows centred on the training mean and L2-normalised; ``"euclidean"`` rows
    standardised by column. Both rank by Euclidean distance of the rows so prepared. A neighbour at distance
    ``r`` has the weight ``1 / r²``, scaled so that the weights sum to k; 0.3 votes more are shared out by
    class frequency.

    Up to ``exact_below`` rows FAISS searches the vectors by brute force. Above, the head keeps the first principal
    components of the rows in half precision and searches an inverted file of them, with a measured recall of .95 of
    the 10 nearest where it can be reached. No FAISS index is saved or loaded: it is made from the vectors. The
    distances of the neighbours are computed in float64, so a cell's votes do not depend on the cells beside it.

    Parameters
    ----------
    k
        Neighbours that vote; all of them where there are fewer.
    metric
        ``"cosine"`` or ``"euclidean"``.
    memory_limit
        Bytes that the kept rows may take. Where all would take more, a stratified sample is kept.
    exact_below
        Kept rows above which the search is approximate; it needs at least 100.
    random_state
        Seed of the samples.

    Attributes
    ----------
    classes_
        ``(n_classes,)`` labels, sorted.
    vectors_
        ``(m, d) float32`` kept training rows as prepared, or their ``(m, p) float16`` components.
    codes_
        ``(m,) int64`` class number of each.
    prior_
        ``(n_classes,) float64`` class frequencies of all training rows.
    mean_, scale_
        ``(d,) float64`` each.
    approximate_
        The index of an approximate search and its measured recall; else ``None``.
    n_features_in_
        d.
    """

    _ONE_THREAD = False

    k: int = 15
    _: KW_ONLY
    metric: str = "cosine"
    memory_limit: int = MEMORY_LIMIT
    exact_below: int = EXACT_BELOW
    random_state: Any = 0

    def fit(self, X: Any, y: Any) -> Self:
        """Keep rows ``(n, d)`` and labels ``(n,)``.

        Raises
        ------
        LabelsError, CellsError, OptionError
            If the labels cannot be learned from, a value is not finite, or a parameter is out of its range.
        """
        self._check_options()
        rows, labels = self._begin(X, y)
        n, width = rows.shape
        step = block_within(self.memory_limit)
        self.prior_ = np.bincount(labels.codes, minlength=len(labels.classes)) / n
        self.mean_, variance = column_moments(rows, block_bytes=step)
        self.scale_ = usable_scale(self.mean_, variance) if self.metric == "euclidean" else np.ones(width)
        self.codes_, kept = labels.codes, rows
        approximate = n > max(self.exact_below, FEWEST)
        if (room := self.memory_limit // (2 * min(width, WIDTHS[-1]) if approximate else 4 * width)) < n:
            sample = stratified_sample(labels.codes, size=room, rng=seeded(self.random_state))
            self.codes_, kept = labels.codes[sample], RowSubset(rows, sample)
        prepared = MappedRows(kept, lambda block: self._prepare(to_dense(block)), width=width)
        self.approximate_: ApproximateIndex | None = None
        if approximate and len(self.codes_) > FEWEST:
            seed = int(seeded(self.random_state).integers(2**31))
            self.approximate_ = build_index(prepared, seed=seed, block_bytes=step)
        index = self.approximate_
        self.vectors_: Array = materialise(prepared) if index is None else index.codes()
        return self

    def training_note(self) -> str:
        """Return one line that says how the head was trained."""
        kept = f"among {len(self.codes_):,} training cells kept"
        if self.approximate_ is None:
            return f"nearest neighbours: exact search {kept}"
        index, measured = self.approximate_, self.approximate_.measured
        return (
            f"nearest neighbours: approximate search {kept} ({index.components.shape[1]} dimensions in half precision, "
            f"{measured.probes} of {index.n_lists} lists searched); recall at {measured.k} on {measured.n_queries} "
            f"held-out cells: {measured.recall:.3f}"
        )

    def _check_options(self) -> None:
        check_choice("metric", self.metric, METRICS)
        check_positive(k=self.k, memory_limit=self.memory_limit, exact_below=self.exact_below)

    def _prepare(self, block: Array) -> Array:
        values = (block - self.mean_) / self.scale_
        if self.metric == "cosine":
            norms = np.linalg.norm(values, axis=1, keepdims=True)
            values /= np.where(norms > 0, norms, 1.0)
        return np.asarray(np.clip(values, -FARTHEST, FARTHEST).astype(np.float32))

    def _search(self, block: Array) -> tuple[Array, Array]:
        """Return Euclidean distances ``(b, k)``, ascending, and places ``(b, k)`` in ``vectors_``."""
        import faiss

        k = min(int(self.k), len(self.codes_))
        queries, vectors = self._prepare(block), self.vectors_
        if self.approximate_ is not None:
            queries = self.approximate_.project(queries)
            places = self.approximate_.search(queries, k=k)
        else:
            places = faiss.knn(queries, vectors, k)[1]
        distances = np.empty(places.shape)
        step = max(1, GATHER_VALUES // (k * vectors.shape[1]))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            # Subtracted, not expanded into dot products: two equal rows are at distance 0 exactly.
            difference = queries[part, None, :].astype(np.float64) - vectors[places[part]]
            distances[part] = np.sqrt(np.einsum("bkd,bkd->bk", difference, difference))
        order = np.argsort(distances, axis=1, kind="stable")
        return np.take_along_axis(distances, order, axis=1), np.take_along_axis(places, order, axis=1)

    def _log_proba(self, block: Array) -> Array:
        distances, places = self._search(block)
        k = places.shape[1]
        # A training cell met again would outvote all others; a thousandth of the farthest distance is the least.
        floor = np.maximum(1e-3 * distances[:, -1:], np.finfo(np.float32).tiny)
        weights = (floor / np.maximum(distances, floor)) ** 2
        weights *= k / weights.sum(axis=1, keepdims=True)
        votes = np.zeros((len(block), len(self.classes_)))
        np.add.at(votes, (np.arange(len(block))[:, None], self.codes_[places]), weights)
        return np.asarray(np.log((votes + PRIOR_VOTES * self.prior_) / (k + PRIOR_VOTES)))

    def _learned(self) -> State:
        learned = {name: getattr(self, f"{name}_") for name in ("vectors", "codes", "prior", "mean", "scale")}
        if (index := self.approximate_) is not None:
            learned |= {"components": index.components, "centroids": index.centroids, "measured": vars(index.measured)}
        return learned

    def _load(self, state: Mapping[str, Any]) -> None:
        self._check_options()
        shapes = {"codes": "m", "prior": "c", "mean": "d", "scale": "d", "vectors": "md"}
        if measured := state.get("measured"):
            shapes |= {"components": "dp", "centroids": "lp", "vectors": "mp"}
        n_classes = len(self.classes_)
        arrays = take_arrays(state, shapes, integers=("codes",), c=n_classes, d=self.n_features_in_)
        for name in ("vectors", "codes", "prior", "mean", "scale"):
            setattr(self, f"{name}_", arrays[name])
        in_range = self.codes_.size and self.codes_.min() >= 0 and self.codes_.max() < n_classes
        require(in_range and (self.prior_ > 0).all(), "Its class numbers or class frequencies are impossible.")
        self.approximate_ = None
        if measured:
            recall, centroids = MeasuredRecall(**measured), arrays["centroids"]
            sound = recall.probes in range(1, len(centroids) + 1) and self.vectors_.dtype == np.float16
            require(sound, f"{recall} does not fit its weights.")
            self.approximate_ = ApproximateIndex.from_codes(arrays["components"], centroids, self.vectors_, recall)
