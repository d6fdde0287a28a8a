"""Stage 2 on Dask workers of this machine beside one process, for cluster.py: fit, predict, and a worker that dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import Findings, table
from own_process import in_own_process, peak_gb

VIEW, WIDTH, SHARD_ROWS, N_CLASSES, POOL = "readout_wmean_l6", 512, 4096, 10, 1 << 15
SAME_LABELS, SAME_ACCURACY = 0.99, 0.005
CLIENT_GB = 6.0


def write_store(root: Path, *, n: int, width: int) -> None:
    """A store of cells of ten types in half precision: a centre, and the sum of two rows out of a pool of noise."""
    from scstore.sealed import fingerprint
    from scstore.store.ledger import StorePlan, ViewSpec
    from scstore.store.writer import build_store, commit_shard

    rng = np.random.default_rng(0)
    view, shard_rows = ViewSpec(VIEW, width, "float16", {"view": "readout"}), min(SHARD_ROWS, n // 8)
    record: dict[str, Any] = {"format": "1.0", "kind": "store", "views": {VIEW: view.as_json()}, "default_view": VIEW}
    record |= {"shard_rows": shard_rows, "options": {}, "model": None, "genes": None, "panel": None, "projector": None}
    plan = StorePlan(n, shard_rows, (view,), run=fingerprint(record))
    codes = rng.integers(0, N_CLASSES, n)
    types = pd.Categorical.from_codes(codes, [f"type {i}" for i in range(N_CLASSES)])
    obs = pd.DataFrame({"cell_type": types}, index=pd.RangeIndex(n).astype(str))
    with build_store(root) as builder:
        builder.write_frames(obs, pd.DataFrame(index=["GENE"]), record)
        builder.create_views(plan)
    pool = rng.normal(size=(POOL, width)).astype(np.float32)
    centres = rng.normal(0, 0.13 * np.sqrt(512 / width), (N_CLASSES, width)).astype(np.float32)
    for shard, start, stop in plan.shards():
        some, others = rng.integers(0, POOL, (2, stop - start))
        rows = centres[codes[start:stop]] + pool[some] + pool[others]
        commit_shard(root, plan, shard, {VIEW: rows}, ids=list(obs.index[start:stop]))


def work(root: str, output: str, how: dict[str, Any]) -> dict[str, Any]:
    """Fit a head and label all cells with it, or with the one of ``head``; on so many workers, if any."""
    import scstore
    from scstore.progress import Silent

    store, found = Path(root), Path(output)
    workers, params = how.get("workers", 0), {"memory_limit": how["memory_limit"]}
    with ExitStack() as stack:
        dask = None
        if workers:
            from distributed import Client, LocalCluster

            made = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": how["worker_bytes"]}
            cluster = stack.enter_context(LocalCluster(**made, dashboard_address=":0"))
            dask = cluster.scheduler_address
            client = stack.enter_context(Client(cluster, set_as_default=False))
        told: dict[str, Any] = {}
        for name in how["steps"]:
            killer = None
            if after := how.get("kill_after", {}).get(name):
                killer = threading.Timer(after, _kill_one, (client,))
                killer.start()
            begun = time.perf_counter()
            if name == "fit":
                common = {"label": "cell_type", "progress": Silent(), "dask": dask}
                head = scstore.fit(store, found / "head", views=[VIEW], params=params, **common)
                told |= {"accuracy": head.held_out_["accuracy"], "note": head.record_["training"][VIEW]}
            else:
                given = how.get("head") or found / "head"
                from scstore.annotation.predict import predict_to_file

                predict_to_file(store, given, output=found / "labels.csv", overwrite=True, progress=Silent(), dask=dask)
            told[f"{name}_seconds"] = time.perf_counter() - begun
            if killer is not None:
                killer.join()
        told["worker_gb"] = max(client.run(peak_gb, on_error="ignore").values()) if workers else 0.0
    return told


def _kill_one(client: Any) -> None:
    os.kill(next(iter(client.run(os.getpid, on_error="ignore").values())), signal.SIGKILL)


def measure_dask(findings: Findings, words: Any, folder: Path) -> None:
    """One process and four workers on the same stores, of growing size; then a worker is killed."""
    sizes, limits, width = words.rows, (1 << 30, 1 << 28), WIDTH
    if words.quick:
        sizes, limits, width = [2_000], (1 << 30, 1 << 12), 16
    rows, steps = [], ["fit", "predict"]
    for n in sizes:
        root = folder / f"{n}.zarr"
        write_store(root, n=n, width=width)
        four = {"workers": words.workers, "worker_bytes": words.worker_bytes}
        runs = {"one process": {}, f"{words.workers} workers": four}
        if n == sizes[0]:
            runs["a worker killed"] = {**four, "kill_after": {}}
        found: dict[str, dict[str, Any]] = {}
        for name, how in runs.items():
            output = folder / f"{n} {name}"
            output.mkdir(exist_ok=True)
            if name == "a worker killed":
                before = found[f"{words.workers} workers"]
                how["kill_after"] = {step: before[f"{step}_seconds"] / 2 for step in steps}
            how |= {"steps": steps, "memory_limit": limits["workers" in how]}
            told = in_own_process(work, str(root), str(output), how, threads=words.threads)
            found[name] = told
            rows.append([f"{n:,}", name, told["fit_seconds"], told["predict_seconds"], told["accuracy"],
                         told["peak_gb"], told["worker_gb"]])  # fmt: skip
            findings.figures[f"dask: {n} {name}"] = {"n": n, "width": width, **how, **told}
        _compare(findings, n, folder, found, words)
    print(f"\nstage 2: {width} features in half precision, {N_CLASSES} types, {words.threads} cores")
    table(["cells", "", "fit s", "predict s", "held-out accuracy", "peak GB", "largest worker's GB"], rows)
    if len(sizes) > 1:
        for step in steps:
            first, last = (findings.figures[f"dask: {n} {words.workers} workers"] for n in (sizes[0], sizes[-1]))
            growth = last[f"{step}_seconds"] / first[f"{step}_seconds"]
            findings.figures[f"dask: growth of {step}"] = {"cells": sizes[-1] / sizes[0], "time": growth}
            print(f"{step}: {sizes[-1] / sizes[0]:g} times the cells take {growth:.3g} times as long")


def _compare(findings: Findings, n: int, folder: Path, found: dict[str, dict[str, Any]], words: Any) -> None:
    """Hold what the workers made against one process's, and what is left of a killed worker against theirs."""
    names = {name: folder / f"{n} {name}" for name in found}
    tables = {name: pd.read_csv(path / "labels.csv")["best_label"] for name, path in names.items()}
    first, four, *killed = found
    same = float((tables[first] == tables[four]).mean())
    findings.figures[f"dask: {n} {four}"]["same_labels"] = same
    is_exact = "exact" in found[first]["note"]
    findings.at_least(f"{n:,}: labels of both heads that agree", same, SAME_LABELS, check=is_exact)
    gap = abs(found[first]["accuracy"] - found[four]["accuracy"])
    findings.at_most(f"{n:,}: difference in held-out accuracy", gap, SAME_ACCURACY, check=not words.quick)
    peak = max(told["peak_gb"] for told in found.values())
    findings.at_most(f"{n:,}: peak GB of the client", peak, CLIENT_GB, check=not words.quick)
    with_one = {"steps": ["predict"], "head": str(names[four] / "head"), "memory_limit": 1}
    told = in_own_process(work, str(folder / f"{n}.zarr"), str(names[first]), with_one, threads=words.threads)
    findings.figures[f"dask: {n} {four}"]["predict_in_one_process_seconds"] = told["predict_seconds"]
    pairs = {"one process with the same head": names[first] / "labels.csv"}
    pairs |= {name: names[name] / "labels.csv" for name in killed}
    wanted = (names[four] / "labels.csv").read_bytes()
    for name, path in pairs.items():
        findings.at_most(f"{n:,}: tables of labels that differ, {name}", int(path.read_bytes() != wanted), 0)
    for name in killed:
        weights = [(names[one] / "head" / "weights.safetensors").read_bytes() for one in (four, name)]
        findings.at_most(f"{n:,}: heads that differ, {name}", int(weights[0] != weights[1]), 0)
