"""What 1, 10 and 50 million cells take, from the rates in ``benchmarks/results``, and a schedule with failures.

    python benchmarks/planning.py [--page docs/planning.md] [--results FOLDER]

Each figure is a rate of a committed JSON times the number of cells; what none has been measured for is called assumed.
Rates beyond the largest size measured are carried on as a straight line. ``--page`` writes the tables into the page, in
place of those that stand between its marks.

The schedule is a simulation: shards of a minute, parts as ``--shard i/n`` deals them out, workers that die at random
(exponential, seeded) and lose the shard at hand. Those that died are not started again: what they left is done by the
next run, of the same command with another n, and so on. Each run begins with loading the model.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import RESULTS, markdown, with_sections

from scstore.model.loading import DEFAULT_MODEL
from scstore.model.shapes import KNOWN_SHAPES, cell_flop, device_of

SIZES = (1_000_000, 10_000_000, 50_000_000)
WIDTH, DEPTH = 5120, 40
REGIMES = {"200-gene panel": 100, "2048 genes": 2063}  # positions of a cell
GENES_EXPRESSED = 2_000
LINE = "125 MB/s"  # as benchmarks/remote.py names it
SHARD_MINUTES, START_MINUTES, WORKERS = 1.0, 5.0, 1_000


class Results:
    """The newest file of each benchmark, and which were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def newest(self, name: str) -> tuple[str, dict[str, Any]] | None:
        """File and figures of a benchmark: ``NAME_DATE.json``."""
        files = sorted(file for file in self.folder.glob("*.json") if re.fullmatch(rf"{name}_[0-9-]+", file.stem))
        if not files:
            return None
        found = json.loads(files[-1].read_text(encoding="utf-8"))
        return files[-1].name, found["figures"] | {"gpu": found["environment"]["gpu"]}

    def needed(self, name: str) -> tuple[str, dict[str, Any]]:
        """The same of one that is there."""
        found = self.newest(name)
        if found is None:
            raise SystemExit(f"{self.folder}: no {name}_DATE.json")
        return found


@dataclass(frozen=True)
class Row:
    """A figure for any number of cells, and what it rests on."""

    what: str
    value: Callable[[int], float]
    unit: str
    rests_on: str

    def cells(self) -> list[str]:
        return [self.what, *(f"{rounded(self.value(n))} {self.unit}" for n in SIZES), self.rests_on]


def rounded(value: float) -> str:
    """Two digits that count."""
    digits = 2 - len(str(int(value))) if value >= 1 else 2
    return f"{round(value, digits):,.0f}" if value >= 10 else f"{value:.2g}"


def line(small: tuple[float, float], large: tuple[float, float]) -> Callable[[int], float]:
    """The straight line through two measured points ``(cells, value)``."""
    slope = (large[1] - small[1]) / (large[0] - small[0])
    return lambda n: large[1] + slope * (n - large[0])


def gpu_rates(results: Results) -> tuple[dict[str, float], str]:
    """Cells a second by regime on one GPU, and what they rest on."""
    found = results.newest("extract_gpu")
    if found is not None:
        file, figures = found
        rates = {regime: figures["passes"][f"scstore, {regime}, depth {DEPTH}"] for regime in REGIMES}
        return {name: one["cells_per_second"] for name, one in rates.items()}, f"measured on {figures['gpu']}: {file}"
    device, shape = device_of("h100"), KNOWN_SHAPES[DEFAULT_MODEL]
    flop = {name: float(cell_flop(shape, np.array([n]), depth=DEPTH)[0]) for name, n in REGIMES.items()}
    return {name: device.speed / one for name, one in flop.items()}, f"**assumed**: an H100 at {device.rests_on}"


def traffic(results: Results) -> list[Row]:
    """What is fetched of a store by address."""
    found = results.newest("remote")
    once = "**assumed**: each chunk once" if found is None else f"each chunk once: {found[0]}"
    whole = Row("traffic: one view by address, once", lambda n: n * 2 * WIDTH / 1e9, "GB", once)
    if found is None:
        return [
            whole,
            Row("traffic: ten rows of one view", lambda _: 168, "MB at most", "**assumed**: ten whole chunks"),
        ]
    file, figures = found
    scan, of_ten = figures[LINE], next(one["bytes"] for one in figures["rows"] if one["rows"] == 10)
    rate = 1e6 * scan["megabytes"] / statistics.median(scan["seconds"]["scstore"])
    minutes = Row(f"traffic: the same on a line of {LINE}", lambda n: n * 2 * WIDTH / rate / 60, "min", file)
    ten = Row("traffic: ten rows of one view", lambda _: of_ten * WIDTH / figures["width"] / 1e6, "MB", file)
    return [whole, minutes, ten]


