"""From gene vectors to input vectors of the language model.

``native``: none, the vectors have the model's width already. ``aligned``, label-free and in closed form: centre,
whiten, rotate into the model's width, colour with the covariance of its token embeddings, shift to their mean, match
their norm (correlation alignment, CORAL, Sun et al. 2016, from texts to tokens). ``random``: a seeded orthonormal map,
norm matched, the control. A projector trained through the model starts at ``aligned``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scstore.errors import OptionError
from scstore.genes.vectors import matrix_power, whitening

if TYPE_CHECKING:
    import torch


PROJECTORS = ("aligned", "native", "random")


@dataclass(frozen=True)
class AlignedMap:
    """The ``aligned`` projector as numbers: ``(v - centre) @ whitening @ weight + bias``, scaled to ``norm``."""

    centre: NDArray[np.float64]  # (d,), of the gene vectors it was made for
    whitening: NDArray[np.float64]  # (d, d), of these too
    weight: NDArray[np.float64]  # (d, width): rotates and colours
    bias: NDArray[np.float64]  # (width,): mean of the token embeddings
    norm: float


def orthonormal(rows: int, columns: int, *, seed: int) -> NDArray[np.float64]:
    """``(rows, columns)`` seeded matrix whose shorter side is orthonormal."""
    tall = np.random.default_rng(seed).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))  # QR is unique only up to these signs
    return q if rows >= columns else q.T


def project(
    vectors: NDArray[np.float32], token_embeddings: torch.Tensor, *, kind: str = "aligned", seed: int = 0
) -> NDArray[np.float32]:
    """Turn gene vectors ``(n_genes, d)`` into input vectors ``(n_genes, width) float32`` of a language model."""
    width = token_embeddings.shape[1]
    if kind == "native":
        if vectors.shape[1] != width:
            widths = f"the gene vectors are {vectors.shape[1]} wide, the model {width}"
            cure = "Encode the gene texts with the model itself, or use projector='aligned'."
            raise OptionError(f"projector='native': {widths}. {cure}")
        return vectors
    if kind == "random":
        mapped = vectors @ orthonormal(vectors.shape[1], width, seed=seed)
        typical = max(float(np.median(np.linalg.norm(mapped, axis=1))), 1e-12)
        return (mapped * (_median_norm(token_embeddings) / typical)).astype(np.float32)
    aligned = aligned_map(vectors, token_embeddings, seed=seed)
    mapped = (vectors.astype(np.float64) - aligned.centre) @ aligned.whitening @ aligned.weight + aligned.bias
    lengths = np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), 1e-12)
    scaled: NDArray[np.float32] = (mapped * (aligned.norm / lengths)).astype(np.float32)
    return scaled


def aligned_map(vectors: NDArray[np.float32], token_embeddings: torch.Tensor, *, seed: int = 0) -> AlignedMap:
    """The map behind ``project(…, kind="aligned")``, for vectors of the same encoder."""
    width, tokens = token_embeddings.shape[1], token_embeddings.float()
    centre, inverse_root = whitening(vectors)
    mean = tokens.mean(dim=0, keepdim=True)
    spread = tokens - mean
    covariance = (spread.T @ spread / max(1, len(tokens) - 1)).double().cpu().numpy()
    weight = matrix_power(covariance, 0.5, 0.0)
    if vectors.shape[1] != width:
        weight = orthonormal(vectors.shape[1], width, seed=seed) @ weight
    bias = mean.double().cpu().numpy()[0]
    return AlignedMap(centre, inverse_root, weight, bias, _median_norm(token_embeddings))


def _median_norm(token_embeddings: torch.Tensor) -> float:
    return float(token_embeddings.float().norm(dim=1).median())
