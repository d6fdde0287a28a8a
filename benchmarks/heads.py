"""Heads on many cells: time, peak memory and quality, beside scikit-learn and CellTypist on the same features.

    python benchmarks/heads.py [--shapes 10000x512 10000x5120 100000x512 1000000x512] [--view FILE:KEY:LABEL …]
        [--celltypist PYTHON] [--threads 2] [--json FILE] [--quick]

Synthetic features (synthetic_features.py), half precision, on disk; or with --view real ones: the matrix KEY of an
``.h5ad`` or a store, and the labels in its column LABEL, of which a seeded quarter of each label is the test side. Each
fit runs in a process of its own, so that peak memory is its own, on --threads cores: BLAS, OpenMP and n_jobs alike (the
streamed heads take one of them). The streamed pass that a fit is held against reads all rows once, a block at a time,
and multiplies them with a matrix of one column a class; it runs before and after the fit in the same process, on one
thread as the streamed heads do, and the slower counts.

scikit-learn's estimators get float32 rows in memory, standardised, since they take nothing else; CellTypist gets
float32 rows and standardises them itself. Reading and standardising are part of their time, as they are of ours. How
far they are run is printed; beyond it they take a great part of an hour. KNeighborsClassifier on standardised rows
finds the neighbours of ``knn, euclidean``; ``knn`` is the default, by cosine. The linear head's default penalty is
stronger than scikit-learn's, which costs recall of rare types where cells are few and types are many; so convergence is
compared with LogisticRegression with the head's penalty, and scikit-learn's own default against ``C="auto"``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from head_rivals import CELLTYPIST, MOST, OURS, SAME_PENALTY, THEIRS, celltypist, estimator, runs
from measuring import Findings, parser, table
from own_process import in_own_process, peak_gb
from synthetic_features import OnDisk, write_features

TEST_ROWS, QUICK_TEST_ROWS, NOISE = 20_000, 2_000, 2.0
TEST_SHARE, FEWEST = 0.25, 4
LARGE = 100_000
"""Rows from which the time of a pass is long enough to count in."""
ENOUGH = 5_000
"""Test rows from which half a point of accuracy is more than chance."""
Figures = dict[str, dict[str, Any]]
"""By the row's name."""


def write_view(folder: Path, words: str, *, seed: int = 0) -> tuple[int, int]:
    """Write both sides of a real view as :func:`write_features` does; gives the rows and dimensions trained on."""
    import scstore
    from scstore.heads.rows import materialise

    file, key, column = words.rsplit(":", 2)
    store = scstore.open(file)
    rows = store.usable_rows()
    named = store.obs[column].iloc[rows]
    labelled = named.notna().to_numpy()
    labels = named[labelled].astype(str).to_numpy()
    values = materialise(store.view(key))[rows[labelled]]
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rng, tested = np.random.default_rng(seed), []
    for code in range(len(names)):
        if counts[code] >= FEWEST:
            mine = rng.permutation(np.flatnonzero(codes == code))
            tested.append(mine[: max(1, round(TEST_SHARE * len(mine)))])
    test = np.sort(np.concatenate(tested))
    train = np.setdiff1d(np.flatnonzero(counts[codes] >= FEWEST), test)
    for name, side in (("train", train), ("test", test)):
        np.save(folder / f"{name}.npy", values[side])
        np.save(folder / f"{name}_y.npy", codes[side])
    return len(train), values.shape[1]


def one_pass(rows: OnDisk, n_classes: int) -> float:
    """Seconds to read all rows once and multiply them with a matrix of one column a class."""
    from scstore.heads.rows import iter_blocks
    from scstore.heads.training import one_blas_thread

    weights = np.ones((rows.shape[1], n_classes), dtype=np.float32)
    begun = time.perf_counter()
    with one_blas_thread():
        for _, block in iter_blocks(rows):
            block @ weights
    return time.perf_counter() - begun


def fit_one(folder: Path, name: str, threads: int) -> dict[str, Any]:
    """Fit and label in this process: seconds, and the labels of the test rows."""
    rows, y = OnDisk(folder / "train.npy"), np.load(folder / "train_y.npy")
    test = OnDisk(folder / "test.npy")
    n_classes = len(np.unique(y))
    one_pass(rows, n_classes)  # so that all that follows find the file in memory
    passes = [one_pass(rows, n_classes)]
    model = estimator(name, rows.shape[1], threads)
    begun = time.perf_counter()
    if name in OURS:
        model.fit(rows, y)
        seconds, begun = time.perf_counter() - begun, time.perf_counter()
        said = model.predict(test)
    else:
        values = rows[:].astype(np.float32)
        mean, scale = values.mean(axis=0), values.std(axis=0)
        scale[scale == 0] = 1
        values -= mean
        values /= scale
        model.fit(values, y)
        seconds, begun = time.perf_counter() - begun, time.perf_counter()
        said = model.predict((test[:].astype(np.float32) - mean) / scale)
    labelled, most = time.perf_counter() - begun, peak_gb()
    passes.append(one_pass(rows, n_classes))
    epochs = np.max(getattr(model, "n_iter_", 1))
    return {
        "seconds": seconds,
        "label_seconds": labelled,
        "fit_peak_gb": most,
        "pass_seconds": max(passes),
        "epochs": int(epochs),
        "said": said,
    }


