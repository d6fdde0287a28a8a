"""Nearest neighbours among many cells: recall, speed, size and build time, beside FAISS Flat, hnswlib and usearch.

    python benchmarks/search.py [--sizes 20000 200000 1000000] [--width 512] [--threads 2] [--rivals-up-to 200000]
        [--json FILE] [--quick]

Synthetic features (synthetic_features.py), half precision, on disk. 16, 64 and 128 principal components hold about .83,
.97 and .98 of the variance of the rows as compared; in the readouts of a small model on real blood cells it is .77-.86,
.93-.97 and .98-.99.

Every search finds the 10 nearest cells of 1,000 new ones by cosine around the mean. scstore's row is what `query` does:
from features on disk to exact distances of the neighbours found. The others get
centred and normalised float32 rows in memory, and for hnswlib and usearch (half precision) the smallest beam whose
recall is at least .95. Sizes are bytes of the index as saved. All use the same number of threads. scstore's index is
built in a process of its own to measure its peak of memory; FAISS Flat, which finds the same neighbours in the same
run, is timed in turn with it, so that a busy neighbour slows both. hnswlib takes more than half an hour for a million
rows, so the rivals stop at --rivals-up-to.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Findings, median_seconds, parser, side_by_side, table
from own_process import in_own_process
from synthetic_features import OnDisk, write_features
from threadpoolctl import threadpool_limits

K, QUERIES, ALONE, TARGET = 10, 1000, 50, 0.95
NOISE = 1.3
BLOCK_ROWS = 50_000
BEAMS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)

Found = Callable[[np.ndarray], np.ndarray]
"""From query rows to the row numbers of their neighbours."""


@dataclass(frozen=True)
class Row:
    """What was measured of one way; the peak is of building it, in gigabytes."""

    recall: float
    batch_per_second: float
    alone_ms: float
    megabytes: float
    build_seconds: float
    setting: str
    build_peak_gb: float | None = None


def measure(found: Found, queries: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Recall, queries a second all at once, and milliseconds of one alone."""
    recall = float((found(queries)[:, :, None] == truth[:, None, :]).any(axis=1).mean())
    batch = median_seconds(lambda: found(queries), repeats=3, warm_up=0)
    singles = [queries[i : i + 1] for i in range(min(ALONE, len(queries)))]
    alone = median_seconds(lambda: [found(one) for one in singles], repeats=1, warm_up=0)
    return recall, len(queries) / batch, 1000 * alone / len(singles)


def build(folder: Path) -> dict[str, Any]:
    """Build the index as ``query`` does, in this process."""
    from scstore.search.index import build_cosine_index

    begun = time.perf_counter()
    index = build_cosine_index(OnDisk(folder / "reference.npy"))
    seconds = time.perf_counter() - begun
    (folder / "index").write_bytes(index.to_bytes())
    return {"seconds": seconds}


def scstore_and_flat(folder: Path, truth: np.ndarray, *, threads: int) -> tuple[dict[str, Row], float, float]:
    """The index as ``query`` searches it, FAISS's exact one, the ratio of their speeds, and the recall measured."""
    import faiss

    from scstore.heads.neighbour_search import unit_rows
    from scstore.search.index import CosineIndex

    built = in_own_process(build, folder, threads=threads)
    index, rows = CosineIndex.from_bytes((folder / "index").read_bytes()), OnDisk(folder / "reference.npy")
    new, everything = OnDisk(folder / "new.npy")[:], np.ones(rows.shape[0], dtype=bool)
    measured = index.rows.measured
    setting = f"{index.rows.components.shape[1]} dims, {measured.probes} of {index.rows.n_lists} lists"
    setting += f", measured {measured.recall:.3f}"

    def whole(queries: np.ndarray) -> np.ndarray:
        return index.nearest(rows, queries, k=K, chosen=everything)[1]

    flat = faiss.IndexFlatIP(rows.shape[1])
    begun = time.perf_counter()
    for start in range(0, rows.shape[0], BLOCK_ROWS):
        flat.add(unit_rows(rows[start : start + BLOCK_ROWS], index.mean))
    flat_build = time.perf_counter() - begun
    units = unit_rows(new, index.mean)

    def exact(queries: np.ndarray) -> np.ndarray:
        return flat.search(queries, K)[1]

    in_turn = side_by_side(lambda: whole(new), lambda: exact(units), repeats=9)
    size, flat_size = (folder / "index").stat().st_size / 1e6, 4 * rows.shape[0] * rows.shape[1] / 1e6
    here = {
        "scstore": Row(*measure(whole, new, truth), size, built["seconds"], setting, built["peak_gb"]),
        "FAISS Flat": Row(*measure(exact, units, truth), flat_size, flat_build, "exact"),
    }
    return here, in_turn.ratio, measured.recall


def hnswlib_row(rows: np.ndarray, queries: np.ndarray, truth: np.ndarray, *, folder: Path, threads: int) -> Row:
    """hnswlib with its usual M = 16, ef_construction = 200."""
    import hnswlib

    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    begun = time.perf_counter()
    index.init_index(max_elements=len(rows), M=16, ef_construction=200, random_seed=0)
    index.set_num_threads(threads)
    index.add_items(rows)
    build = time.perf_counter() - begun
    index.save_index(str(folder / "hnsw"))
    size = (folder / "hnsw").stat().st_size / 1e6
    return _smallest_beam(index.set_ef, lambda q: index.knn_query(q, k=K)[0], queries, truth, size, build)


