"""A store at an address whose every request takes 20 ms more, against plain clients and anndata's lazy reading.

    python benchmarks/remote.py [--cells 409600] [--width 512] [--delay 0.02] [--rate 125] [--repeats 5] [--json FILE]
        [--quick]

A server of files in a process of its own, on this machine, waits before it answers, and sends as fast as it can or, in
all, --rate megabytes a second: 125 are a line of 1 Gbit/s. A scan reads a view (float16) from the first row to the last
in blocks, with an empty cache: scstore fetches, compares digests, keeps the files and gives rows. The plain clients
read the same files whole, with as many requests at once, and do nothing with the bytes: requests, http.client, and
obstore, through which scstore asks. `anndata.experimental.read_lazy` (needs xarray and dask; over zarr's ObjectStore)
computes the same matrix in as many threads. Opening a store is timed apart from the scan. Ten rows, and a thousand,
drawn at random: time, requests and bytes. Ways are timed in turn, so that a busy neighbour slows all.
"""

from __future__ import annotations

import http.client
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import Findings, parser, seconds, table
from scipy.sparse import csr_matrix

VIEW, SHARD_ROWS = "readout_wmean_l6", 4096


def write_store(
    root: Path, *, n: int, width: int, shard_rows: int = SHARD_ROWS, rows: Any = None, X: csr_matrix | None = None
) -> None:
    """A store of these rows, or of random ones, as ``scstore extract`` lays it out; with or without expression."""
    from scstore.sealed import fingerprint
    from scstore.store.ledger import StorePlan, ViewSpec
    from scstore.store.writer import build_store, commit_shard

    view = ViewSpec(VIEW, width, "float16", {"view": "readout"})
    shard_rows = min(shard_rows, n)
    record: dict[str, Any] = {"format": "1.0", "kind": "store", "views": {VIEW: view.as_json()}, "default_view": VIEW,
                              "shard_rows": shard_rows, "options": {}}  # fmt: skip
    plan = StorePlan(n, shard_rows, (view,), run=fingerprint(record))
    obs = pd.DataFrame({"donor": [f"d{i % 8}" for i in range(n)]}, index=[f"cell{i}" for i in range(n)])
    with build_store(root) as builder:
        if X is not None:
            builder.write_expression((X[i : i + SHARD_ROWS] for i in range(0, n, SHARD_ROWS)), n_genes=X.shape[1])
        genes = [f"GENE{i}" for i in range(1 if X is None else X.shape[1])]
        builder.write_frames(obs, pd.DataFrame(index=genes), record)
        builder.create_views(plan)
    rng = np.random.default_rng(0)
    for shard, start, stop in plan.shards():
        own = rng.normal(size=(stop - start, width)).astype(np.float32) if rows is None else rows[start:stop]
        commit_shard(root, plan, shard, {VIEW: own}, ids=list(obs.index[start:stop]))


def _serve(folder: str, delay: float, rate: Any, port: Any, counts: Any) -> None:
    line, free_at = threading.Lock(), [0.0]

    def wait_for_line(size: int) -> None:
        if rate.value:
            with line:
                free_at[0] = max(free_at[0], time.monotonic()) + size / rate.value
                until = free_at[0]
            time.sleep(max(0.0, until - time.monotonic()))

    class Handler(SimpleHTTPRequestHandler):
        protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=folder)

        def do_GET(self) -> None:
            time.sleep(delay)
            file = Path(self.translate_path(self.path))
            if not file.is_file():
                self.send_error(404)
                return
            size = file.stat().st_size
            first, last = 0, size - 1
            if part := self.headers.get("Range", ""):
                begin, _, end = part.removeprefix("bytes=").partition("-")
                first, last = (int(begin), int(end)) if begin else (size - int(end), last)
            self.send_response(206 if part else 200)
            self.send_header("Content-Length", str(last + 1 - first))
            if part:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            with counts.get_lock():
                counts[0] += 1
                counts[1] += last + 1 - first
            with file.open("rb") as opened:
                while first <= last:
                    size = min(last + 1 - first, 1 << 18) if rate.value else last + 1 - first
                    wait_for_line(size)
                    first += os.sendfile(self.connection.fileno(), opened.fileno(), first, size)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size, daemon_threads = 256, True

        def handle_error(self, *_: object) -> None:  # a client that went away
            pass

    server = Server(("127.0.0.1", 0), Handler)
    port.value = server.server_port
    server.serve_forever()


