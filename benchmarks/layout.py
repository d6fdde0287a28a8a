"""How the rows of a store lie in files: today's layout beside other sizes of file and Zarr's sharding, with this zarr.

    python benchmarks/layout.py [--megabytes 128] [--delay 0.02] [--repeats 5] [--json FILE] [--quick]
    python benchmarks/layout.py --page stores/README.md

A view of 512 columns and one of 5,120 (float16; Zstandard shortens its values as little as real hidden states) are
written as today, in files of about 1, 4, 16 and 64 MB, compressed, and with the sharding codec: files of about 16 MB
with chunks of 64 to 4,096 rows inside, raw and compressed. Expression (CSR) gets chunks of 2^18, 2^20 (today's) and
2^22 values, and 2^18 in shards of 2^22. Each is read by scstore, as far as it writes such files, and by plain zarr: all
rows, ten and a thousand drawn at random; from a disk, the files dropped from the page cache before (a line says which
share did come from the disk), and from a server that waits before each answer (remote.py's). Opening is not timed. All
ways take turns in every repeat; a figure is the median of the ratios to the same reader with today's layout in the same
repeat. Every layout is first compared with what was written. ``--page`` writes results, one of each zarr, into a page.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import obstore
import zarr
from measuring import RESULTS, Findings, markdown, parser, seconds, table, with_sections
from remote import VIEW, opened, scan, served, write_store
from synthetic_cells import lognorm, make_counts

MB, READS = 2**20, {"scan": 1 << 62, "ten": 10, "thousand": 1000}
# A layout is better if all its readers take this share of the time in the geometric mean, and nowhere more than that.
GAIN, LOSS = 0.85, 1.05


@dataclass(frozen=True)
class Way:
    """Who reads which files."""

    reader: str
    layout: str
    is_today: bool
    folder: Path

    @property
    def files(self) -> list[Path]:
        return [file for file in self.folder.rglob("*") if file.is_file() and file.name != "zarr.json"]

    def open(self, data: Path, place: str) -> Callable[[Any], Any]:
        """What reads the rows of a selection, all of them where it is None."""
        where = f"{place}/{self.folder.relative_to(data).as_posix()}"
        if self.reader == "scstore":
            root, _, view = where.partition(".zarr/")
            rows = opened(f"{root}.zarr").view(view.removeprefix("obsm/"))
            return lambda chosen: scan(rows) if chosen is None else rows[chosen]
        server: Any = where
        if where.startswith("http:"):
            store = obstore.store.HTTPStore.from_url(where, client_options={"allow_http": True})
            server = zarr.storage.ObjectStore(store, read_only=True)
        array: Any = zarr.open_array(server, mode="r")
        return lambda chosen: array[:] if chosen is None else array.oindex[chosen]


def view_ways(data: Path, width: int, megabytes: float) -> tuple[list[Way], int]:
    """Write a view in all layouts; return the ways to read it, and the number of rows."""
    from scstore.store.ledger import ViewSpec, default_shard_rows

    sizes = [1 << round(math.log2(size * MB / (2 * width))) for size in (1, 4, 16, 64)]
    today = default_shard_rows(1 << 30, [ViewSpec("", width, "float16", {})])
    n = max(1000, round(megabytes / 64) * sizes[-1])
    rng = np.random.default_rng(0)
    values = np.empty((n, width), np.float16)
    spread = np.exp(rng.normal(size=width, scale=0.5)).astype(np.float32)
    for i in range(0, n, 4096):
        values[i : i + 4096] = rng.standard_normal(values[i : i + 4096].shape, np.float32) * spread
    layouts, ways = [*((rows, 0, False) for rows in sorted({*sizes, today})), (today, 0, True)], []
    layouts += [(sizes[2], one, zstd) for one in (64, 256, 1024, 4096) if one < sizes[2] for zstd in (False, True)]
    for rows, chunk, zstd in layouts:
        root = data / f"{width}_{rows}_{chunk}_{zstd}.zarr"
        folder, is_today = root / "obsm" / VIEW, (rows, chunk, zstd) == (today, 0, False)
        said = f"{rows * 2 * width / MB:.3g} MB{f' in chunks of {chunk}' if chunk else ''}{', zstd' if zstd else ''}"
        if chunk or zstd:
            how = {"shards": (rows, width)} if chunk else {}
            codec = zarr.codecs.ZstdCodec(level=1) if zstd else None
            zarr.create_array(
                folder, data=values, chunks=(chunk or rows, width), filters=None, compressors=codec, **how
            )
        else:
            write_store(root, n=n, width=width, shard_rows=rows, rows=values)
            ways.append(Way("scstore", said, is_today, folder))
        ways.append(Way("zarr", said, is_today, folder))
    for way in ways:
        np.testing.assert_array_equal(way.open(data, str(data))(np.arange(0, n, 7)), values[::7])
    return sorted(ways, key=lambda way: way.reader), n


def expression_ways(data: Path, megabytes: float) -> tuple[list[Way], int]:
    """The same for expression: log-normalised counts of about 2,000 genes a cell of 20,000."""
    from scstore.store.views import CHECKED

    X = lognorm(make_counts(max(200, round(megabytes * MB / 16_000)), seed=0))
    ways = []
    for power, shard in ((18, 0), (20, 0), (22, 0), (18, 22)):
        root, said = data / f"X_{power}_{shard}.zarr", f"2^{power} values{f' in shards of 2^{shard}' if shard else ''}"
        checked = CHECKED | ({"shards": (1 << shard,)} if shard else {})
        with patch.multiple("scstore.store.views", SPARSE_CHUNK=1 << power, CHECKED=checked):
            write_store(root, n=X.shape[0], width=2, X=X)
        ways.append(Way("scstore", said, (power, shard) == (20, 0), root / "X"))
        np.testing.assert_array_equal(ways[-1].open(data, str(data))(np.arange(X.shape[0])).data, X.data)
    return ways, X.shape[0]


def drop(files: list[Path]) -> None:
    """Take files out of the page cache, where the system can."""
    for file in files if hasattr(os, "posix_fadvise") else ():
        with file.open("rb") as known:
            os.fsync(known.fileno())
            os.posix_fadvise(known.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_from_disk() -> int:
    """Bytes that this process has read from a disk so far, where the system counts them."""
    with suppress(OSError):
        return int(Path("/proc/self/io").read_text(encoding="utf-8").partition("\nread_bytes: ")[2].split()[0])
    return 0


def measure(data: Path, ways: list[Way], n: int, places: dict[str, str], repeats: int, counts: Any) -> list[Any]:
    """Time all ways in turn."""
    found: dict[Way, dict[str, Any]] = {}
    for way in ways:
        size, name = sum(file.stat().st_size for file in way.files), f"{way.reader}: {way.layout}"
        found[way] = {"name": f"{name}{' (today)' if way.is_today else ''}", "files": len(way.files), "bytes": size,
                      "bytes_from_disk": [], "seconds": {}, "requests": {}, "bytes_sent": {}}  # fmt: skip
    for repeat in range(repeats):
        rng = np.random.default_rng(repeat)
        chosen = {read: np.sort(rng.choice(n, k, replace=False)) if k < n else None for read, k in READS.items()}
        for (place, root), way in ((one, way) for one in places.items() for way in ways):
            own = found[way]
            for read, rows in chosen.items():
                get = way.open(data, root)
                drop(way.files if place == "disk" else [])
                before, sent = bytes_from_disk(), list(counts)
                own["seconds"].setdefault(f"{place}: {read}", []).append(seconds(lambda: get(rows)))  # noqa: B023
                if place == "disk" and rows is None:
                    own["bytes_from_disk"].append(bytes_from_disk() - before)
                own["requests"][read], own["bytes_sent"][read] = counts[0] - sent[0], counts[1] - sent[1]
    for way, own in found.items():
        base = next(found[one] for one in ways if one.is_today and one.reader == way.reader)["seconds"]
        pairs = {name: zip(took, base[name], strict=True) for name, took in own["seconds"].items()}
        own["over_today"] = {name: statistics.median(b / a for b, a in some) for name, some in pairs.items()}
        own["mean"] = statistics.geometric_mean(own["over_today"].values())
    return list(found.values())


def show_ratios(title: str, layouts: list[Any]) -> None:
    print(f"\n{title}: time over that of the same reader with today's layout")
    rows = [[o["name"], o["files"], o["bytes"] / 1e6, *o["over_today"].values(), o["mean"]] for o in layouts]
    table(["", "files", "MB", *layouts[0]["over_today"], "mean"], rows)
    for one in (some for some in layouts if some["name"].endswith("(today)")):
        took = ", ".join(f"{name} {statistics.median(some):.3g}" for name, some in one["seconds"].items())
        cold = statistics.median(one["bytes_from_disk"]) / one["bytes"]
        print(f"{one['name']}, seconds: {took}; {cold:.0%} of the scan from the disk")


def sections() -> dict[str, str]:
    """The page's tables: what both versions of zarr gave, without the compressed views."""
    documents = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("layout_*.json"))]
    newest = {one["environment"]["versions"]["zarr"]: one["figures"] for one in documents}
    tables = {}
    for title in documents[-1]["figures"]["layouts"]:
        rows = []
        for ways in zip(*(figures["layouts"][title] for figures in newest.values()), strict=True):
            if "zstd" not in ways[0]["name"]:
                ratios = zip(*(way["over_today"].values() for way in ways), strict=True)
                rows.append([ways[0]["name"], *(" / ".join(f"{one:.2f}" for one in some) for some in ratios)])
        tables[title] = markdown([f"{title}; zarr {' / '.join(newest)}", *ways[0]["over_today"]], rows)
    return tables


