"""Geometry of gene vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array64 = NDArray[np.float64]


def whiten(vectors: NDArray[np.float32], *, shrinkage: float = 1e-3) -> NDArray[np.float32]:
    """Centre vectors, ``(n, d) float32``, and make their directions equally strong (ZCA).

    The symmetric square root does not depend on the signs or order of eigenvectors, which differ between linear-algebra
    libraries: the same vectors give the same result on every machine.
    """
    centre, inverse_root = whitening(vectors, shrinkage=shrinkage)
    white: NDArray[np.float32] = ((vectors.astype(np.float64) - centre) @ inverse_root).astype(np.float32)
    return white


def whitening(vectors: NDArray[np.float32], *, shrinkage: float = 1e-3) -> tuple[Array64, Array64]:
    """Return the map of :func:`whiten` for other vectors of the same encoder: the mean, and what to multiply with.

    The eigenvalues are raised by ``shrinkage`` of their mean, so that directions without variance are not blown up.
    """
    centre = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors.astype(np.float64) - centre
    return centre, matrix_power(centred.T @ centred / max(1, len(vectors) - 1), -0.5, shrinkage)


def matrix_power(symmetric: Array64, power: float, shrinkage: float) -> Array64:
    """Return ``symmetric ** power`` of a positive semi-definite matrix, with shrinkage as in :func:`whitening`."""
    values, axes = np.linalg.eigh(symmetric)
    floor = shrinkage * max(float(values.mean()), np.finfo(np.float64).tiny)
    powers: Array64 = (axes * (np.maximum(values, 0) + floor) ** power) @ axes.T
    return powers