@contextmanager
def served(folder: Path, delay: float) -> Iterator[tuple[str, Any, Any]]:
    """The address of a slow server, bytes a second that it sends (0 for all it can), requests and bytes so far."""
    context = multiprocessing.get_context("spawn")
    port, rate, counts = context.Value("i", 0), context.Value("d", 0), context.Array("q", 2)
    process = context.Process(target=_serve, args=(str(folder), delay, rate, port, counts), daemon=True)
    process.start()
    while not port.value:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port.value}", rate, counts
    finally:
        process.terminate()
        process.join()


def plain_scan(url: str, names: list[str], at_once: int) -> int:
    """Read files whole over connections that stay open, each into the same memory; return the bytes."""
    own, host = threading.local(), url.removeprefix("http://")

    def read(name: str) -> int:
        if not hasattr(own, "connection"):
            own.connection, own.room = http.client.HTTPConnection(host), bytearray(1 << 25)
            stack.callback(own.connection.close)
        own.connection.request("GET", f"/{name}")
        answer = own.connection.getresponse()
        size = 0
        while got := answer.readinto(memoryview(own.room)[size:]):
            size += got
        return size

    with ExitStack() as stack, ThreadPoolExecutor(at_once) as pool:
        return sum(pool.map(read, names))


def requests_scan(url: str, names: list[str], at_once: int) -> int:
    """The same through requests, one session in each thread."""
    import requests

    own = threading.local()

    def read(name: str) -> int:
        if not hasattr(own, "session"):
            own.session = stack.enter_context(requests.Session())
        return len(own.session.get(f"{url}/{name}", timeout=60).content)

    with ExitStack() as stack, ThreadPoolExecutor(at_once) as pool:
        return sum(pool.map(read, names))


def obstore_scan(url: str, names: list[str], at_once: int) -> int:
    """The same through obstore."""
    import obstore

    place = obstore.store.HTTPStore.from_url(url, client_options={"allow_http": True})
    with ThreadPoolExecutor(at_once) as pool:
        return sum(pool.map(lambda name: len(obstore.get(place, name).bytes()), names))


def lazy_scan(url: str, at_once: int) -> int:
    """The same matrix through anndata's lazy reading, whole in memory at the end."""
    import dask
    import obstore
    import zarr
    from anndata.experimental import read_lazy
    from zarr.storage import ObjectStore

    place = obstore.store.HTTPStore.from_url(f"{url}/ref.zarr", client_options={"allow_http": True})
    with dask.config.set(scheduler="threads", num_workers=at_once):
        lazy = read_lazy(zarr.open_group(ObjectStore(place, read_only=True), mode="r"))
        return int(np.asarray(lazy.obsm[VIEW]).nbytes)


def main() -> int:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--cells", type=int, default=100 * SHARD_ROWS)
    options.add_argument("--width", type=int, default=512)
    options.add_argument("--delay", type=float, default=0.02, help="seconds that each request takes more")
    options.add_argument("--rate", type=float, default=125, metavar="MB/S", help="of the line in the second table")
    options.add_argument("--repeats", type=int, default=5)
    words = options.parse_args()
    n, width, repeats = (5_000, 32, 1) if words.quick else (words.cells, words.width, words.repeats)
    findings = Findings("benchmarks/remote.py")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SCSTORE_CACHE"] = f"{scratch}/cache"
        data = Path(scratch) / "data"
        write_store(data / "ref.zarr", n=n, width=width)
        with served(data, words.delay) as (url, rate, counts):
            for megabytes in (0, words.rate):
                rate.value = megabytes * 1e6
                line = f"{megabytes:g} MB/s" if megabytes else "all it can"
                scans(findings, url, line, data=data, repeats=repeats, check=not words.quick)
            rate.value = 0
            few_rows(findings, url, counts)
    findings.figures |= {"cells": n, "width": width, "delay_seconds": words.delay}
    return findings.finish(words.json)


