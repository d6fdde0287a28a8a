"""Heads on many cells: time, peak memory and quality, beside scikit-learn on the same features.

    python benchmarks/heads.py [--sizes 10000 100000 1000000] [--width 512] [--json FILE] [--quick]

Features of realistic shape: low rank and noise, a few dimensions of great spread or far from zero, 40 classes with a
long tail, half precision, on disk. Every fit runs in a process of its own, so that peak memory is its own. The streamed
pass that a fit is held against reads all rows once, a block at a time, and multiplies them with a matrix of one column
a class; it runs before and after the fit in the same process, on one thread as the heads do, and the slower counts.

scikit-learn's estimators get float32 rows in memory, standardised, since they take nothing else; reading and
standardising are part of their time, as they are of ours. Its logistic regression runs up to 20,000 rows, its MLP up to
200,000; beyond they take hours.
"""

from __future__ import annotations

import multiprocessing
import queue
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Findings, parser, table

N_CLASSES, RANK, TEST_ROWS = 40, 64, 20_000
LARGEST = {"LogisticRegression": 20_000, "MLPClassifier": 200_000}
OURS = ("linear, streamed", "linear, exact", "mlp, streamed")
THEIRS = ("LogisticRegression", "SGDClassifier", "MLPClassifier")


class OnDisk:
    """Rows as a store gives them."""

    def __init__(self, path: Path) -> None:
        self.values = np.load(path, mmap_mode="r")
        self.shape = self.values.shape

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(self.values[key])


def make(folder: Path, *, n: int, width: int, seed: int = 0) -> None:
    """Write ``n`` training rows and some test rows with their labels."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, N_CLASSES + 1) ** 1.3
    loadings = rng.normal(0, 1, (RANK, width)).astype(np.float32) * (0.97 ** np.arange(RANK, dtype=np.float32))[:, None]
    centres = rng.normal(0, 0.55, (N_CLASSES, RANK)).astype(np.float32)
    spread, shift = rng.gamma(2, 0.5, width).astype(np.float32), rng.normal(0, 3, width).astype(np.float32)
    spread[rng.permutation(width)[:3]] *= 30
    shift[rng.permutation(width)[:3]] += 200
    for name, rows in (("train", n), ("test", TEST_ROWS)):
        codes = rng.choice(N_CLASSES, rows, p=shares / shares.sum())
        codes[: 2 * N_CLASSES] = np.repeat(np.arange(N_CLASSES), 2)
        np.save(folder / f"{name}_y.npy", codes)
        file = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.float16, shape=(rows, width))
        for start in range(0, rows, 20_000):
            part = codes[start : start + 20_000]
            hidden = centres[part] + rng.standard_normal((len(part), RANK), dtype=np.float32)
            values = hidden @ loadings + 2 * rng.standard_normal((len(part), width), dtype=np.float32)
            file[start : start + len(part)] = values * spread / 8 + shift
        file.flush()


def estimator(name: str) -> Any:
    """A fresh one, with its library's defaults where they are sound at this size."""
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.neural_network import MLPClassifier

    from scstore.heads.linear import LinearHead
    from scstore.heads.mlp import MLPHead

    return {
        "linear, streamed": lambda: LinearHead(solver="stream", memory_limit=1 << 28),
        "linear, exact": lambda: LinearHead(),
        "mlp, streamed": lambda: MLPHead(memory_limit=1 << 28),
        "LogisticRegression": lambda: LogisticRegression(max_iter=2000),
        "SGDClassifier": lambda: SGDClassifier(loss="log_loss", random_state=0),
        "MLPClassifier": lambda: MLPClassifier((128,), early_stopping=True, random_state=0),
    }[name]()


def one_pass(rows: OnDisk) -> float:
    """Seconds to read all rows once and multiply them with a matrix of one column a class."""
    from scstore.heads.rows import iter_blocks
    from scstore.heads.threads import one_blas_thread

    weights = np.ones((rows.shape[1], N_CLASSES), dtype=np.float32)
    begun = time.perf_counter()
    with one_blas_thread():
        for _, block in iter_blocks(rows):
            block @ weights
    return time.perf_counter() - begun


