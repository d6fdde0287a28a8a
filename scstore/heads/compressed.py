"""Approximate nearest neighbours among many rows: fewer dimensions, half precision, a few lists of all.

Rows are prepared by the caller (centred and L2-normalised, or standardised), projected on their first principal
components, kept in half precision, and dealt to lists by the nearest of some centroids (k-means). A query looks only
into the lists whose centroids are nearest to it: an inverted file (Jégou, Douze, Schmid 2011) as FAISS has it. How
many components and how many lists is measured on rows that took no part in fitting them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from scstore.heads.exact_search import nearest_prepared
from scstore.heads.rows import BLOCK_BYTES, Array, Rows, RowSubset, iter_blocks, materialise
from scstore.heads.threads import no_spinning

__all__ = [
    "EXACT_BELOW",
    "FARTHEST",
    "Compression",
    "HeldOut",
    "ListSearch",
    "Probing",
    "choose_probes",
    "encode",
    "fit_compression",
    "held_out_again",
]

EXACT_BELOW = 50_000
"""Rows below which an exact search answers as quickly."""

WIDTHS = (16, 32, 48, 64, 96, 128, 192, 256)
"""Numbers of principal components to choose from."""

PROBES = tuple(sorted({round(2 ** (quarter / 4)) for quarter in range(45)}))
"""Numbers of lists to look into to choose from: 1 to 2,048, each about a fifth more than the one before."""

ORDERED_BY = 10
"""Components by whose signs queries are ordered."""

QUERIES = 512
"""Rows held out: half to choose by, half to measure what was chosen."""

PCA_BYTES = 1 << 28
"""Bytes of float32 of the sample that the components are fitted on, at most; 20,000 rows at most."""

POINTS_A_LIST = 40
"""Rows that k-means sees for each centroid; FAISS asks for 39."""

FARTHEST = 6e4
"""Where a value is cut off: within half precision, and far beyond any prepared row."""

MARGIN = 0.01
"""What the choosing half must have beyond the recall wanted, so that the other half has it too."""

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Compression:
    """How a prepared row becomes a short code in one of some lists.

    Attributes
    ----------
    components
        ``(d, p) float32``, orthonormal columns.
    centroids
        ``(n_lists, p) float32``.
    """

    components: Float32
    centroids: Float32

    def project(self, block: Array) -> Float32:
        """Prepared rows ``(b, d)`` on the components, ``(b, p) float32`` within the range of half precision."""
        # In float64, so that half precision rounds a row alone and among others to the same code.
        with no_spinning():
            return _within_half(block.astype(np.float64) @ self.components.astype(np.float64))

    def encode(self, block: Array) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
        """Codes ``(b, p) float16`` and list numbers ``(b,) int32`` of prepared rows ``(b, d)``."""
        import faiss

        codes = self.project(block).astype(np.float16)
        _, lists = faiss.knn(codes.astype(np.float32), self.centroids, 1)
        return codes, lists[:, 0].astype(np.int32)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows of the reference that are searched for, to see what a search finds.

    Attributes
    ----------
    own
        ``(m,)`` their row numbers: a row is not its own neighbour.
    queries
        ``(m, d) float32`` the prepared rows.
    truth
        ``(m, k) int64`` row numbers of their exact neighbours.
    """

    own: Array
    queries: Float32
    truth: NDArray[np.int64]

    def renumbered(self, numbers: NDArray[np.int64]) -> HeldOut:
        """The same with ``numbers[i]`` for row i."""
        return HeldOut(numbers[self.own], self.queries, numbers[self.truth])

    def recall(self, found: NDArray[np.int64], part: slice) -> float:
        """Share of the exact neighbours of some of the rows that are among those found beside themselves."""
        others = _without_own(found, self.own[part], found.shape[1] - 1)
        return float((others[:, :, None] == self.truth[part][:, None, :]).any(axis=1).mean())


