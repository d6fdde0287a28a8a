"""Scores of predictions: accuracy, macro means over classes, calibration error."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score

from scstore.heads.rows import Array

# Names of what :func:`prediction_scores` gives, in the order of a table.
METRICS = ("accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "auroc", "ece")
BINS = 15  # equally wide bins of confidence
NOT_LEARNED = -30.0  # log-probability of a class that the cells outside a fold do not have


def label_scores(truth: Any, predicted: Any) -> dict[str, float]:
    """Return accuracy, precision, recall and F1 of n ≥ 1 labels: macro means over the classes with a true cell."""
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, predicted, labels=np.unique(truth), average="macro", zero_division=0
    )
    values = (accuracy_score(truth, predicted), recall, precision, recall, f1)
    return dict(zip(METRICS[:5], map(float, values), strict=True))


def prediction_scores(truth: Array, proba: Array) -> dict[str, float | None]:
    """Return :data:`METRICS` of probabilities and class numbers; ``auroc``: one against the rest, None of one class."""
    present = np.unique(truth)
    areas = [roc_auc_score(truth == code, proba[:, code]) for code in present] if len(present) > 1 else []
    figures, auroc = label_scores(truth, proba.argmax(axis=1)), float(np.mean(areas)) if areas else None
    return {**figures, "auroc": auroc, "ece": expected_calibration_error(truth, proba)}


def held_out_scores(truth: Array, proba: Array) -> dict[str, float | int | None]:
    """Return what a head remembers of its held-out cells: their number ``n``, and figures that are None without any."""
    names = ("accuracy", "balanced_accuracy", "macro_f1")
    if not len(truth):
        return {"n": 0, **dict.fromkeys((*names, "nll", "ece", "coverage_95"))}
    figures = label_scores(truth, proba.argmax(axis=1))
    kept = {name: figures[name] for name in names}
    nll, ece = negative_log_likelihood(truth, proba), expected_calibration_error(truth, proba)
    return {"n": len(truth), **kept, "nll": nll, "ece": ece, "coverage_95": coverage(truth, proba)}


def coverage(truth: Array, proba: Array, *, right: float = 0.95) -> float:
    """Return the largest share of the cells, most confident first and ties together, of which ``right`` is right."""
    return n_surest(proba.max(axis=1), proba.argmax(axis=1) == truth, right=right) / len(truth)


def n_surest(confidence: Array, is_right: Array, *, right: float) -> int:
    """Return how many of the cells, most confident first and ties together, may be taken so that ``right`` is right."""
    order = np.argsort(-confidence, kind="stable")
    n = np.arange(1, len(order) + 1)
    last = np.append(np.diff(confidence[order]) < 0, True)  # of those of its confidence
    return int(n[last & (np.cumsum(is_right[order]) / n >= right)].max(initial=0))


def scores_by_class(truth: Array, predicted: Array, classes: Sequence[str]) -> dict[str, dict[str, float | int]]:
    """Return precision, recall, F1 and number of cells of every class that has a true cell, by its name."""
    present = np.unique(truth)
    parts = precision_recall_fscore_support(truth, predicted, labels=present, average=None, zero_division=0)
    return {
        classes[code]: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for code, p, r, f, n in zip(present.tolist(), *parts, strict=True)
    }


def negative_log_likelihood(truth: Array, proba: Array) -> float:
    """Return the mean of ``-log(probability of the true class)``."""
    picked = proba[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(picked, np.finfo(np.float64).tiny)).mean())


def expected_calibration_error(truth: Array, proba: Array) -> float:
    """Return the mean gap of confidence and accuracy over bins (Naeini et al. 2015, as Guo et al. 2017)."""
    gaps = [part["n"] * abs(part["confidence"] - part["accuracy"]) for part in reliability(truth, proba)]
    return float(sum(gaps) / len(truth))


def reliability(truth: Array, proba: Array) -> list[dict[str, Any]]:
    """Return a reliability diagram as numbers: ``n``, mean ``confidence`` and ``accuracy`` of each bin with cells."""
    confidence = proba.max(axis=1)
    right = proba.argmax(axis=1) == truth
    place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    bins = [place == one for one in np.unique(place)]
    return [
        {"n": int(at.sum()), "confidence": float(confidence[at].mean()), "accuracy": float(right[at].mean())}
        for at in bins
    ]


def widened(proba: Array, learned: Array, n_classes: int, *, least: float = 0.0) -> Array:
    """Return probabilities of all classes, or their logarithms, from those of the ``learned``; others the ``least``."""
    wide = np.full((len(proba), n_classes), least)
    wide[:, learned] = proba
    return wide
