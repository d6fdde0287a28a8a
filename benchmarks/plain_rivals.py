"""Plain classifiers on expression, in a few lines of scikit-learn each: what a laboratory would write itself."""

from __future__ import annotations

import json
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lab_pairs import Cut
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

CELLTYPIST = Path(__file__).with_name("celltypist_alone.py")
BINS, RIGHT = 10, 0.95


@dataclass(frozen=True)
class Said:
    """Probabilities ``(n, n_classes)`` of the test cells, and which labels a row lets stand, if it says so."""

    classes: np.ndarray
    proba: np.ndarray
    stands: np.ndarray | None = None

    def scores(self, truth: np.ndarray) -> dict[str, float]:
        """Macro-F1 with every cell labelled, share kept, share right among them, ECE, coverage at 95 % right."""
        predicted, confidence = self.classes[self.proba.argmax(axis=1)], self.proba.max(axis=1)
        right = predicted == truth
        f1 = f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
        kept = np.nan if self.stands is None else float(self.stands.mean())
        among = np.nan if self.stands is None or not self.stands.any() else float(right[self.stands].mean())
        found = {"macro_f1": float(f1), "kept": kept, "right": among}
        return {**found, "ece": calibration_error(confidence, right), "coverage": coverage(confidence, right)}


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """ECE over ten bins."""
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = [
        (place == b).sum() * abs(confidence[place == b].mean() - right[place == b].mean()) for b in np.unique(place)
    ]
    return float(sum(gaps) / len(right))


def coverage(confidence: np.ndarray, right: np.ndarray) -> float:
    """The largest share of cells, most confident first, of which 95 % are right."""
    order = np.argsort(-confidence, kind="stable")
    enough = np.flatnonzero(np.cumsum(right[order]) / np.arange(1, len(order) + 1) >= RIGHT)
    return float((enough[-1] + 1) / len(order)) if len(enough) else 0.0


def best_genes(expression: np.ndarray, labels: np.ndarray, n: int) -> np.ndarray:
    """Columns of highest ANOVA F, best first."""
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant genes, which get no F
        f = np.nan_to_num(f_classif(expression, labels)[0], posinf=0.0)
    return np.argsort(-f, kind="stable")[:n]


def _regression(n: int, C: float, *, scaled: bool) -> Callable[[Cut], Said]:
    def run(cut: Cut) -> Said:
        genes = best_genes(cut.train, cut.labels, n)
        model = LogisticRegression(C=C, class_weight="balanced", max_iter=2000)
        made = make_pipeline(StandardScaler(), model) if scaled else model
        made.fit(cut.train[:, genes], cut.labels)
        return Said(made.classes_, made.predict_proba(cut.test[:, genes]))

    return run


def _unit(n: int, C: float) -> Callable[[Cut], Said]:
    def run(cut: Cut) -> Said:
        genes = best_genes(cut.train, cut.labels, n)
        made = make_pipeline(Normalizer(), LogisticRegression(C=C, class_weight="balanced", max_iter=2000))
        made.fit(cut.train[:, genes], cut.labels)
        return Said(made.classes_, made.predict_proba(cut.test[:, genes]))

    return run


def _pca(model: Callable[[], object]) -> Callable[[Cut], Said]:
    def run(cut: Cut) -> Said:
        pca = PCA(min(50, *(size - 1 for size in cut.train.shape)), random_state=0).fit(cut.train)
        made = model()
        made.fit(pca.transform(cut.train), cut.labels)
        return Said(made.classes_, made.predict_proba(pca.transform(cut.test)))

    return run


SINGLE: dict[str, Callable[[Cut], Said]] = {
    "100 genes, standardised, C .05": _regression(100, 0.05, scaled=True),
    "200 genes, standardised, C .05": _regression(200, 0.05, scaled=True),
    "500 genes, C .1": _regression(500, 0.1, scaled=False),
    "100 genes at unit length, C 10": _unit(100, 10),
}
"""Single regressions, class-balanced, on the genes of highest ANOVA F: settings of ``../shared/MEASURED.md``."""
OTHERS: dict[str, Callable[[Cut], Said]] = {
    "PCA 50 + regression": _pca(lambda: LogisticRegression(class_weight="balanced", max_iter=2000)),
    "PCA 50 + kNN": _pca(lambda: KNeighborsClassifier(15)),
}
TWO_FUSED = "two regressions fused"
FUSED = ("100 genes, standardised, C .05", "500 genes, C .1")


def fused(first: Said, second: Said) -> Said:
    """Mean log-probability of two."""
    logs = np.log(np.maximum(first.proba, 1e-12)) + np.log(np.maximum(second.proba, 1e-12))
    proba = np.exp(logs / 2)
    return Said(first.classes, proba / proba.sum(axis=1, keepdims=True))


def celltypist(python: str, cut: Cut, genes: np.ndarray | None = None) -> np.ndarray:
    """CellTypist's labels, in an environment of its own: it asks for an older scikit-learn."""
    columns = np.arange(len(cut.genes)) if genes is None else genes
    with tempfile.TemporaryDirectory() as folder:
        both = sparse.csr_matrix(np.vstack([cut.train, cut.test])[:, columns])
        sparse.save_npz(Path(folder) / "expression.npz", both)
        job = {
            "genes": [cut.genes[column] for column in columns],
            "labels": [*cut.labels.tolist(), *cut.truth.tolist()],
            "trainings": [list(range(len(cut.labels)))],
            "tested": list(range(len(cut.labels), both.shape[0])),
        }
        (Path(folder) / "job.json").write_text(json.dumps(job), encoding="utf-8")
        done = subprocess.run([python, str(CELLTYPIST), folder], capture_output=True, text=True, check=False)
        if done.returncode:
            message = f"--celltypist {python}: it failed:\n{done.stderr.strip()[-2000:]}"
            raise SystemExit(message)
        return np.array(json.loads((Path(folder) / "said.json").read_text(encoding="utf-8"))[0])


def certain(labels: np.ndarray, classes: np.ndarray) -> Said:
    """Labels alone, as probabilities of 1."""
    names = np.unique([*classes, *labels])
    return Said(names, (names[None, :] == labels[:, None]).astype(float))
