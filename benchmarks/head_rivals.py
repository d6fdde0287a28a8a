"""What benchmarks/heads.py compares: fresh heads, the estimators they are held against, and how far those are run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from own_process import threads_for_children

SAME_PENALTY = "LogisticRegression, same penalty"
OURS = ("linear, streamed", "linear, streamed, C auto", "linear, exact", "mlp, streamed", "knn", "knn, euclidean")
THEIRS = ("LogisticRegression", SAME_PENALTY, "SGDClassifier", "MLPClassifier", "KNeighborsClassifier")
CELLTYPIST = {"celltypist.train": "lr", "celltypist.train(use_SGD)": "sgd"}
"""By the name of the row, the word that celltypist_features.py takes."""

MOST = {
    "linear, exact": (100_000, 5_120),
    "knn, euclidean": (100_000, 5_120),
    "LogisticRegression": (20_000, 512),
    SAME_PENALTY: (20_000, 512),
    "SGDClassifier": (100_000, 512),
    "MLPClassifier": (100_000, 5_120),
    "KNeighborsClassifier": (100_000, 5_120),
    "celltypist.train": (10_000, 512),
    "celltypist.train(use_SGD)": (10_000, 512),
}
"""Rows and dimensions up to which each is run: beyond, it takes a great part of an hour, or more memory than `fit`
allows itself."""

SCRIPT = Path(__file__).with_name("celltypist_features.py")
BUDGET, STREAMED = 1 << 28, 1 << 24
"""Bytes of rows that the perceptron may hold, and the streamed regression, so few that it streams at every size."""


def runs(name: str, n: int, width: int) -> bool:
    """Whether a row is run on so many rows."""
    most_rows, most_width = MOST.get(name, (n, width))
    return n <= most_rows and width <= most_width


def estimator(name: str, width: int, threads: int) -> Any:
    """A fresh one, with its library's defaults where they are sound at this size."""
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier

    from scstore.heads.knn import KNNHead
    from scstore.heads.linear import DEFAULT_C, LinearHead
    from scstore.heads.mlp import MLPHead

    return {
        "linear, streamed": lambda: LinearHead(memory_limit=STREAMED),
        "linear, streamed, C auto": lambda: LinearHead("auto", memory_limit=STREAMED),
        "linear, exact": lambda: LinearHead(memory_limit=1 << 33),
        "mlp, streamed": lambda: MLPHead(memory_limit=BUDGET),
        "knn": lambda: KNNHead(),
        "knn, euclidean": lambda: KNNHead(metric="euclidean"),
        "LogisticRegression": lambda: LogisticRegression(max_iter=2000),
        # the head's penalty is that of rows of length 1
        SAME_PENALTY: lambda: LogisticRegression(C=DEFAULT_C / width, max_iter=2000),
        "SGDClassifier": lambda: SGDClassifier(loss="log_loss", n_jobs=threads, random_state=0),
        "MLPClassifier": lambda: MLPClassifier((128,), early_stopping=True, random_state=0),
        "KNeighborsClassifier": lambda: KNeighborsClassifier(15, weights="distance", n_jobs=threads),
    }[name]()


def celltypist(python: str, folder: Path, name: str, *, threads: int) -> tuple[dict[str, float], np.ndarray]:
    """Figures of ``celltypist.train`` in an environment of its own, and its labels of the test rows."""
    words = [python, str(SCRIPT), str(folder), CELLTYPIST[name], str(threads)]
    with threads_for_children(threads):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"--celltypist {python}: it failed:\n{done.stderr.strip()[-2000:]}"
        raise SystemExit(message)
    figures: dict[str, float] = json.loads((folder / "celltypist.json").read_text(encoding="utf-8"))
    return figures, np.load(folder / "celltypist_y.npy").astype(np.int64)