def rows(results: Results) -> list[Row]:
    rates, gpu = gpu_rates(results)
    memory_file, memory = results.needed("extract_cpu_memory")
    heads_file, heads = results.needed("heads")
    search_file, search = results.needed("search")
    annotate_file, annotate = results.needed("annotate")
    cluster_file, cluster = results.needed("cluster")
    runs = {int(n): max(run["peak_gb"].values()) for n, run in memory["memory"]["runs"].items()}
    fit = {n: heads[f"{n:,} x 512"]["rows"]["linear, streamed"] for n in (100_000, 1_000_000)}
    index = {n: search[f"{n:,} x 512"]["rows"]["scstore"] for n in (200_000, 1_000_000)}
    labels = {n: annotate["rows"][f"{n:,} cells, expression"] for n in (10_000, 100_000)}
    merges = [cluster[name] for name in ("parts end on bounds", "bounds are shifted")]
    n_merged = merges[0]["parts"] * merges[0]["cells"]
    value_bytes = 1e9 * merges[0]["expression_gb"] / (n_merged * merges[0]["expressed"])

    def measured(of: dict[int, dict[str, Any]], name: str) -> Callable[[int], float]:
        small, large = sorted(of)
        return line((small, of[small][name]), (large, of[large][name]))

    view = 2 * WIDTH
    return [
        *(
            Row(f"GPU: Llama-2-13b, {DEPTH} layers, {regime}", lambda n, rate=rate: n / rate / 3600, "GPU-hours", gpu)
            for regime, rate in rates.items()
        ),
        Row("GPU node: memory of each process", line(*sorted(runs.items())), "GB", memory_file),
        Row(f"disk: each view of {WIDTH:,} in float16", lambda n: n * view / 1e9, "GB", "the format"),
        Row(
            f"disk: `X`, {GENES_EXPRESSED:,} genes a cell", lambda n: n * GENES_EXPRESSED * value_bytes / 1e9, "GB",
            f"{value_bytes:.2g} bytes a value: {cluster_file}",
        ),
        Row("disk: index of `query`, width 512", lambda n: n * index[1_000_000]["megabytes"] / 1e9, "GB", search_file),
        Row("laptop: memory of `annotate`, expression", measured(labels, "peak_gb"), "GB", annotate_file),
        Row("laptop: memory of `fit`, a linear head, width 512", measured(fit, "peak_gb"), "GB", heads_file),
        Row("laptop: memory of building the index, width 512", measured(index, "build_peak_gb"), "GB", search_file),
        Row("laptop: minutes of `fit`, width 512, two cores", lambda n: n / 1e6 * fit[1_000_000]["seconds"] / 60, "min",
            heads_file),
        *traffic(results),
        *(
            Row(f"`merge`, {what}, two cores", lambda n, one=one: n / n_merged * one["seconds"] / 60, "min",
                f"{n_merged:,} cells, {one['expressed']} genes each: {cluster_file}")
            for what, one in zip(("rows linked", "rows written anew"), merges, strict=True)
        ),
    ]  # fmt: skip


@dataclass(frozen=True)
class Schedule:
    """How a simulated extraction went."""

    hours: tuple[float, ...]  # of each run
    died: int
    lost_shards: float  # work of which nothing was kept
    spent: float  # GPU-hours, loading too

    @property
    def lost_hours(self) -> float:
        return self.lost_shards * SHARD_MINUTES / 60


def simulated(n_shards: int, *, workers: int, life_hours: float, other_n: bool, seed: int = 0) -> Schedule:
    """Runs of the same command until nothing is left; ``other_n``: each run has one worker fewer than the last."""
    rng = np.random.default_rng(seed)
    left = np.arange(n_shards)
    hours, died, lost, spent = [], 0, 0.0, 0.0
    while len(left):
        todo = np.bincount(left % workers, minlength=workers)
        ends = rng.exponential(60 * life_hours, workers)
        busy = np.where(todo > 0, START_MINUTES + todo * SHARD_MINUTES, 0.0)
        done = np.minimum(todo, np.maximum(0, (ends - START_MINUTES) // SHARD_MINUTES)).astype(int)
        dead = done < todo
        lost += float(np.maximum(0, ends - START_MINUTES - done * SHARD_MINUTES)[dead].sum()) / SHARD_MINUTES
        died += int(dead.sum())
        taken = np.minimum(busy, ends)
        hours.append(float(taken.max()) / 60)
        spent += float(taken.sum()) / 60
        order = np.lexsort((left, left % workers))
        part = (left % workers)[order]
        place = np.arange(len(left)) - np.searchsorted(part, part)
        left = np.sort(left[order][place >= done[part]])
        workers -= other_n
    return Schedule(tuple(hours), died, lost, spent)


def schedules(results: Results) -> list[list[str]]:
    rates, _ = gpu_rates(results)
    n_shards = round(SIZES[-1] / rates["2048 genes"] / 60 / SHARD_MINUTES)
    table = []
    for life, other_n in ((1e9, False), (100, True), (10, True), (10, False)):
        found = simulated(n_shards, workers=WORKERS, life_hours=life, other_n=other_n)
        useful = n_shards * SHARD_MINUTES / 60
        table.append(
            [
                "never" if life > 1e6 else f"every {life:,.0f} hours",
                "-" if life > 1e6 else "999, 998, …" if other_n else "1,000 again",
                f"{found.died:,}",
                f"{len(found.hours)}",
                f"{found.hours[0]:.1f}",
                f"{sum(found.hours):.1f}",
                f"{found.lost_hours:,.1f} ({found.lost_hours / useful:.2%})",
                f"{found.spent:,.0f}",
            ]
        )
    return [[f"{n_shards:,}"], *table]


def sections(results: Results) -> dict[str, str]:
    """The page's tables by name."""
    (n_shards,), *runs = schedules(results)
    header = ["", *(f"{n // 1_000_000} million cells" for n in SIZES), "from"]
    said = f"{n_shards} shards of a minute, {WORKERS:,} workers, {START_MINUTES:.0f} minutes to start each.\n\n"
    schedule = ["a worker dies", "n of the next runs", "died", "runs", "hours of the first", "hours of all",
                "GPU-hours of work lost", "GPU-hours of all"]  # fmt: skip
    return {
        "costs": markdown(header, [row.cells() for row in rows(results)]),
        "schedule": said + markdown(schedule, runs),
    }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--page", type=Path, help="write the tables into this page")
    options.add_argument("--results", type=Path, default=RESULTS)
    words = options.parse_args()
    found = sections(Results(words.results))
    for name, text in found.items():
        print(f"{name}\n\n{text}\n")
    if words.page is not None:
        with_sections(words.page, "benchmarks/planning.py", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
