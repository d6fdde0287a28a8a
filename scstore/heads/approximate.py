"""Approximate nearest neighbours among many rows: principal components, an inverted file, half precision (FAISS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from scstore.heads.exact_search import nearest_prepared
from scstore.heads.rows import BLOCK_BYTES, Array, Rows, RowSubset, iter_blocks, materialise, read
from scstore.heads.training import no_spinning

__all__ = ["EXACT_BELOW", "FARTHEST", "FEWEST", "WIDTHS", "ApproximateIndex", "MeasuredRecall", "build_index"]

EXACT_BELOW = 50_000
"""Rows below which an exact search answers as quickly."""

FEWEST = 100
"""Rows below which nothing can be held out to measure recall on."""

WIDTHS = (16, 32, 48, 64, 96, 128, 192, 256)
"""Numbers of principal components to choose from."""

PROBES = tuple(sorted({round(2 ** (quarter / 4)) for quarter in range(45)}))
"""Numbers of lists to choose from: 1 to 2,048, each about a fifth more than the one before."""

HELD_OUT = 512
"""Rows held out: half to choose the number of lists, half to measure the recall of that choice."""

MARGIN = 0.01
"""Recall demanded of the choosing half beyond the target, so that the other half reaches it too."""

SAMPLE_ROWS, SAMPLE_BYTES = 20_000, 1 << 28
"""Rows that the components are fitted on, and their bytes as float32, at most."""

ROWS_PER_LIST = 40
"""Rows that k-means sees for each list; FAISS asks for 39."""

FARTHEST = 6e4
"""Limit of the projected values, within half precision and far beyond any prepared row."""

ORDERED_BY = 10
"""Components whose signs order the queries."""

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class MeasuredRecall:
    """Share ``recall`` of the ``k`` nearest of ``n_queries`` held-out rows, found in the ``probes`` nearest lists."""

    probes: int
    recall: float
    k: int
    n_queries: int


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Row numbers ``own`` (m,), the rows ``queries`` (m, d), and their exact neighbours ``truth`` (m, k)."""

    own: Array
    queries: Float32
    truth: NDArray[np.int64]

    def recall(self, found: NDArray[np.int64], part: slice) -> float:
        """Return the share of the exact neighbours of some rows that is among those found for them."""
        others = _without_own(found, self.own[part])
        return float((others[:, :, None] == self.truth[part][:, None, :]).any(axis=1).mean())


