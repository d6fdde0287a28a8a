"""Votes of the nearest training cells, found with FAISS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from scstore.errors import DamagedError, OptionError
from scstore.heads.base import JSON, RowClassifier, check_positive, seeded, take_array
from scstore.heads.compressed import (
    EXACT_BELOW,
    FARTHEST,
    WIDTHS,
    Compression,
    ListSearch,
    Probing,
    choose_probes,
    encode,
    fit_compression,
)
from scstore.heads.folds import stratified_sample
from scstore.heads.rows import (
    MEMORY_LIMIT,
    Array,
    MappedRows,
    Rows,
    RowSubset,
    block_within,
    iter_blocks,
    to_dense,
)
from scstore.heads.scaling import column_moments, usable_scale

__all__ = ["KNNHead"]

METRICS = ("cosine", "euclidean")
DTYPES = ("float32", "float16")

PRIOR_VOTES = 0.3
"""Votes shared out by class frequency, so that no class ever gets a probability of 0."""

FEWEST = 100
"""Rows that can be compressed at all."""

GATHER_VALUES = 1 << 22
"""Neighbour values held at a time while distances are worked out again."""


class KNNHead(RowClassifier):
    """Distance-weighted votes of the k nearest training cells.

    ``metric="cosine"`` compares rows centred on the training mean and L2-normalised; ``"euclidean"`` rows
    standardised by column. Both rank by Euclidean distance of the rows so prepared. A neighbour at distance
    :math:`r` has the weight :math:`1/r^2`, scaled so that the weights sum to k; 0.3 votes more are shared out by
    class frequency.

    Up to ``exact_below`` rows FAISS searches the vectors by brute force. Above, it searches compressed ones: their
    first principal components in half precision, in lists of which the nearest are looked into, as many as find 95 %
    of the 10 exact neighbours of held-out rows (see :mod:`scstore.heads.compressed`). Either way no index is saved or
    loaded: it is made from the vectors. The distances of the neighbours are worked out in float64, so a cell's votes
    do not depend on the cells searched with it.

    Parameters
    ----------
    k
        Neighbours that vote; all of them where there are fewer.
    metric
        ``"cosine"`` or ``"euclidean"``.
    dtype
        How the training rows are kept: ``"float32"`` or ``"float16"``; compressed ones always ``"float16"``.
    standardize
        With ``"euclidean"``, whether to standardise the columns; ``False`` for rows that were scaled before.
    memory_limit
        Bytes that the kept rows may take, as float32 or compressed. Where all would take more, a stratified sample is
        kept.
    exact_below
        Kept rows above which they are compressed; 100 at least are needed for that.
    random_state
        Seed of the samples.

    Attributes
    ----------
    classes_
        ``(n_classes,)`` labels, sorted.
    vectors_
        ``(m, d)`` kept training rows as prepared, in ``dtype``, or compressed, ``(m, p) float16``; m is n unless they
        would not fit.
    codes_
        ``(m,) int64`` class number of each.
    index_
        ``(m,) int64`` row number of each in the training data.
    prior_
        ``(n_classes,) float64`` class frequencies of all training rows.
    mean_, scale_
        ``(d,) float64`` each.
    compression_, lists_
        Of compressed rows: components and centroids, and the list of each row, ``(m,) int64``; else ``None``.
    probing_
        Of compressed rows: how many lists are looked into, and the recall measured; else ``None``.
    n_features_in_
        d.
    """

    _ONE_THREAD = False

    vectors_: Array
    codes_: Array
    index_: Array
    prior_: Array
    mean_: Array
    scale_: Array
    compression_: Compression | None
    lists_: Array | None
    probing_: Probing | None

    def __init__(
        self,
        k: int = 15,
        *,
        metric: str = "cosine",
        dtype: str = "float32",
        standardize: bool = True,
        memory_limit: int = MEMORY_LIMIT,
        exact_below: int = EXACT_BELOW,
        random_state: Any = 0,
    ) -> None:
        self.k = k
        self.metric = metric
        self.dtype = dtype
        self.standardize = standardize
        self.memory_limit = memory_limit
        self.exact_below = exact_below
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Keep rows ``(n, d)`` and labels ``(n,)``.

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
        n, width = rows.shape
        self.prior_ = np.bincount(labels.codes, minlength=len(labels.classes)) / n
        self.mean_, variance = column_moments(rows, block_bytes=block_within(self.memory_limit))
        scaled = self.metric == "euclidean" and self.standardize
        self.scale_ = usable_scale(self.mean_, variance) if scaled else np.ones(width)
        self.index_ = np.arange(n)
        compressed = n > max(self.exact_below, FEWEST)
        if (room := self.memory_limit // (2 * min(width, WIDTHS[-1]) if compressed else 4 * width)) < n:
            self.index_ = stratified_sample(labels.codes, size=room, rng=seeded(self.random_state))
        self.codes_ = labels.codes[self.index_]
        kept: Rows = rows if len(self.index_) == n else RowSubset(rows, self.index_)
        self.compression_ = self.lists_ = self.probing_ = None
        self.__dict__.pop("_compressed", None)
        if compressed and len(self.index_) > FEWEST:
            self._compress(kept)
            return self
        self.vectors_ = np.empty((len(self.index_), width), dtype=self.dtype)
        for start, block in iter_blocks(kept, block_bytes=block_within(self.memory_limit)):
            self.vectors_[start : start + len(block)] = self._prepare(block)
        return self

    def training_note(self) -> str:
        """How the head was trained, in words."""
        kept = f"among {len(self.codes_):,} training cells kept"
        if self.probing_ is None or self.compression_ is None:
            return f"nearest neighbours: exact search {kept}"
        n_lists, components = self.compression_.centroids.shape
        probing = self.probing_
        return (
            f"nearest neighbours: compressed search {kept} ({components} dimensions in half precision, "
            f"{probing.probes} of {n_lists} lists looked into); recall at {probing.k} measured on {probing.n_queries} "
            f"of them held out: {probing.recall:.3f}"
        )

    def _compress(self, kept: Rows) -> None:
        """Keep the rows compressed."""
        prepared = MappedRows(kept, lambda block: self._prepare(to_dense(block)), width=kept.shape[1])
        step = block_within(self.memory_limit)
        seed = int(seeded(self.random_state).integers(2**31))
        self.compression_, held_out = fit_compression(prepared, seed=seed, block_bytes=step)
        components = self.compression_.centroids.shape[1]
        self.vectors_ = np.empty((kept.shape[0], components), dtype=np.float16)
        self.lists_ = encode(prepared, self.compression_, self.vectors_, block_bytes=step).astype(np.int64)
        self._compressed = ListSearch.in_memory(self.compression_, self.vectors_, self.lists_)
        self.probing_ = choose_probes(self._compressed, held_out)

    def __getstate__(self) -> dict[str, Any]:
        # FAISS's objects are made again from the vectors
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_compressed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if state.get("compression_") is not None:
            self._compressed = ListSearch.in_memory(state["compression_"], self.vectors_, state["lists_"])

    def _check_options(self) -> None:
        for name, options in (("metric", METRICS), ("dtype", DTYPES)):
            if (value := getattr(self, name)) not in options:
                msg = f"{name}={value!r}: must be one of {', '.join(options)}."
                raise OptionError(msg)
        check_positive(k=self.k, memory_limit=self.memory_limit, exact_below=self.exact_below)

    def _prepare(self, block: Array) -> Array:
        values = (block - self.mean_) / self.scale_
        if self.metric == "cosine":
            norms = np.linalg.norm(values, axis=1, keepdims=True)
            values /= np.where(norms > 0, norms, 1.0)
        result: Array = np.clip(values, -FARTHEST, FARTHEST).astype(self.dtype)
        return result

    def kneighbors(self, X: Any) -> tuple[Array, Array]:
        """The k nearest training cells of rows ``(n, d)``, nearest first.

        Returns
        -------
        distances, neighbours
            ``(n, k) float64`` Euclidean distances of the prepared rows (with ``"cosine"`` they are √(2 - 2 cos)),
            and ``(n, k) int64`` row numbers in the training data.
        """
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        found = [self._search(block) for _, block in iter_blocks(rows)]
        k = min(int(self.k), len(self.codes_))
        distances = np.concatenate([np.empty((0, k)), *(part[0] for part in found)])
        places = np.concatenate([np.empty((0, k), dtype=np.int64), *(part[1] for part in found)])
        return distances, self.index_[places]

    def _search(self, block: Array) -> tuple[Array, Array]:
        """Distances ``(b, k)`` and places ``(b, k)`` in ``vectors_``."""
        import faiss

        k = min(int(self.k), len(self.codes_))
        queries = np.ascontiguousarray(self._prepare(block), dtype=np.float32)
        if self.compression_ is not None and self.probing_ is not None:
            vectors = self.vectors_
            # rounded as they are, so that a training cell is at distance 0 of itself
            queries = self.compression_.project(queries).astype(np.float16).astype(np.float32)
            _, places = self._compressed.search(queries, k=k, probes=self.probing_.probes)
        else:
            vectors = np.ascontiguousarray(self.vectors_, dtype=np.float32)
            _, places = faiss.knn(queries, vectors, k)
        distances = np.empty(places.shape)
        step = max(1, GATHER_VALUES // (k * vectors.shape[1]))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            # Subtracted, not expanded into dot products: two equal rows are at distance 0 exactly.
            apart = queries[part, None, :].astype(np.float64) - vectors[places[part]]
            distances[part] = np.sqrt(np.einsum("bkd,bkd->bk", apart, apart))
        order = np.argsort(distances, axis=1, kind="stable")
        return np.take_along_axis(distances, order, axis=1), np.take_along_axis(places, order, axis=1)

    def _log_proba(self, block: Array) -> Array:
        distances, places = self._search(block)
        k = places.shape[1]
        # A training cell met again would outvote all others; a thousandth of the farthest distance is as near as it
        # gets.
        floor = np.maximum(1e-3 * distances[:, -1:], np.finfo(np.float32).tiny)
        weights = (floor / np.maximum(distances, floor)) ** 2
        weights *= k / weights.sum(axis=1, keepdims=True)
        votes = np.zeros((len(block), len(self.classes_)))
        np.add.at(votes, (np.arange(len(block))[:, None], self.codes_[places]), weights)
        result: Array = np.log((votes + PRIOR_VOTES * self.prior_) / (k + PRIOR_VOTES))
        return result

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, JSON]]:
        """The fitted head as arrays named after its attributes, and its parameters as JSON."""
        state = self._state()
        names = ("vectors", "codes", "index", "prior", "mean", "scale")
        arrays = {name: getattr(self, f"{name}_") for name in names}
        state["n_kept"] = len(self.codes_)
        if self.compression_ is not None and self.probing_ is not None and self.lists_ is not None:
            arrays |= {
                "components": self.compression_.components,
                "centroids": self.compression_.centroids,
                "lists": self.lists_,
            }
            state["probing"] = {**asdict(self.probing_), "n_lists": len(self.compression_.centroids)}
            state["probing"]["components"] = self.compression_.centroids.shape[1]
        return arrays, state

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], params: Mapping[str, JSON]) -> Self:
        """The fitted head from what :meth:`to_arrays` gave; :class:`DamagedError` where the two do not fit."""
        head = cls._restore(params)
        kept, width, n_classes = params.get("n_kept"), head.n_features_in_, len(head.classes_)
        try:
            head._check_options()
        except (OptionError, TypeError) as error:
            msg = f"KNNHead: {error} The head is damaged."
            raise DamagedError(msg) from error
        if not isinstance(kept, int) or kept < 1:
            msg = f"KNNHead: n_kept {kept!r} is no number of rows. The head is damaged."
            raise DamagedError(msg)
        head.compression_ = head.lists_ = head.probing_ = None
        if (probing := params.get("probing")) is None:
            head.vectors_ = take_array(arrays, "vectors", shape=(kept, width))
        else:
            head._take_compressed(arrays, probing, kept=kept)
        head.codes_ = take_array(arrays, "codes", shape=(kept,), kind="i")
        head.index_ = take_array(arrays, "index", shape=(kept,), kind="i")
        head.prior_ = take_array(arrays, "prior", shape=(n_classes,))
        head.mean_ = take_array(arrays, "mean", shape=(width,))
        head.scale_ = take_array(arrays, "scale", shape=(width,))
        if head.codes_.min() < 0 or head.codes_.max() >= n_classes or not (head.prior_ > 0).all():
            msg = f"KNNHead: class numbers outside 0 … {n_classes - 1}, or a class without cells. The head is damaged."
            raise DamagedError(msg)
        return head

    def _take_compressed(self, arrays: Mapping[str, Array], probing: JSON, *, kept: int) -> None:
        try:
            numbers = dict(probing)
            n_lists, components = (int(numbers.pop(name)) for name in ("n_lists", "components"))
            self.probing_ = Probing(**numbers)
            sound = 1 <= self.probing_.probes <= n_lists and components >= 1
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            msg = f"KNNHead: probing {str(probing)[:100]} makes no sense. The head is damaged."
            raise DamagedError(msg)
        self.vectors_ = take_array(arrays, "vectors", shape=(kept, components))
        self.lists_ = take_array(arrays, "lists", shape=(kept,), kind="i")
        self.compression_ = Compression(
            take_array(arrays, "components", shape=(self.n_features_in_, components)),
            take_array(arrays, "centroids", shape=(n_lists, components)),
        )
        if self.vectors_.dtype != np.float16 or self.lists_.min() < 0 or self.lists_.max() >= n_lists:
            msg = f"KNNHead: lists outside 0 … {n_lists - 1}, or vectors that are not float16. The head is damaged."
            raise DamagedError(msg)
        self._compressed = ListSearch.in_memory(self.compression_, self.vectors_, self.lists_)
