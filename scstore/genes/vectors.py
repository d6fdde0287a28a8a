"""Geometry of gene vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["matrix_power", "whiten", "whitening"]


def whiten(vectors: NDArray[np.float32], *, shrinkage: float = 1e-3) -> NDArray[np.float32]:
    """Centre vectors and make their directions equally strong (ZCA).

    The symmetric square root is used because it does not depend on the signs or order of eigenvectors, which differ
    between linear-algebra libraries: the same vectors give the same result on every machine.

    Parameters
    ----------
    vectors
        ``(n, d) float32``.
    shrinkage
        Added to the eigenvalues as a fraction of their mean, so that directions without variance are not blown up.

    Returns
    -------
    ``(n, d) float32``
    """
    centre, inverse_root = whitening(vectors, shrinkage=shrinkage)
    white: NDArray[np.float32] = ((vectors.astype(np.float64) - centre) @ inverse_root).astype(np.float32)
    return white


def whitening(
    vectors: NDArray[np.float32], *, shrinkage: float = 1e-3
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The affine map of :func:`whiten`, to be applied to other vectors of the same encoder.

    Parameters
    ----------
    vectors, shrinkage
        As for :func:`whiten`.

    Returns
    -------
    centre, inverse_root
        ``(d,)`` and ``(d, d) float64``: the mean, and what centred vectors are multiplied with.
    """
    centre = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors.astype(np.float64) - centre
    return centre, matrix_power(centred.T @ centred / max(1, len(vectors) - 1), -0.5, shrinkage)


def matrix_power(symmetric: NDArray[np.float64], power: float, shrinkage: float) -> NDArray[np.float64]:
    """``symmetric ** power`` of a positive semi-definite matrix, eigenvalues raised by ``shrinkage`` of their mean."""
    values, axes = np.linalg.eigh(symmetric)
    floor = shrinkage * max(float(values.mean()), np.finfo(np.float64).tiny)
    powers: NDArray[np.float64] = (axes * (np.maximum(values, 0) + floor) ** power) @ axes.T
    return powers