class ApproximateIndex:
    """Rows projected on components ``(d, p)``, in half precision, each in the list of its nearest centroid.

    Rows are compared by Euclidean distance, so cosines need rows of length 1.
    """

    def __init__(self, components: Float32, faiss_index: Any, measured: MeasuredRecall | None = None) -> None:
        self.components = components
        self.faiss_index = faiss_index
        self.measured = measured

    @classmethod
    def from_codes(
        cls, components: Float32, centroids: Float32, codes: Array, measured: MeasuredRecall | None = None
    ) -> Self:
        """Return the index of projected rows ``(n, p)``."""
        index = cls(components, _inverted_file(centroids.shape[1], len(centroids)), measured)
        index.faiss_index.quantizer.add(centroids)
        index.faiss_index.train(centroids)
        index.faiss_index.add(np.ascontiguousarray(codes, dtype=np.float32))
        return index

    @property
    def n_lists(self) -> int:
        """Number of lists."""
        return int(self.faiss_index.nlist)

    @property
    def centroids(self) -> Float32:
        """Centroids of the lists, ``(n_lists, p)``."""
        found: Float32 = self.faiss_index.quantizer.reconstruct_n(0, self.n_lists)
        return found

    def codes(self) -> NDArray[np.float16]:
        """Return the projected rows as they are kept, ``(n, p)``."""
        self.faiss_index.make_direct_map()
        found: NDArray[np.float16] = self.faiss_index.reconstruct_n(0, self.faiss_index.ntotal).astype(np.float16)
        self.faiss_index.make_direct_map(False)  # noqa: FBT003  # FAISS's signature
        return found

    def project(self, rows: Array) -> Float32:
        """Return prepared rows ``(m, d)`` as they are kept, ``(m, p)``; a row alone and among others is the same."""
        with no_spinning():
            return _half(rows.astype(np.float64) @ self.components.astype(np.float64))

    def search(
        self, queries: Float32, *, k: int, probes: int | None = None, chosen: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Return the rows found for projected queries ``(m, p)``, nearest first: ``(m, k)``, -1 where there are fewer.

        Only rows of ``chosen`` ``(n,)`` are found. Queries that find fewer than ``k`` rows search more lists.
        """
        if probes is None:
            probes = self.n_lists if self.measured is None else self.measured.probes
        found = self._look(queries, k, probes, chosen)
        while (short := found[:, -1] < 0).any() and probes < self.n_lists:
            probes *= 4
            found[short] = self._look(queries[short], k, probes, chosen)
        return found

    def _look(self, queries: Float32, k: int, probes: int, chosen: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        import faiss

        options: dict[str, Any] = {"nprobe": min(probes, self.n_lists)}
        if chosen is not None:
            selector: Any = faiss.IDSelectorBitmap  # its Python form takes an array
            options["sel"] = selector(np.packbits(chosen, bitorder="little"))
        # rows on the same side of the first components share lists, which then stay in the processor's cache
        sides = queries[:, :ORDERED_BY] > 0
        order = np.argsort(sides @ (1 << np.arange(sides.shape[1])[::-1]), kind="stable")
        _, found = self.faiss_index.search(
            np.ascontiguousarray(queries[order]), k, params=faiss.SearchParametersIVF(**options)
        )
        places: NDArray[np.int64] = found[np.argsort(order)]
        return places

    def measure(self, held_out: HeldOut, *, fetch: int, target: float) -> MeasuredRecall:
        """Choose the fewest lists that reach the recall on half of the held-out rows, and measure it on the others."""
        k, n = held_out.truth.shape[1], len(held_out.own)
        halves = (slice(0, n, 2), slice(1, n, 2))
        for probes in [*(p for p in PROBES if p < self.n_lists), self.n_lists]:
            recalls = []
            for half, bound in zip(halves, (target + MARGIN, target), strict=True):
                found = self.search(self.project(held_out.queries[half]), k=fetch * k + 1, probes=probes)
                recalls.append(held_out.recall(found, half))
                if recalls[-1] < bound and probes < self.n_lists:
                    break
            else:
                break
        return MeasuredRecall(probes, recalls[-1], k, len(range(n)[halves[1]]))


def build_index(
    rows: Rows, *, k: int = 10, fetch: int = 1, target: float = 0.95, seed: int = 0, block_bytes: int = BLOCK_BYTES
) -> ApproximateIndex:
    """Build an index of prepared rows ``(n, d)``, in two passes over them.

    It keeps as few components and searches as few lists as give the recall ``target`` of the ``k`` nearest rows among
    the ``fetch * k`` found; the recall is measured on rows that took no part in the fit.
    """
    n, width = rows.shape
    order = np.random.default_rng(seed).permutation(n)
    own, rest = np.sort(order[: min(HELD_OUT, n // 10)]), order[min(HELD_OUT, n // 10) :]
    queries = read(rows, own)
    _, found = nearest_prepared(rows, queries, k=k + 1, block_bytes=block_bytes)
    held_out = HeldOut(own, queries, _without_own(found, own))
    sample = materialise(RowSubset(rows, np.sort(rest[: min(SAMPLE_ROWS, SAMPLE_BYTES // (4 * width))])))
    with np.errstate(invalid="ignore"):  # equal rows have no variance to explain
        axes = PCA(min(WIDTHS[-1], *sample.shape), random_state=seed).fit(sample).components_.T.astype(np.float32)
    widths = _enough_components(axes, sample, queries, k=k, fetch=fetch, target=target)
    del sample
    n_lists = 1 << int(np.log2(np.clip(4 * np.sqrt(n), 1, n / (2 * ROWS_PER_LIST) + 1)))
    teachers = RowSubset(rows, np.sort(rest[: n_lists * ROWS_PER_LIST]))
    for p in widths:
        index = ApproximateIndex(np.ascontiguousarray(axes[:, :p]), _inverted_file(p, n_lists, seed=seed))
        index.faiss_index.train(np.concatenate([index.project(b) for _, b in iter_blocks(teachers)]))
        for _, block in iter_blocks(rows, block_bytes=block_bytes):
            index.faiss_index.add(index.project(block))
        index.measured = index.measure(held_out, fetch=fetch, target=target)
        if index.measured.recall >= target:
            break
    return index


def _enough_components(
    axes: Float32, sample: Float32, queries: Float32, *, k: int, fetch: int, target: float
) -> list[int]:
    """Return the fewest components with which a search of the whole sample finds most neighbours, and more to try."""
    import faiss

    k = min(k, len(sample))
    wanted = faiss.knn(queries, sample, k)[1]
    widths = [*(w for w in WIDTHS if w < axes.shape[1]), axes.shape[1]]
    for place, width in enumerate(widths):
        codes, near = _half(sample @ axes[:, :width]), _half(queries @ axes[:, :width])
        found = faiss.knn(near, codes, min(fetch * k, len(sample)))[1]
        if (found[:, :, None] == wanted[:, None, :]).any(axis=1).mean() >= (1 + target) / 2:
            return widths[place:]
    return widths[-1:]


def _inverted_file(width: int, n_lists: int, *, seed: int = 0) -> Any:
    import faiss

    index: Any = faiss.index_factory(width, f"IVF{n_lists},SQfp16")
    index.by_residual = False
    index.cp.niter, index.cp.seed = 10, seed
    index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = ROWS_PER_LIST, 1
    return index


def _half(values: Array) -> Float32:
    """Return values rounded to half precision, as float32."""
    return np.clip(values, -FARTHEST, FARTHEST).astype(np.float16).astype(np.float32)


def _without_own(found: NDArray[np.int64], own: Array) -> NDArray[np.int64]:
    """Drop each row's own number from those found for it, or the last where it is not among them."""
    away = found == own[:, None]
    away[~away.any(axis=1), -1] = True
    others: NDArray[np.int64] = found[~away].reshape(len(found), -1)
    return others