def main() -> int:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--megabytes", type=float, default=128, help="of each view")
    options.add_argument("--delay", type=float, default=0.02, help="seconds that each request takes more")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--page", type=Path, help="measure nothing: write the tables of the results into this page")
    words = options.parse_args()
    if words.page is not None:
        with_sections(words.page, "benchmarks/layout.py", sections())
        return 0
    repeats, size = (1, 0.0) if words.quick else (words.repeats, words.megabytes)
    findings, layouts, ratios = Findings("benchmarks/layout.py"), {}, {}
    with tempfile.TemporaryDirectory() as scratch, served(Path(scratch) / "data", words.delay) as (url, _, counts):
        data, os.environ["SCSTORE_CACHE"] = Path(scratch) / "data", f"{scratch}/cache"
        places = {"disk": str(data), f"{words.delay * 1000:g} ms": url}
        for width in (512, 0) if words.quick else (512, 5120, 0):
            ways, n = view_ways(data, width, size) if width else expression_ways(data, size)
            title = f"{width:,} columns" if width else "expression"
            layouts[title] = measure(data, ways, n, places, repeats, counts)
            show_ratios(title, layouts[title])
            shutil.rmtree(data)
    for title, one in ((title, one) for title, some in layouts.items() for one in some):
        ratios.setdefault(f"{title}, {one['name'].partition(': ')[2]}", []).extend(one["over_today"].values())
    best = min((statistics.geometric_mean(some), name) for name, some in ratios.items() if max(some) <= LOSS)
    goal = f"time over today's of the best that loses nowhere ({best[1]})"
    findings.at_least(goal, best[0], GAIN, check=not words.quick)
    settings = {"megabytes": size, "delay_seconds": words.delay, "repeats": repeats}
    findings.figures = {"settings": settings, "layouts": layouts}
    return findings.finish(words.json)


if __name__ == "__main__":
    sys.exit(main())
