"""Nearest neighbours: exact between matrices that are read block by block, or approximate among many rows."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from scstore.heads.rows import BLOCK_BYTES, Array, MappedRows, Rows, RowSubset, iter_blocks, materialise, read, to_dense
from scstore.heads.training import in_threads, one_blas_thread

EXACT_BELOW = 50_000  # rows below which an exact search answers as quickly as an approximate one
FEWEST = 100  # rows below which nothing can be held out to measure recall on
WIDTHS = (16, 24, 32, 40, 48, 64, 96, 128, 192, 256)  # numbers of principal components to choose from
PROBES = tuple(sorted({round(2 ** (eighth / 8)) for eighth in range(90)}))  # numbers of lists to choose from
RECALL, RECALL_AT = 0.95, 10  # share of so many nearest rows that a search should find
FETCH = 2  # rows found per neighbour where exact distances decide among them: far fewer components are enough
HELD_OUT = 512  # rows held out: half to choose the number of lists, half to measure the recall of that choice
MARGIN = 0.01  # recall demanded of the choosing half beyond that, so that the other half reaches it too
SAMPLE_ROWS, SAMPLE_BYTES = 20_000, 1 << 28  # of the rows that the components are fitted on, at most
ROWS_PER_LIST = 40  # rows that k-means sees for each list at least; FAISS asks for 39
MOST_PER_LIST = 100  # and at most, where there are as many: the lists are better, and fewer are searched
FARTHEST = 6e4  # limit of the projected values, within half precision and far beyond any prepared row
ORDERED_BY = 10  # components whose signs order queries: similar ones share lists, which stay in the processor's cache
CACHE_BYTES = 1 << 20  # float32 of the rows whose distances are computed at a time: they stay in the processor's cache
BEYOND_HALF = 65_536.0  # infinity and NaN of half precision become this or more where their bits are read as a number

Float32 = NDArray[np.float32]


def centre_of(rows: Rows, *, block_bytes: int = BLOCK_BYTES) -> Float32:
    """Return the mean of all rows, ``(d,)``."""
    total = np.zeros(rows.shape[1], dtype=np.float64)
    for _, block in iter_blocks(rows, block_bytes=block_bytes):
        total += block.sum(axis=0, dtype=np.float64)
    return (total / rows.shape[0]).astype(np.float32)


def unit_rows(block: Any, mean: Float32) -> Float32:
    """Return rows minus ``mean``, each of length 1: half the squared distance of two is 1 - their cosine."""
    centred: Float32 = to_dense(block) - mean
    centred /= _lengths(centred)[:, None]
    return centred


def unit_view(rows: Rows, mean: Float32) -> MappedRows:
    """Return :func:`unit_rows` of a matrix, computed when read."""
    return MappedRows(rows, lambda block: unit_rows(block, mean), width=rows.shape[1])


def cosine_distances_to(rows: Array, near: NDArray[np.int64], units: Float32, mean: Float32) -> Float32:
    """Return 1 - cosine ``(m, k)`` of unit queries and their rows ``near`` of ``rows``; NaN if one is not finite."""
    m, k = near.shape
    found = np.empty((m, k), dtype=np.float32)
    step = max(1, CACHE_BYTES // (4 * k * rows.shape[1]))

    def fill(starts: Sequence[int]) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            for start in starts:
                part = slice(start, start + step)
                centred = _single(rows[near[part]])
                centred -= mean
                cosines = np.matmul(centred, units[part, :, None])[:, :, 0] / _lengths(centred)
                np.subtract(1, cosines, out=found[part])

    every = range(0, m, step)
    share = max(1, -(-len(every) // (os.cpu_count() or 1)))
    for _ in in_threads(fill, [every[first : first + share] for first in range(0, len(every), share)]):
        pass
    return found


def nearest(
    reference: Rows, queries: Rows, *, k: int, mean: Float32 | None = None, block_bytes: int = BLOCK_BYTES
) -> tuple[Float32, NDArray[np.int64]]:
    """Return cosine distances, ascending, and numbers of the nearest rows, ``(m, k)`` each, streaming both sides."""
    if mean is None:
        mean = centre_of(reference, block_bytes=block_bytes)
    prepared = unit_view(reference, mean)
    distances = np.empty((queries.shape[0], k), dtype=np.float32)
    indices = np.empty((queries.shape[0], k), dtype=np.int64)
    for start, block in iter_blocks(queries, block_bytes=block_bytes):
        part = slice(start, start + len(block))
        units = unit_rows(block, mean)
        distances[part], indices[part] = nearest_prepared(prepared, units, k=k, block_bytes=block_bytes)
    return np.clip(distances / 2, 0, 2), indices


def nearest_prepared(
    reference: Rows, queries: Float32, *, k: int, block_bytes: int = BLOCK_BYTES
) -> tuple[Float32, NDArray[np.int64]]:
    """Return squared distances, ascending, and numbers of the nearest rows, ``(m, k)`` each, in one pass over them."""
    import faiss

    heap = faiss.ResultHeap(len(queries), k)
    for first, rows in iter_blocks(reference, block_bytes=block_bytes):
        found, where = faiss.knn(queries, rows, min(k, len(rows)))
        heap.add_result(found, where + first)
    heap.finalize()
    return heap.D, heap.I


@dataclass(frozen=True)
class MeasuredRecall:
    """Share ``recall`` of the ``k`` nearest of ``n_queries`` held-out rows, found in the ``probes`` nearest lists."""

    probes: int
    recall: float
    k: int
    n_queries: int


@dataclass(eq=False)
class ApproximateIndex:
    """FAISS's inverted file (Jégou, Douze, Schmid 2011) of rows on components ``(d, p)``, in half precision."""

    components: Float32
    faiss_index: Any
    measured: MeasuredRecall

    @classmethod
    def from_codes(cls, components: Float32, centroids: Float32, rows: Array, measured: MeasuredRecall) -> Self:
        """Return the index of projected rows ``(n, p)``."""
        index = cls(components, _inverted_file(centroids.shape[1], len(centroids)), measured)
        index.faiss_index.quantizer.add(centroids)
        index.faiss_index.train(centroids)
        index.faiss_index.add(np.ascontiguousarray(rows, dtype=np.float32))
        return index

    @property
    def n_lists(self) -> int:
        """Number of lists."""
        return int(self.faiss_index.nlist)

    @property
    def centroids(self) -> Float32:
        """Centroids of the lists, ``(n_lists, p)``."""
        return np.asarray(self.faiss_index.quantizer.reconstruct_n(0, self.n_lists))

    def codes(self) -> NDArray[np.float16]:
        """Return the projected rows as they are kept, ``(n, p)``."""
        self.faiss_index.make_direct_map()
        found: NDArray[np.float16] = self.faiss_index.reconstruct_n(0, self.faiss_index.ntotal).astype(np.float16)
        self.faiss_index.make_direct_map(False)  # noqa: FBT003  # FAISS's signature
        return found

    def project(self, rows: Array) -> Float32:
        """Return prepared rows ``(m, d)`` as they are kept, ``(m, p)``; a row alone and among others is the same."""
        with one_blas_thread():
            return _half(rows.astype(np.float64) @ self.components.astype(np.float64))

    def search(
        self, queries: Float32, *, k: int, probes: int | None = None, chosen: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Return ``chosen`` rows near projected queries, ``(m, k)``, of more lists if too few; -1 for none."""
        probes = probes or self.measured.probes
        found = self._search_lists(queries, k, probes, chosen)
        while (short := found[:, -1] < 0).any() and probes < self.n_lists:
            probes *= 4
            found[short] = self._search_lists(queries[short], k, probes, chosen)
        return found

    def _search_lists(self, queries: Float32, k: int, probes: int, chosen: Array | None) -> NDArray[np.int64]:
        import faiss

        options: dict[str, Any] = {"nprobe": min(probes, self.n_lists)}
        if chosen is not None:
            selector: Any = faiss.IDSelectorBitmap  # its Python form takes an array
            options["sel"] = selector(np.packbits(chosen, bitorder="little"))
        parameters: Any = faiss.SearchParametersIVF  # in Python it takes names
        sides = queries[:, :ORDERED_BY] > 0
        order = np.argsort(sides @ (1 << np.arange(sides.shape[1])[::-1]), kind="stable")
        _, found = self.faiss_index.search(np.ascontiguousarray(queries[order]), k, params=parameters(**options))
        return np.asarray(found[np.argsort(order)])

    def measure(self, queries: Float32, own: Array, truth: Array, *, fetch: int = 1) -> MeasuredRecall:
        """Choose the fewest lists that reach the recall on half of the rows ``own``, and measure it on the others."""
        projected, k = self.project(queries), truth.shape[1]
        for probes in [*(p for p in PROBES if p < self.n_lists), self.n_lists]:
            found = without_own(self.search(projected, k=fetch * k + 1, probes=probes), own)
            choosing, measuring = _recall(found[::2], truth[::2]), _recall(found[1::2], truth[1::2])
            if choosing >= RECALL + MARGIN and measuring >= RECALL:
                break
        return MeasuredRecall(probes, measuring, k, len(truth[1::2]))


def build_index(
    rows: Rows, *, refined: bool = False, seed: int = 0, block_bytes: int = BLOCK_BYTES
) -> ApproximateIndex:
    """Build an index in two passes: as few components and lists as give :data:`RECALL` on held-out rows.

    If ``refined``, rows are of length 1, and the caller computes exact distances of ``FETCH`` times as many as it
    wants. Then inner products of the components order the rows within a list: what the components leave out moves them
    less than distances, so fewer components and lists do.
    """
    n, width = rows.shape
    order = np.random.default_rng(seed).permutation(n)
    own, rest = np.sort(order[: min(HELD_OUT, n // 10)]), order[min(HELD_OUT, n // 10) :]
    queries = read(rows, own)
    truth = without_own(nearest_prepared(rows, queries, k=RECALL_AT + 1, block_bytes=block_bytes)[1], own)
    sample = materialise(RowSubset(rows, np.sort(rest[: min(SAMPLE_ROWS, SAMPLE_BYTES // (4 * width))])))
    with np.errstate(invalid="ignore"):  # equal rows have no variance to explain
        axes = PCA(min(WIDTHS[-1], *sample.shape), random_state=seed).fit(sample).components_.T.astype(np.float32)
    widths = _enough_widths(axes, sample, queries, refined=refined)
    del sample
    n_lists = 1 << int(np.log2(np.clip(4 * np.sqrt(n), 1, n / (2 * ROWS_PER_LIST) + 1)))
    training_rows = RowSubset(rows, np.sort(rest[: min(n_lists * MOST_PER_LIST, n // 2)]))
    unmeasured = MeasuredRecall(n_lists, 0.0, RECALL_AT, 0)
    for p in widths:
        lists = _inverted_file(p, n_lists, seed=seed, refined=refined)
        index = ApproximateIndex(np.ascontiguousarray(axes[:, :p]), lists, unmeasured)
        index.faiss_index.train(np.concatenate([index.project(b) for _, b in iter_blocks(training_rows)]))
        for _, block in iter_blocks(rows, block_bytes=block_bytes):
            index.faiss_index.add(index.project(block))
        index.measured = index.measure(queries, own, truth, fetch=FETCH if refined else 1)
        if index.measured.recall >= RECALL:
            break
    return index


def _enough_widths(axes: Float32, sample: Float32, queries: Float32, *, refined: bool) -> list[int]:
    """Return the fewest components with which a search of the whole sample finds most neighbours, and more to try."""
    import faiss

    metric, n_found = faiss.METRIC_L2, min(RECALL_AT, len(sample))
    truth = faiss.knn(queries, sample, n_found)[1]
    if refined:
        metric, n_found = faiss.METRIC_INNER_PRODUCT, min(FETCH * RECALL_AT, len(sample))
    widths = [*(w for w in WIDTHS if w < axes.shape[1]), axes.shape[1]]
    for place, width in enumerate(widths):
        codes, near = _half(sample @ axes[:, :width]), _half(queries @ axes[:, :width])
        if _recall(faiss.knn(near, codes, n_found, metric=metric)[1], truth) >= (1 + RECALL) / 2:
            return widths[place:]
    return widths[-1:]


def _inverted_file(width: int, n_lists: int, *, seed: int = 0, refined: bool = False) -> Any:
    import faiss

    index: Any = faiss.index_factory(width, f"IVF{n_lists},SQfp16")
    if refined:
        index.metric_type = faiss.METRIC_INNER_PRODUCT  # within the lists, which are chosen by distance
    index.by_residual = False
    index.cp.niter, index.cp.seed = 10, seed
    index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = MOST_PER_LIST, 1
    return index


def _recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())


def without_own(found: NDArray[np.int64], own: Array) -> NDArray[np.int64]:
    """Return the rows found ``(m, k + 1)`` without the row itself, or without the last where it is not among them."""
    away = found == own[:, None]
    away[~away.any(axis=1), -1] = True
    return np.asarray(found[~away].reshape(len(found), -1))


def _half(values: Array) -> Float32:
    """Return values rounded to half precision, as float32."""
    return np.clip(values, -FARTHEST, FARTHEST).astype(np.float16).astype(np.float32)


def _lengths(centred: Float32) -> Float32:
    """Return the length of each row, at least a tiny one."""
    lengths: Float32 = np.sqrt(np.einsum("...d,...d->...", centred, centred))
    return np.maximum(lengths, np.finfo(np.float32).tiny)


def _single(block: Array) -> Float32:
    """Return a block as float32: from half precision by moving bits, seven times as fast as ``astype``."""
    if block.dtype != np.float16:
        return block.astype(np.float32, copy=False)
    bits = block.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # clears the copies of the sign bit
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)
    finite = not values.size or max(values.max(), -values.min()) < BEYOND_HALF
    return values if finite else block.astype(np.float32)