def opened(place: str) -> Any:
    """The store at an address, from an empty cache, or on disk."""
    import scstore

    shutil.rmtree(os.environ["SCSTORE_CACHE"], ignore_errors=True)
    store = scstore.open(place)
    store.committed  # noqa: B018  # fetches the records
    return store


def scan(view: Any) -> None:
    """Read all rows in blocks."""
    from scstore.heads.rows import iter_raw_blocks

    if sum(block.shape[0] for _, block in iter_raw_blocks(view)) != len(view):
        raise AssertionError("rows were lost")


def scans(findings: Findings, url: str, line: str, *, data: Path, repeats: int, check: bool) -> None:
    """Time all ways in turn, over a line."""
    from scstore.remote import REQUESTS

    names = [file.relative_to(data).as_posix() for file in sorted(data.glob(f"ref.zarr/obsm/{VIEW}/c/*/0"))]
    n_bytes = sum((data / name).stat().st_size for name in names)
    stores: list[Any] = []
    ways: dict[str, Callable[[], Any]] = {
        "open": lambda: stores.append(opened(f"{url}/ref.zarr")),
        "scstore": lambda: scan(stores[-1].view(VIEW)),
        "scstore, cached": lambda: scan(stores[-1].view(VIEW)),
        "requests": lambda: requests_scan(url, names, REQUESTS),
        "http.client": lambda: plain_scan(url, names, REQUESTS),
        "obstore": lambda: obstore_scan(url, names, REQUESTS),
        "read_lazy": lambda: lazy_scan(url, REQUESTS),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in list(ways.items()):
            try:
                times[name].append(seconds(way))
            except ImportError as error:
                print(f"{name} is left out: {error}")
                del ways[name], times[name]
    shares = {
        name: statistics.median(b / a for a, b in zip(times["scstore"], took, strict=True))
        for name, took in times.items()
    }
    rows = [
        [name, median := statistics.median(took), n_bytes / median / 1e6, shares[name]] for name, took in times.items()
    ]
    print()
    heading = f"{n_bytes / 1e6:,.0f} MB, {REQUESTS} requests at once, the line {line}"
    table([heading, "seconds", "MB/s", "its time over scstore's"], rows)
    fastest = min(("requests", "http.client"), key=lambda name: shares[name])
    findings.at_least(f"{line}: scan, share of the speed of {fastest}", shares[fastest], 0.8, check=check)
    if "read_lazy" in shares:
        findings.at_least(f"{line}: scan, times as fast as read_lazy", shares["read_lazy"], 1, check=check)
    findings.figures[line] = {"seconds": times, "megabytes": n_bytes / 1e6, "at_once": REQUESTS, "over_scstore": shares}


def few_rows(findings: Findings, url: str, counts: Any) -> None:
    """Rows drawn at random: what they cost."""
    rng, found = np.random.default_rng(1), []
    for k in (1, 10, 1000):
        view = opened(f"{url}/ref.zarr").view(VIEW)
        rows = rng.choice(len(view), min(k, len(view)), replace=False)
        before = list(counts)
        took = seconds(lambda: view[rows])  # noqa: B023  # called at once
        n, size = (now - then for now, then in zip(counts, before, strict=True))
        found.append([k, took, n, size])
        chunks = len(np.unique(rows // min(SHARD_ROWS, len(view)))) * min(SHARD_ROWS, len(view)) * view.shape[1] * 2
        if k == 10:
            findings.at_most("ten rows: share of the bytes of their chunks", size / chunks, 1)
    print()
    table(["rows at random", "seconds", "requests", "bytes"], found)
    findings.figures["rows"] = [dict(zip(("rows", "seconds", "requests", "bytes"), one, strict=True)) for one in found]


if __name__ == "__main__":
    sys.exit(main())