def compare(folder: Path, n: int, width: int, options: argparse.Namespace) -> Figures:
    """Every row that is run at this size."""
    from sklearn.metrics import accuracy_score, recall_score

    truth = np.load(folder / "test_y.npy")
    found: Figures = {}
    for name in (*OURS, *THEIRS, *(CELLTYPIST if options.celltypist else ())):
        if not runs(name, n, width):
            print(f"  {name}: left out beyond {MOST[name][0]:,} x {MOST[name][1]:,}", flush=True)
            continue
        if name in CELLTYPIST:
            figures, said = celltypist(options.celltypist, folder, name, threads=options.threads)
        else:
            figures = in_own_process(fit_one, folder, name, options.threads, threads=options.threads)
            said = figures.pop("said")
            figures["peak_gb"] = figures.pop("fit_peak_gb")
        figures["accuracy"] = float(accuracy_score(truth, said))
        figures["macro_recall"] = float(recall_score(truth, said, average="macro", zero_division=0))
        found[name] = figures
        print(f"  {name}: {figures['seconds']:.1f} s", flush=True)
    return found


def show_figures(title: str, found: Figures, *, n_test: int, threads: int) -> None:
    """Print the table of a size."""
    print(f"\n{title}; {threads} threads; a streamed pass is 1")
    rows = [
        [name, f["seconds"], f["seconds"] / f["pass_seconds"] if "pass_seconds" in f else None, f["label_seconds"],
         f["peak_gb"], f"{f['accuracy']:.4f}", f"{f['macro_recall']:.4f}"]
        for name, f in found.items()
    ]  # fmt: skip
    rows = [["-" if cell is None else cell for cell in row] for row in rows]
    header = ["head", "fit, s", "x pass", f"label {n_test:,}, s", "peak GB", "accuracy", "macro recall"]
    table(header, rows)


def shape(words: str) -> tuple[int, int]:
    """``ROWSxWIDTH``."""
    n, width = words.lower().split("x")
    return int(n), int(width)


def arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0])
    made.add_argument(
        "--shapes",
        type=shape,
        nargs="*",
        default=[(10_000, 512), (10_000, 5_120), (100_000, 512), (1_000_000, 512)],
        metavar="ROWSxWIDTH",
        help="synthetic features; none where only the option's name is given",
    )
    made.add_argument("--view", action="append", default=[], metavar="FILE:KEY:LABEL", help="real ones, repeatable")
    made.add_argument("--celltypist", metavar="PYTHON", help="Python of an environment that has CellTypist")
    made.add_argument("--threads", type=int, default=2)
    options = made.parse_args()
    if options.quick:
        options.shapes = [] if options.view else [(1_500, 32)]
    return options


def main() -> int:
    options = arguments()
    findings = Findings("benchmarks/heads.py")
    print("run up to", ", ".join(f"{name} {n:,} x {width:,}" for name, (n, width) in MOST.items()))
    for what in (*options.shapes, *options.view):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if isinstance(what, str):
                n, width = write_view(folder, what)
                title = f"{Path(what.rsplit(':', 2)[0]).name} {what.split(':')[-2]}, {n:,} x {width:,}"
            else:
                n, width = what
                parts = {"train": n, "test": QUICK_TEST_ROWS if options.quick else TEST_ROWS}
                write_features(folder, parts, width=width, noise=NOISE)
                title = f"{n:,} x {width:,}"
            found = compare(folder, n, width, options)
            n_test = len(np.load(folder / "test_y.npy"))
        findings.figures[title] = {"n": n, "width": width, "n_test": n_test, "rows": found}
        show_figures(title, found, n_test=n_test, threads=options.threads)
        goals(findings, title, n, n_test, found, check=not options.quick)
    findings.figures["threads"] = options.threads
    return findings.finish(options.json)


def goals(findings: Findings, title: str, n: int, n_test: int, found: Figures, *, check: bool) -> None:
    """Check the goals of the heads wherever the rival ran; those of quality where the test rows are many."""
    streamed, many = found["linear, streamed"], n_test >= ENOUGH
    if n >= LARGE:
        # the scaling takes a pass of its own, shared out over the epochs
        passes = streamed["seconds"] / streamed["epochs"] / streamed["pass_seconds"]
        findings.at_most(f"{title}: streamed linear, passes an epoch", passes, 3, check=check)
    pairs = [("linear, streamed", SAME_PENALTY), ("linear, streamed", "linear, exact")]
    for ours, theirs in (*pairs, ("linear, streamed, C auto", "LogisticRegression")):
        if theirs in found:
            ahead = found[ours]["accuracy"] - found[theirs]["accuracy"]
            findings.at_least(f"{title}: accuracy of {ours} over {theirs}", ahead, -0.005, check=check and many)
            recall = found[ours]["macro_recall"] - found[theirs]["macro_recall"]
            findings.at_least(f"{title}: macro recall of {ours} over {theirs}", recall, -0.01, check=check and many)
    for name in ("SGDClassifier", *CELLTYPIST):
        if name in found:
            ratio = found[name]["seconds"] / streamed["seconds"]
            findings.at_least(f"{title}: {name}'s time over streamed linear's", ratio, 5, check=check and many)
            ahead = streamed["accuracy"] - found[name]["accuracy"]
            findings.at_least(f"{title}: accuracy over {name}", ahead, 0, check=check and many)
    findings.at_most(f"{title}: streamed linear, peak GB", streamed["peak_gb"], 4)
    for ours, theirs in (("mlp, streamed", "MLPClassifier"), ("knn, euclidean", "KNeighborsClassifier")):
        if theirs in found:
            ahead = found[ours]["accuracy"] - found[theirs]["accuracy"]
            findings.at_least(f"{title}: accuracy of {ours} over {theirs}", ahead, -0.005, check=check and many)


if __name__ == "__main__":
    sys.exit(main())
