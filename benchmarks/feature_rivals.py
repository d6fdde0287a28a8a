"""What a laboratory would use instead: PCA with logistic regression, and CellTypist, on all genes."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from feature_stores import Pair
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

COMPONENTS = 50
CELLTYPIST = Path(__file__).with_name("celltypist_alone.py")


def rivals(pair: Pair, trainings: list[np.ndarray], *, celltypist: str | None) -> dict[str, np.ndarray]:
    """Labels of the tested cells by the name of the row, ``(runs, n)``.

    Parameters
    ----------
    pair
        Whose cells.
    trainings
        Rows to train on, one array a run. The PCA is always of the whole training side: it takes no labels.
    celltypist
        Python of an environment that has CellTypist; no such row without it.
    """
    counts = sparse.csr_matrix(pair.cells.X, dtype=np.float64)
    per_cell = np.maximum(np.asarray(counts.sum(axis=1)), 1)
    expression = counts.multiply(1e4 / per_cell).log1p().astype(np.float32).tocsr()
    known = expression[~pair.held_out].toarray()
    pca = PCA(min(COMPONENTS, *(size - 1 for size in known.shape)), random_state=0).fit(known)
    scores = pca.transform(expression.toarray())
    found: dict[str, np.ndarray] = {}
    for name, weights in (("PCA 50 + LR", None), ("PCA 50 + LR, balanced", "balanced")):
        said = []
        for rows in trainings:
            head = LogisticRegression(max_iter=5000, class_weight=weights).fit(scores[rows], pair.labels[rows])
            said.append(head.predict(scores[pair.tested]))
        found[name] = np.array(said)
    if celltypist is not None:
        found["CellTypist"] = _celltypist(celltypist, expression, pair, trainings)
    return found


def _celltypist(python: str, expression: Any, pair: Pair, trainings: list[np.ndarray]) -> np.ndarray:
    """In an environment of its own: CellTypist asks for an older scikit-learn than the one here."""
    with tempfile.TemporaryDirectory() as folder:
        sparse.save_npz(Path(folder) / "expression.npz", expression)
        job = {
            "genes": [str(name) for name in pair.cells.var_names],
            "labels": pair.labels.tolist(),
            "trainings": [rows.tolist() for rows in trainings],
            "tested": pair.tested.tolist(),
        }
        (Path(folder) / "job.json").write_text(json.dumps(job), encoding="utf-8")
        done = subprocess.run([python, str(CELLTYPIST), folder], capture_output=True, text=True, check=False)
        if done.returncode:
            message = f"--celltypist {python}: it failed:\n{done.stderr.strip()[-2000:]}"
            raise SystemExit(message)
        return np.array(json.loads((Path(folder) / "said.json").read_text(encoding="utf-8")))
