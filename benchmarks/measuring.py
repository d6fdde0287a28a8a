"""What every benchmark here shares: timing side by side, the record of where it ran, tables, goals, JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("scstore", "torch", "transformers", "numpy", "scipy", "anndata", "zarr")


def seconds(work: Callable[[], Any], *, wait: Callable[[], None] = lambda: None) -> float:
    """Wall time of one call; ``wait`` lets a device finish."""
    wait()
    begun = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begun


def median_seconds(work: Callable[[], Any], *, repeats: int, warm_up: int = 1) -> float:
    """Median wall time of some calls after some that are not counted."""
    for _ in range(warm_up):
        work()
    return statistics.median(seconds(work) for _ in range(repeats))


@dataclass(frozen=True)
class SideBySide:
    """Times of two ways, taken in turn so that a busy neighbour slows both.

    Attributes
    ----------
    a, b
        Seconds of each repeat.
    """

    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """How many times as long ``b`` takes: the median over the pairs."""
        return statistics.median(b / a for a, b in zip(self.a, self.b, strict=True))


def side_by_side(a: Callable[[], Any], b: Callable[[], Any], *, repeats: int) -> SideBySide:
    """Time A B A B …, after one call of each that is not counted."""
    a(), b()
    pairs = [(seconds(a), seconds(b)) for _ in range(repeats)]
    return SideBySide(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))


def environment() -> dict[str, Any]:
    """When, on what and with which versions: never a host's name or a path."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    record: dict[str, Any] = {
        "date": datetime.datetime.now(tz=datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),  # noqa: UP017
        "versions": versions,
        "cpu": _cpu_name(),
        "cpu_cores": cores,
        "gpu": None,
    }
    try:
        import torch
    except ImportError:
        return record
    record["torch_threads"] = torch.get_num_threads()
    if torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name()
        record["gpu_memory_gb"] = round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)
        record["cuda"] = torch.version.cuda
    return record


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


@dataclass(frozen=True)
class Goal:
    """One promise and whether it was kept.

    Attributes
    ----------
    name, bound
        In words, such as ``>= 3``.
    value
        What was measured.
    held
        ``None`` where this run does not check it.
    """

    name: str
    bound: str
    value: float | None
    held: bool | None


@dataclass
class Findings:
    """Everything a run found, printed as it comes and written as JSON at the end."""

    command: str
    environment: dict[str, Any] = field(default_factory=environment)
    figures: dict[str, Any] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        where = self.environment["gpu"] or f"{self.environment['cpu_cores']} CPU cores ({self.environment['cpu']})"
        print(f"{self.command}: {self.environment['date']}, {where}")
        print(", ".join(f"{name} {number}" for name, number in self.environment["versions"].items()))

    def at_least(self, name: str, value: float, bound: float, *, check: bool = True) -> None:
        """Note a goal that wants a large value."""
        self.goals.append(Goal(name, f">= {bound:g}", value, bool(value >= bound) if check else None))

    def at_most(self, name: str, value: float, bound: float, *, check: bool = True) -> None:
        """Note a goal that wants a small value; NaN never passes."""
        self.goals.append(Goal(name, f"<= {bound:g}", value, bool(value <= bound) if check else None))

    def finish(self, json_file: Path | None, *, unchecked: str = "not checked") -> int:
        """Print the goals and the closing line, write the JSON, and give the exit code."""
        print()
        said = {True: "held", False: "MISSED", None: unchecked}
        table(["goal", "bound", "measured", ""], [[g.name, g.bound, show(g.value), said[g.held]] for g in self.goals])
        if self.not_reached:
            print(f"not reached in the time given: {'; '.join(self.not_reached)}")
        if json_file is not None:
            json_file.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        checked = [goal for goal in self.goals if goal.held is not None]
        missed = [goal.name for goal in checked if not goal.held]
        names = "; ".join(goal.name for goal in checked) or "none"
        verdict = f"MISSED: {'; '.join(missed)}" if missed else "all held" if checked else f"goals {unchecked}"
        print(f"goals checked: {names} - {verdict}")
        return 1 if missed else 0


def show(value: float | None) -> str:
    """A number with three digits that count."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print aligned columns."""
    cells = [[*map(str, header)]] + [[show(c) if isinstance(c, float) else str(c) for c in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for i, row in enumerate(cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if i == 0:
            print("  ".join("-" * width for width in widths))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a page."""
    return "\n".join(f"| {' | '.join(one)} |" for one in [header, ["---"] * len(header), *rows])


def with_sections(page: Path, command: str, found: dict[str, str]) -> None:
    """Write a command's tables into a page, in place of those that stand between its marks."""
    text = page.read_text(encoding="utf-8")
    for name, section in found.items():
        begin, end = (f"<!-- {which} of `python {command}`: {name} -->" for which in ("begin", "end"))
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{section}\n{end}{rest.split(end)[1]}"
    page.write_text(text, encoding="utf-8")


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured here")
    made.add_argument(
        "--quick", action="store_true", help="smallest sizes: equality of results is checked, speed goals are not"
    )
    return made