@dataclass(frozen=True)
class Probing:
    """How many lists a query looks into, and what it finds there.

    Attributes
    ----------
    probes
        Number of lists.
    recall
        Share of the k exact nearest neighbours that are found, on the half of the held-out rows that the number was not
        chosen on; it is raised until that half has the recall wanted too.
    k
        Neighbours that were asked for.
    n_queries
        How many held-out rows it was measured on.
    fetch
        Codes looked up for each neighbour asked for, where exact distances decide among them; 1 where they do not.
    """

    probes: int
    recall: float
    k: int
    n_queries: int
    fetch: int


def fit_compression(
    rows: Rows, *, k: int = 10, fetch: int = 1, target: float = 0.95, seed: int = 0, block_bytes: int = BLOCK_BYTES
) -> tuple[Compression, HeldOut]:
    """Learn components and centroids from a seeded sample, in one pass over the rows besides.

    The number of components is the smallest of :data:`WIDTHS` at which a search of all rows finds the share of the
    neighbours that lies halfway between ``target`` and all of them.

    Parameters
    ----------
    rows
        ``(n, d)`` prepared rows, at least 100.
    k
        Neighbours whose recall counts.
    fetch
        Codes that will be looked up for each neighbour asked for.
    target
        Recall wanted in the end.
    seed
        Of the samples.
    block_bytes
        Bytes of float32 of one block.
    """
    n, width = rows.shape
    rng = np.random.default_rng(seed)
    n_lists = 1 << int(np.log2(np.clip(4 * np.sqrt(n), 1, n / (2 * POINTS_A_LIST) + 1)))
    order = rng.permutation(n)
    own = np.sort(order[: min(QUERIES, n // 10)])
    # what the components are fitted on comes first, so that the rest of the sample need never be held as it is
    fitted_on = order[len(own) :][: max(n_lists * POINTS_A_LIST, 20_000)]
    components = _components(rows, np.sort(fitted_on[: min(20_000, PCA_BYTES // (4 * width))]), seed=seed)
    queries = materialise(RowSubset(rows, own))
    widths = [w for w in WIDTHS if w < components.shape[1]] + [components.shape[1]]
    first = slice(0, len(own), 2)
    ways = [(way, way(queries[first])) for way in (_through(components[:, :w]) for w in widths)]
    exact, *seen = nearest_prepared(rows, queries, k=fetch * k + 1, block_bytes=block_bytes, through=ways)
    held_out = HeldOut(own, queries, _without_own(exact[1], own, k))
    recalls = [held_out.recall(found, first) for _, found in seen]
    chosen = next((w for w, recall in zip(widths, recalls, strict=True) if recall >= (1 + target) / 2), widths[-1])
    kept = np.ascontiguousarray(components[:, :chosen])
    points = np.empty((min(len(fitted_on), n_lists * POINTS_A_LIST), chosen), dtype=np.float32)
    for start, block in iter_blocks(RowSubset(rows, np.sort(fitted_on[: len(points)])), block_bytes=block_bytes):
        points[start : start + len(block)] = _within_half(block @ kept)
    return Compression(kept, _centroids(points, n_lists, seed=seed)), held_out


def held_out_again(
    rows: Rows, own: Array, *, among: NDArray[np.int64], k: int, block_bytes: int = BLOCK_BYTES
) -> HeldOut:
    """The exact neighbours of rows that were held out before, now among the row numbers ``among``; one pass."""
    queries = materialise(RowSubset(rows, own))
    ((_, found),) = nearest_prepared(RowSubset(rows, among), queries, k=k + 1, block_bytes=block_bytes)
    return HeldOut(own, queries, _without_own(among[found], own, k))


def encode(
    rows: Rows,
    compression: Compression,
    codes: NDArray[np.float16],
    *,
    block_bytes: int = BLOCK_BYTES,
) -> NDArray[np.int32]:
    """Fill ``codes``, ``(n, p)``, in memory or mapped; gives the list number of each row, ``(n,) int32``."""
    lists = np.empty(rows.shape[0], dtype=np.int32)
    for start, block in iter_blocks(rows, block_bytes=block_bytes):
        part = slice(start, start + len(block))
        codes[part], lists[part] = compression.encode(block)
    return lists


def choose_probes(search: ListSearch, held_out: HeldOut, *, fetch: int = 1, target: float = 0.95) -> Probing:
    """The fewest lists that give the recall wanted on one half of the held-out rows, measured on the other half.

    All lists where none of :data:`PROBES` is enough: the recall then says so.
    """
    k, n = held_out.truth.shape[1], len(held_out.own)
    ladder = [*(p for p in PROBES if p < search.n_lists), search.n_lists]
    halves = (slice(0, n, 2), slice(1, n, 2))
    for probes in ladder:
        found = []
        for half in halves:
            codes = search.compression.project(held_out.queries[half])
            _, places = search.search(codes, k=fetch * k + 1, probes=probes)
            found.append(held_out.recall(places, half))
            if probes < search.n_lists and found[-1] < target + (MARGIN if half is halves[0] else 0):
                break
        else:
            break
    return Probing(probes, found[-1], k, len(range(n)[halves[1]]), fetch)


class ListSearch:
    """A search among codes in lists, in memory or mapped from a file.

    Parameters
    ----------
    compression
        What the codes were made with.
    lists
        FAISS's inverted lists.
    n
        Number of codes.
    """

    def __init__(self, compression: Compression, lists: Any, n: int) -> None:
        import faiss

        self.compression = compression
        self.n_lists, width = compression.centroids.shape
        # FAISS keeps no reference of its own to either
        self._quantizer = faiss.IndexFlatL2(width)
        self._quantizer.add(compression.centroids)
        self._lists = lists
        kind = faiss.ScalarQuantizer.QT_fp16
        self._index = faiss.IndexIVFScalarQuantizer(
            self._quantizer,
            width,
            self.n_lists,
            kind,
            faiss.METRIC_L2,
            False,  # noqa: FBT003  # FAISS's signature
        )
        self._index.is_trained = True  # half precision has nothing to learn
        self._index.replace_invlists(lists, False)  # noqa: FBT003
        self._index.ntotal = n

    @classmethod
    def in_memory(cls, compression: Compression, codes: NDArray[np.float16], lists: NDArray[np.int32]) -> Self:
        """Search codes ``(n, p)`` that are in lists ``(n,)``; the places found are row numbers of ``codes``."""
        import faiss

        n_lists, width = compression.centroids.shape
        inverted = faiss.ArrayInvertedLists(n_lists, 2 * width)
        order = np.argsort(lists, kind="stable")
        bounds = np.searchsorted(lists[order], np.arange(n_lists + 1))
        for i in range(n_lists):
            rows = np.ascontiguousarray(order[bounds[i] : bounds[i + 1]], dtype=np.int64)
            if len(rows):
                values = np.ascontiguousarray(codes[rows]).view(np.uint8)
                inverted.add_entries(i, len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(values))
        return cls(compression, inverted, len(codes))

    @classmethod
    def on_disk(cls, compression: Compression, file: Path, sizes: NDArray[np.int64]) -> Self:
        """Search lists that lie in a file one after the other: a list's codes, then its row numbers as int64.

        The file is mapped, not read. It holds numbers alone, and its size was checked by the caller against the
        ``(n_lists,)`` sizes, so nothing in it can lead a read elsewhere.
        """
        import faiss

        n, width = int(sizes.sum()), compression.centroids.shape[1]
        if not hasattr(faiss, "OnDiskInvertedLists"):  # pragma: no cover  # FAISS cannot map files on Windows
            return cls(compression, _read_lists(file, sizes, width), n)
        inverted: Any = faiss.OnDiskInvertedLists(len(sizes), 2 * width, str(file))
        inverted.read_only = True
        inverted.prefetch_nthread = 0
        inverted.totsize = n * (2 * width + 8)
        unsigned = sizes.astype(np.uint64)
        inverted.set_all_lists_sizes(faiss.swig_ptr(unsigned))
        if n:
            inverted.do_mmap()
        return cls(compression, inverted, n)

    def search(
        self, queries: Array, *, k: int, probes: int, chosen: NDArray[np.bool_] | None = None
    ) -> tuple[Float32, NDArray[np.int64]]:
        """The nearest codes of projected rows.

        Parameters
        ----------
        queries
            ``(m, p) float32`` as :meth:`Compression.project` gives them.
        k
            Neighbours a query.
        probes
            How many lists to look into; more are for queries that find fewer than ``k`` there.
        chosen
            ``bool`` by row number: which may be found; all by default.

        Returns
        -------
        distances, places
            ``(m, k) float32`` squared Euclidean distances of the codes, ascending, and ``(m, k) int64`` row numbers;
            −1 where there are fewer.
        """
        import faiss

        parameters: Any = faiss.SearchParametersIVF  # in Python it takes names
        options: dict[str, Any] = {}
        if chosen is not None:
            bits = np.packbits(chosen, bitorder="little")
            selector: Any = faiss.IDSelectorBitmap  # its Python form takes an array
            options["sel"] = selector(bits)

        def look(rows: Array) -> tuple[Float32, NDArray[np.int64]]:
            limits = parameters(nprobe=min(probes, self.n_lists), **options)
            order = _alike_together(rows)
            back = np.argsort(order)
            distances, places = self._index.search(np.ascontiguousarray(rows[order]), k, params=limits)
            return distances[back], places[back]

        distances, places = look(queries)
        while (short := places[:, -1] < 0).any() and probes < self.n_lists:
            probes *= 4
            distances[short], places[short] = look(queries[short])
        return distances, places


def _read_lists(file: Path, sizes: NDArray[np.int64], width: int) -> Any:  # pragma: no cover  # as above
    """Lists as they lie in a file, in memory."""
    import faiss

    inverted = faiss.ArrayInvertedLists(len(sizes), 2 * width)
    raw, start = np.fromfile(file, dtype=np.uint8), 0
    for i, size in enumerate(sizes.tolist()):
        middle, end = start + 2 * width * size, start + (2 * width + 8) * size
        if size:
            rows, values = raw[middle:end].view(np.int64), raw[start:middle]
            inverted.add_entries(i, size, faiss.swig_ptr(rows), faiss.swig_ptr(values))
        start = end
    return inverted


def _alike_together(rows: Array) -> NDArray[np.int64]:
    """An order in which rows on the same side of the first components follow each other.

    They look into the same lists, which are then in the processor's cache.
    """
    sides = rows[:, :ORDERED_BY] > 0
    return np.argsort(sides @ (1 << np.arange(sides.shape[1])[::-1]), kind="stable")


def _without_own(found: NDArray[np.int64], own: Array, k: int) -> NDArray[np.int64]:
    """Drop each row's own number from what was found for it, or the last where it is not there: ``(m, k)``."""
    away = found == own[:, None]
    away[~away.any(axis=1), -1] = True
    others: NDArray[np.int64] = found[~away].reshape(len(found), -1)[:, :k]
    return others


def _through(components: Array) -> Any:
    part = np.ascontiguousarray(components)
    # rounded as the codes are, so that a width is judged by what it will give
    return lambda block: _within_half(block @ part).astype(np.float16).astype(np.float32)


def _within_half(values: Array) -> Float32:
    return np.ascontiguousarray(np.clip(values, -FARTHEST, FARTHEST), dtype=np.float32)


def _components(rows: Rows, index: Array, *, seed: int) -> Float32:
    """The first principal components of some rows, at most the largest of :data:`WIDTHS`: ``(d, p) float32``."""
    sample = materialise(RowSubset(rows, index))
    sample -= sample.mean(axis=0)
    count = min(WIDTHS[-1], *sample.shape)
    if sample.shape[1] <= 1024:
        _, axes = np.linalg.eigh(sample.T @ sample)
        return np.ascontiguousarray(axes[:, ::-1][:, :count], dtype=np.float32)
    _, _, axes = randomized_svd(sample, count, n_iter=2, random_state=seed)
    return np.ascontiguousarray(axes.T, dtype=np.float32)


def _centroids(points: Float32, n_lists: int, *, seed: int) -> Float32:
    import faiss

    means = faiss.Kmeans(
        points.shape[1], n_lists, niter=10, seed=seed, max_points_per_centroid=POINTS_A_LIST, min_points_per_centroid=1
    )
    means.train(points)
    centroids: Float32 = np.ascontiguousarray(means.centroids, dtype=np.float32)
    return centroids
