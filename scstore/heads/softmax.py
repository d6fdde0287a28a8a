"""The softmax and its loss, safe for large logits."""

from __future__ import annotations

import numpy as np

from scstore.heads.rows import Array

__all__ = ["cross_entropy", "log_softmax"]


def log_softmax(logits: Array) -> Array:
    """Log-probabilities ``(n, c)`` of logits ``(n, c)``, in their dtype."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def cross_entropy(logits: Array, codes: Array, weights: Array) -> tuple[float, Array]:
    """Weighted sum of the negative log-likelihood, and its gradient with respect to the logits.

    Parameters
    ----------
    logits
        ``(n, c)``.
    codes
        ``(n,)`` true classes as column numbers.
    weights
        ``(n,)`` weights of the rows.

    Returns
    -------
    loss, gradient
        A number, and ``(n, c)`` in the dtype of ``logits``.
    """
    log_proba = log_softmax(logits)
    picked = np.arange(len(codes)), codes
    loss = -float(np.dot(log_proba[picked].astype(np.float64), weights))
    gradient = np.exp(log_proba)
    gradient[picked] -= 1
    gradient *= weights[:, None].astype(gradient.dtype)
    return loss, gradient
