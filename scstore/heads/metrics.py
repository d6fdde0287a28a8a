"""How good predictions are: the figures of a table of classifiers, all from scikit-learn but the calibration error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score

from scstore.heads.calibration import expected_calibration_error
from scstore.heads.rows import Array

__all__ = ["METRICS", "metrics_by_class", "prediction_metrics", "widen"]

METRICS = (
    "accuracy",
    "balanced_accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "auroc",
    "ece",
)
"""Names of what :func:`prediction_metrics` gives, in the order of a table."""


def prediction_metrics(truth: Array, proba: Array) -> dict[str, float | None]:
    """Figures of predictions over the classes that are among the true ones.

    Parameters
    ----------
    truth
        ``(n,)`` true class numbers, n ≥ 1.
    proba
        ``(n, n_classes)`` probabilities; the most probable class is the prediction.

    Returns
    -------
    dict
        :data:`METRICS`, each 0 to 1. Means are over classes with a true cell, each class counting the same;
        ``balanced_accuracy`` is the mean recall, so it equals ``macro_recall``. ``auroc`` is the mean over these
        classes of the area under the curve of one class against the rest; None where all cells are of one class.
        ``ece`` is the expected calibration error, 15 bins.
    """
    predicted = proba.argmax(axis=1)
    present = np.unique(truth)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, predicted, labels=present, average="macro", zero_division=0
    )
    areas = [roc_auc_score(truth == code, proba[:, code]) for code in present] if len(present) > 1 else []
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "balanced_accuracy": float(recall),
        "macro_precision": float(precision),
        "macro_recall": float(recall),
        "macro_f1": float(f1),
        "auroc": float(np.mean(areas)) if areas else None,
        "ece": expected_calibration_error(proba, truth),
    }


def metrics_by_class(truth: Array, predicted: Array, classes: Sequence[str]) -> dict[str, dict[str, float | int]]:
    """Precision, recall, F1 and number of cells of every class that has a true cell.

    Parameters
    ----------
    truth, predicted
        ``(n,)`` class numbers.
    classes
        Names of the classes by number.
    """
    present = np.unique(truth)
    parts = precision_recall_fscore_support(truth, predicted, labels=present, average=None, zero_division=0)
    return {
        classes[code]: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for code, p, r, f, n in zip(present.tolist(), *parts, strict=True)
    }


def widen(proba: Array, known: Sequence[str], classes: Sequence[str]) -> Array:
    """Probabilities over ``classes``, ``(n, len(classes))``, from those over some of them; the others get 0.

    Parameters
    ----------
    proba
        ``(n, len(known))``.
    known, classes
        Names of the columns, before and after; ``classes`` has all of ``known``.
    """
    place = {name: column for column, name in enumerate(classes)}
    wide = np.zeros((len(proba), len(classes)))
    wide[:, [place[str(name)] for name in known]] = proba
    return wide
