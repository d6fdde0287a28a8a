"""Temperature scaling: a confidence of 0.8 that is right in eight cases out of ten."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from scstore.heads.rows import Array

__all__ = ["expected_calibration_error", "fit_temperature", "negative_log_likelihood", "reliability"]

HOTTEST = 50.0
"""Temperatures are sought from 1/50 to 50."""


def fit_temperature(logits: Array, y_index: Array) -> float:
    r"""The temperature T that makes ``softmax(logits / T)`` most likely (Guo et al., 2017).

    Minimises :math:`\sum_i \mathrm{NLL}_i(T) + \tfrac12 \log^2 T`. The last term is a normal prior on log T that
    weighs as little as one cell: it only matters where the cells are few and all predicted right, and any small T
    would do.

    Parameters
    ----------
    logits
        ``(n, c)`` logits or log-probabilities of cells that the head was not trained on.
    y_index
        ``(n,)`` columns of their true classes.

    Returns
    -------
    T, 1 without cells. The most probable class is the same at any T.
    """
    margins = logits - logits[np.arange(len(y_index)), y_index][:, None]

    def objective(log_temperature: float) -> float:
        likelihood = logsumexp(margins * np.exp(-log_temperature), axis=1).sum()
        return float(likelihood + 0.5 * log_temperature**2)

    edge = np.log(HOTTEST)
    found = minimize_scalar(objective, bounds=(-edge, edge), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x)) if len(y_index) else 1.0


def negative_log_likelihood(proba: Array, y_index: Array) -> float:
    """Mean of ``-log(probability of the true class)``; ``proba`` is ``(n, c)``, ``y_index`` ``(n,)``."""
    picked = proba[np.arange(len(y_index)), y_index]
    return float(-np.log(np.maximum(picked, np.finfo(np.float64).tiny)).mean())


def expected_calibration_error(proba: Array, y_index: Array, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equally wide bins of confidence, weighted by their cells.

    Naeini et al., 2015, in the form of Guo et al., 2017.

    Parameters
    ----------
    proba
        ``(n, c)`` probabilities, n ≥ 1.
    y_index
        ``(n,)`` columns of the true classes.
    bins
        How many.
    """
    gaps = [part["n"] * abs(part["confidence"] - part["accuracy"]) for part in reliability(proba, y_index, bins=bins)]
    return float(sum(gaps) / len(y_index))


def reliability(proba: Array, y_index: Array, *, bins: int = 15) -> list[dict[str, Any]]:
    """A reliability diagram as numbers: confidence against accuracy in equally wide bins of confidence.

    Parameters
    ----------
    proba
        ``(n, c)`` probabilities.
    y_index
        ``(n,)`` columns of the true classes.
    bins
        How many; those without cells are left out.

    Returns
    -------
    For each bin ``n`` cells, their mean ``confidence`` and their ``accuracy``.
    """
    confidence = proba.max(axis=1)
    right = proba.argmax(axis=1) == y_index if len(proba) else np.zeros(0, dtype=bool)
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return [
        {
            "n": int((place == one).sum()),
            "confidence": float(confidence[place == one].mean()),
            "accuracy": float(right[place == one].mean()),
        }
        for one in np.unique(place).tolist()
    ]
