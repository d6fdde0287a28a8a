"""From gene vectors to input vectors of the language model.

``native``
    none: the vectors have the model's width already.
``aligned``
    label-free and in closed form: centre, whiten, rotate into the model's width, colour with the covariance of its
    token embeddings, shift to their mean, match their norm. Correlation alignment (CORAL, Sun et al. 2016) from texts
    to tokens.
``random``
    a seeded orthonormal map, norm matched: the control.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scstore.errors import OptionError
from scstore.genes.vectors import matrix_power, whiten

if TYPE_CHECKING:
    import torch

__all__ = ["PROJECTORS", "orthonormal", "project"]

PROJECTORS = ("aligned", "native", "random")


def orthonormal(rows: int, columns: int, *, seed: int) -> NDArray[np.float64]:
    """``(rows, columns)`` seeded matrix whose shorter side is orthonormal."""
    tall = np.random.default_rng(seed).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))  # QR is unique only up to these signs
    return q if rows >= columns else q.T


def project(
    vectors: NDArray[np.float32], token_embeddings: torch.Tensor, *, kind: str = "aligned", seed: int = 0
) -> NDArray[np.float32]:
    """Turn gene vectors into input vectors of a language model.

    Parameters
    ----------
    vectors
        ``(n_genes, d) float32``.
    token_embeddings
        ``(vocabulary, width)``: the model's own.
    kind
        One of :data:`PROJECTORS`.
    seed
        Of the rotation, where the widths differ, and of ``random``.

    Returns
    -------
    ``(n_genes, width) float32``

    Raises
    ------
    OptionError
        If ``native`` is asked for and the widths differ.
    """
    width = token_embeddings.shape[1]
    if kind == "native":
        if vectors.shape[1] != width:
            msg = (
                f"--projector native: the gene vectors are {vectors.shape[1]} wide, the model {width}. Build the gene "
                "table "
                "with the model itself as encoder, or use --projector aligned."
            )
            raise OptionError(msg)
        return vectors
    tokens = token_embeddings.float()
    norm = float(tokens.norm(dim=1).median())
    if kind == "random":
        mapped = vectors @ orthonormal(vectors.shape[1], width, seed=seed)
        scale = norm / max(float(np.median(np.linalg.norm(mapped, axis=1))), 1e-12)
        return (mapped * scale).astype(np.float32)
    turned = whiten(vectors).astype(np.float64)
    if vectors.shape[1] != width:
        turned = turned @ orthonormal(vectors.shape[1], width, seed=seed)
    mean = tokens.mean(dim=0, keepdim=True)
    spread = tokens - mean
    covariance = (spread.T @ spread / max(1, len(tokens) - 1)).double().cpu().numpy()
    mapped = turned @ matrix_power(covariance, 0.5, 0.0) + mean.double().cpu().numpy()
    lengths = np.linalg.norm(mapped, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (mapped * (norm / np.maximum(lengths, 1e-12))).astype(np.float32)
    return scaled