def usearch_row(rows: np.ndarray, queries: np.ndarray, truth: np.ndarray, *, folder: Path, threads: int) -> Row:
    """usearch in half precision, its defaults else."""
    from usearch.index import Index

    index = Index(ndim=rows.shape[1], metric="ip", dtype="f16")
    begun = time.perf_counter()
    index.add(np.arange(len(rows)), rows, threads=threads)
    build = time.perf_counter() - begun
    index.save(str(folder / "usearch"))
    size = (folder / "usearch").stat().st_size / 1e6

    def set_beam(beam: int) -> None:
        index.expansion_search = beam

    def found(q: np.ndarray) -> np.ndarray:
        return np.asarray(index.search(q, K, threads=threads).keys, dtype=np.int64).reshape(len(q), K)

    return _smallest_beam(set_beam, found, queries, truth, size, build)


def _smallest_beam(
    set_beam: Callable[[int], None], found: Found, queries: np.ndarray, truth: np.ndarray, size: float, build: float
) -> Row:
    for beam in BEAMS:
        set_beam(beam)
        recall = float((found(queries).astype(np.int64)[:, :, None] == truth[:, None, :]).any(axis=1).mean())
        if recall >= TARGET:
            break
    return Row(*measure(lambda q: found(q).astype(np.int64), queries, truth), size, build, f"beam {beam}")


def main() -> int:
    options = parser("Nearest neighbours among many cells, beside FAISS Flat, hnswlib and usearch.")
    options.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000, 1_000_000])
    options.add_argument("--width", type=int, default=512)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rivals-up-to", type=int, default=200_000, metavar="ROWS", help="hnswlib and usearch")
    words = options.parse_args()
    sizes, width = ([3_000], 48) if words.quick else (sorted(words.sizes), words.width)
    findings = Findings("benchmarks/search.py")
    for n in sizes:
        with tempfile.TemporaryDirectory() as scratch, threadpool_limits(words.threads):
            folder = Path(scratch)
            here, over_flat, measured = at_size(
                folder, n=n, width=width, threads=words.threads, most=words.rivals_up_to
            )
        print(f"\n{n:,} cells x {width}, {K} neighbours, {words.threads} threads")
        rows = [
            [name, f"{row.recall:.3f}", row.batch_per_second, row.alone_ms, row.megabytes, row.build_seconds,
             "-" if row.build_peak_gb is None else row.build_peak_gb, row.setting]
            for name, row in here.items()
        ]  # fmt: skip
        table(["search", "recall", "queries/s", "alone, ms", "MB", "build, s", "peak GB", ""], rows)
        goals(findings, n, here, over_flat=over_flat, measured=measured, check=not words.quick)
        findings.figures[f"{n:,} x {width}"] = {
            "rows": {name: asdict(row) for name, row in here.items()}, "over_flat": over_flat, "measured": measured,
            "threads": words.threads,
        }  # fmt: skip
    return findings.finish(words.json)


def at_size(folder: Path, *, n: int, width: int, threads: int, most: int) -> tuple[dict[str, Row], float, float]:
    """All ways on the same cells; how much faster than the exact index ours is, and the recall measured."""
    from scstore.heads.neighbour_search import centre_of, nearest, unit_rows

    write_features(folder, {"reference": n, "new": QUERIES}, width=width, noise=NOISE)
    reference, new = OnDisk(folder / "reference.npy"), OnDisk(folder / "new.npy")
    _, truth = nearest(reference, new, k=K)
    here, over_flat, measured = scstore_and_flat(folder, truth, threads=threads)
    if n > most:
        print(f"hnswlib, usearch: left out beyond {most:,} rows (--rivals-up-to)")
        return here, over_flat, measured
    mean = centre_of(reference)
    rows, queries = unit_rows(reference[:], mean), unit_rows(new[:], mean)
    rivals: dict[str, Callable[..., Row]] = {"hnswlib": hnswlib_row, "usearch": usearch_row}
    for name, rival in rivals.items():
        try:
            here[name] = rival(rows, queries, truth, folder=folder, threads=threads)
        except ImportError:
            print(f"{name} is not installed: left out")
    return here, over_flat, measured


def goals(findings: Findings, n: int, here: dict[str, Row], *, over_flat: float, measured: float, check: bool) -> None:
    """What the index promises: recall at every size, the rest at 200,000 cells and more."""
    ours, flat = here["scstore"], here["FAISS Flat"]
    size, large = f"{n:,}", check and n >= 200_000
    findings.at_least(f"{size}: recall", ours.recall, TARGET if check else 0.9)
    findings.at_most(
        f"{size}: recall measured at the build, off by", abs(measured - ours.recall), 0.02 if check else 0.05
    )
    findings.at_least(f"{size}: queries/s over the exact index", over_flat, 20, check=large)
    findings.at_most(f"{size}: size over the exact index", ours.megabytes / flat.megabytes, 0.2, check=large)
    findings.at_most(f"{size}: one query alone, ms", ours.alone_ms, 5, check=check)
    if n >= 1_000_000:
        findings.at_most(f"{size}: MB", ours.megabytes, 400, check=check)
    if "hnswlib" in here:
        theirs = here["hnswlib"]
        ahead = (ours.batch_per_second / ours.megabytes) / (theirs.batch_per_second / theirs.megabytes)
        findings.at_least(f"{size}: queries/s per MB over hnswlib", ahead, 1, check=large)


if __name__ == "__main__":
    sys.exit(main())
