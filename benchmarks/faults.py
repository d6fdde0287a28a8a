"""Faults and attacks in numbers: what breaks no promise, however often it is tried.

Every file operation of a small extraction, broken in every way in turn; processes killed at random; two extractions of
one store at once and a reader that polls it; disks that are full; single bytes flipped in finished stores and
heads; files of users mutated at random. Prints runs, violations of the promises, crashes, the peak of memory and CPU
seconds. The promises: no visible row is ever wrong (I1), no committed row is lost (I2), a resumed run
ends in the same store (I3), a failure is one plain message (I4), and no file can run code (I5, in the test suite).
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from broken_disk import FAULTS, count_operations, make_benches, violations
from damage import flipped, make_finished, random_bytes_of
from full_disk import fill_disks, why_not
from kills import kill_at_random
from measuring import Findings, parser, table
from mutations import crash, make_inputs
from support import write_model
from two_extracts import WAYS, race
from warm import scratch_folder, warm

import scstore

KINDS = (
    "cells .h5ad", "cells Zarr", "store", "store verified", "exported store", "head", "projector", "gene table",
    "panel", "gene_info", "orthologs CSV", "gene texts TSV",
)  # fmt: skip

HDF5 = ("cells .h5ad", "exported store", "gene table", "panel")
"""Of these kinds a mutation may end in libhdf5."""

CPU_SECONDS, PATIENCE = 20, 300
"""Seconds that reading one mutated file may take: of CPU time, and in all, which says something of the load as well."""

COMMON = {"runs", "bad", "peak_gb", "cpu_seconds"}
"""What every part reports."""

SLICES = 4
"""Pieces that the work of a part is cut into, for the processes to take."""


FLIPPED = {"store": 0.6, "linear": 0.2, "knn": 0.2}
"""What bytes are flipped of, and its share of them."""


def operations(piece: int, every: int) -> dict[str, Any]:
    """Break every operation of a fresh run and of one that goes on; a piece of them."""
    with scratch_folder() as scratch:
        benches = make_benches(Path(scratch) / "benches")
        found, runs = [], 0
        for bench in benches.values():
            cases = [(at, fault) for at in range(len(count_operations(bench))) for fault in FAULTS]
            for at, fault in cases[piece * every :: SLICES * every]:
                found += violations(bench, at=at, fault=fault)
                runs += 1
    return _report(runs, found)


def kills(piece: int, number: int) -> dict[str, Any]:
    """Kill processes at random moments."""
    with scratch_folder() as scratch, warm(Path(scratch)) as processes:
        found = kill_at_random(processes, Path(scratch) / "killed" / "s.zarr", number, seed=piece)
    return _report(found.killed, found.violations, finished=found.finished, **found.moments)


def two_extracts(piece: int, number: int) -> dict[str, Any]:
    """Start two extractions of one store at once, and read it until both have ended."""
    bad, looks, partial, refused = [], 0, 0, 0
    with scratch_folder() as scratch, warm(Path(scratch)) as processes:
        for i in range(number):
            way = WAYS[(piece + i) % len(WAYS)]
            here = race(processes, Path(scratch) / f"round {i}" / "s.zarr", way)
            bad += [f"{way}, round {i}: {line}" for line in here.violations]
            looks, partial = looks + here.reader.looks, partial + here.reader.partial
            refused += here.refused
    return _report(number, bad, looks=looks, partial=partial, refused=refused)


def full_disk(piece: int, rounds: int) -> dict[str, Any]:
    """Fill small file systems; nothing where none can be mounted."""
    with scratch_folder() as scratch:
        if (reason := why_not(Path(scratch))) is not None:
            return {**_report(0, []), "left_out": reason}
        found = fill_disks(Path(scratch), rounds, seed=piece)
    return _report(found.runs, found.violations, stopped=found.stopped, kept=found.kept)


def flips(name: str, number: int) -> dict[str, Any]:
    """Flip single bytes of a store or head; those that are not found."""
    with scratch_folder() as scratch:
        folder = Path(scratch)
        root, missed = make_finished(folder, write_model(folder / "model"), name), []
        for file, place, mask in random_bytes_of(root, number, seed=0):
            with flipped(file, place, mask):
                if scstore.verify(root, deep=True).ok:
                    missed.append(f"{file.relative_to(root)}: byte {place} XOR {mask} is not found")
    return _report(number, missed)


def mutations(kind: str, number: int) -> dict[str, Any]:
    """Mutate files of users and read them, in a process that is begun anew when a library hangs or crashes in it."""
    bad, stuck, done, grown, peak = [], [], 0, 0.0, 0.0
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        while done < number:
            ours, theirs = context.Pipe()
            reader = context.Process(target=_mutate, args=(kind, done, number, Path(scratch) / str(done), theirs))
            reader.start()
            theirs.close()
            try:
                while done < number:
                    if not ours.poll(PATIENCE):
                        raise EOFError
                    crashed, grown_now, peak_now = ours.recv()
                    bad += [crashed] if crashed else []
                    grown, peak, done = max(grown, grown_now), max(peak, peak_now), done + 1
            except EOFError:
                stuck.append(done)
                done += 1
            reader.kill()
            reader.join()
    if stuck:
        print(f"mutated inputs, {kind}: a library hangs or crashes in {stuck}", flush=True)
    return {**_report(number, bad, grown_gb=grown, stuck=len(stuck)), "peak_gb": peak}


def _mutate(kind: str, first: int, number: int, folder: Path, results: Any) -> None:
    warnings.simplefilter("ignore")
    folder.mkdir()
    inputs = make_inputs(folder)
    before = _peak_gb()
    for i in range(first, number):
        # the kernel ends a loop without an end
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + CPU_SECONDS, resource.RLIM_INFINITY))
        crashed = crash(inputs, kind, i)
        results.send((crashed, _peak_gb() - before, _peak_gb()))


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kB on Linux


def _grown(results: list[dict[str, Any]], pieces: list[tuple[Any, tuple[Any, ...]]], *, hdf5: bool) -> float:
    """Most memory that reading mutated inputs took, of HDF5 files or of the others."""
    grown = zip(pieces, results, strict=True)
    return max((one.get("grown_gb", 0.0) for (_, named), one in grown if (named[0] in HDF5) == hdf5), default=0.0)


def _report(runs: int, bad: list[str], **more: float) -> dict[str, Any]:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_seconds = sum(one.ru_utime + one.ru_stime for one in used)
    return {"runs": runs, "bad": bad, "peak_gb": _peak_gb(), "cpu_seconds": cpu_seconds, **more}


def parts(*, quick: bool) -> dict[str, list[tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]]]:
    """What is run, by part, in pieces."""
    every, n_kills, n_races, n_disks, n_flips, n_mutations = (
        (40, 16, 4, 4, 50, 240) if quick else (1, 200, 40, 40, 1000, 10_000)
    )
    return {
        "operations x faults": [(operations, (piece, every)) for piece in range(SLICES)],
        "random kills": [(kills, (piece, n_kills // 2)) for piece in range(2)],
        "two extracts, a reader polling": [(two_extracts, (piece, n_races // 2)) for piece in range(2)],
        "full disk": [(full_disk, (piece, n_disks // 2)) for piece in range(2)],
        "flipped bytes": [(flips, (name, round(n_flips * share))) for name, share in FLIPPED.items()],
        "mutated inputs": [(mutations, (kind, -(-n_mutations // len(KINDS)))) for kind in KINDS],
    }


def main() -> int:
    options = parser("Faults: operations broken, processes killed, bytes flipped, inputs mutated.")
    options.add_argument("--only", help="one part: operations, kills, two_extracts, full_disk, flips or mutations")
    options.add_argument("--processes", type=int, default=2)
    words = options.parse_args()
    findings = Findings("faults")
    rows, begun = [], time.monotonic()
    for name, pieces in parts(quick=words.quick).items():
        if words.only and pieces[0][0].__name__ != words.only:
            continue
        started = time.monotonic()
        # a process a piece: a crash of a library ends one of them, and its memory is its own
        with ProcessPoolExecutor(words.processes, get_context("spawn"), max_tasks_per_child=1) as pool:
            futures = [pool.submit(work, *named) for work, named in pieces]
            results = []
            for (_, named), future in zip(pieces, futures, strict=True):
                results.append(future.result())
                more = {key: value for key, value in results[-1].items() if key not in COMMON}
                print(
                    f"{name}, {named[0]}: {results[-1]['runs']:,} runs, {len(results[-1]['bad'])} bad {more}",
                    flush=True,
                )
        bad = [line for result in results for line in result["bad"]]
        for line in bad[:20]:
            print(f"  {line}")
        here = {
            "runs": sum(result["runs"] for result in results),
            "bad": bad,
            "peak_gb": max(result["peak_gb"] for result in results),
            "seconds": time.monotonic() - started,
            "cpu_seconds": sum(result["cpu_seconds"] for result in results),
            "grown_gb": _grown(results, pieces, hdf5=False),
            "grown_gb_hdf5": _grown(results, pieces, hdf5=True),
        }
        for key in sorted({key for result in results for key in result} - COMMON - {"grown_gb", "left_out"}):
            here[key] = sum(result.get(key, 0) for result in results)
        if reasons := {result["left_out"] for result in results if "left_out" in result}:
            findings.not_reached.append(f"{name}, left out: {'; '.join(reasons)}")
        findings.figures[name] = here
        rows.append([name, here["runs"], len(bad), here["peak_gb"], here["cpu_seconds"], here["seconds"]])
        findings.at_most(f"{name}: violations, misses or crashes", len(bad), 0)
    print()
    table(["part", "runs", "violations", "peak GB", "CPU seconds", "seconds"], rows)
    if "mutated inputs" in findings.figures:
        mutated = findings.figures["mutated inputs"]
        findings.at_most("memory that reading mutated inputs takes, but for HDF5, GB", mutated["grown_gb"], 1)
        # libhdf5 hangs, crashes or takes gigabytes on some damaged files before anything can be checked
        print(f"HDF5, counted without a goal: {mutated['stuck']} hangs and crashes, {mutated['grown_gb_hdf5']:.2f} GB")
    findings.at_most("minutes", (time.monotonic() - begun) / 60, 30, check=not words.quick and not words.only)
    return findings.finish(words.json)


if __name__ == "__main__":
    sys.exit(main())