def fit_one(folder: str, name: str, results: Any) -> None:
    """Fit in this process; put seconds, peak memory and quality."""
    from sklearn.metrics import accuracy_score, recall_score

    place = Path(folder)
    rows, y = OnDisk(place / "train.npy"), np.load(place / "train_y.npy")
    test, truth = OnDisk(place / "test.npy"), np.load(place / "test_y.npy")
    passes = [one_pass(rows)]
    model = estimator(name)
    begun = time.perf_counter()
    if name in OURS:
        model.fit(rows, y)
        seconds = time.perf_counter() - begun
        guess = model.predict(test)
    else:
        values = rows[:].astype(np.float32)
        mean, scale = values.mean(axis=0), values.std(axis=0)
        values -= mean
        values /= scale
        model.fit(values, y)
        seconds = time.perf_counter() - begun
        guess = model.predict((test[:].astype(np.float32) - mean) / scale)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    passes.append(one_pass(rows))
    results.put(
        {
            "seconds": seconds,
            "peak_gb": peak / 1e9,
            "pass_seconds": max(passes),
            "accuracy": float(accuracy_score(truth, guess)),
            "macro_recall": float(recall_score(truth, guess, average="macro", zero_division=0)),
            "epochs": int(np.max(model.n_iter_)),
        }
    )


def measure(folder: Path, name: str) -> dict[str, float]:
    """:func:`fit_one` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=fit_one, args=(str(folder), name, results))
    process.start()
    while True:
        try:
            found: dict[str, float] = results.get(timeout=5)
            break
        except queue.Empty:
            if not process.is_alive():
                msg = f"{name}: its process ended with {process.exitcode}"
                raise RuntimeError(msg) from None
    process.join()
    return found


def main() -> int:
    options = parser("Heads on many cells, beside scikit-learn.")
    options.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options.add_argument("--width", type=int, default=512)
    words = options.parse_args()
    sizes, width = ([1_500], 32) if words.quick else (sorted(words.sizes), words.width)
    findings = Findings("heads")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for n in sizes:
        here = found[f"{n:,} x {width}"] = {}
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            make(folder, n=n, width=width)
            fits = n * width * 4 <= 1 << 30
            for name in (*OURS, *THEIRS):
                if (name == "linear, exact" and not fits) or n > LARGEST.get(name, n):
                    continue
                here[name] = measure(folder, name)
        print(f"\n{n:,} cells x {width}, {N_CLASSES} classes; a streamed pass is 1")
        rows = [
            [name, f["seconds"], f["seconds"] / f["pass_seconds"], f["peak_gb"], f"{f['accuracy']:.4f}",
             f"{f['macro_recall']:.4f}"]
            for name, f in here.items()
        ]  # fmt: skip
        table(["head", "seconds", "x pass", "peak GB", "accuracy", "macro recall"], rows)
    findings.figures = found
    goals(findings, found, check=not words.quick)
    return findings.finish(words.json)


def goals(findings: Findings, found: dict[str, dict[str, dict[str, float]]], *, check: bool) -> None:
    """What the streamed linear head promises, at every size where its rival ran."""
    for size, here in found.items():
        streamed = here["linear, streamed"]
        # the scaling takes a pass of its own, shared out over the epochs
        epochs = streamed["epochs"] * streamed["pass_seconds"]
        large = int(size.split(" ")[0].replace(",", "")) >= 100_000
        if large:
            findings.at_most(f"{size}: streamed linear, passes an epoch", streamed["seconds"] / epochs, 3, check=check)
        for name in ("LogisticRegression", "linear, exact"):
            if name in here:
                near = here[name]
                findings.at_least(f"{size}: accuracy over {name}", streamed["accuracy"] - near["accuracy"], -0.005)
                recall = streamed["macro_recall"] - near["macro_recall"]
                findings.at_least(f"{size}: macro recall over {name}", recall, -0.01, check=check)
        sgd = here["SGDClassifier"]
        findings.at_least(f"{size}: SGDClassifier's time", sgd["seconds"] / streamed["seconds"], 5, check=check)
        findings.at_least(f"{size}: accuracy over SGDClassifier", streamed["accuracy"] - sgd["accuracy"], 0)
        findings.at_most(f"{size}: streamed linear, peak GB", streamed["peak_gb"], 4)
        if "MLPClassifier" in here:
            ahead = here["mlp, streamed"]["accuracy"] - here["MLPClassifier"]["accuracy"]
            findings.at_least(f"{size}: accuracy of mlp over MLPClassifier", ahead, -0.002, check=check)


if __name__ == "__main__":
    sys.exit(main())
