"""Labels carried from cells measured on some genes to cells measured on others.

Expression cannot be compared where no gene is in common. What can be are weighted means of the genes' text vectors; but
the two sides' means are shifted against each other, in ways that depend on which genes each side has. What is left is
a weak guess for each cell. The new cells' own expression says more clearly which of them belong together, though not
what they are. A Gaussian mixture with one component a class joins both: it starts at the guess of the texts, and its
classes must be groups in the texts' space *and* in the principal components of the new cells' expression.

The mixture is fitted to all new cells at once, to none of their labels: it is transductive, and a cell's label may
change with the cells beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import logsumexp
from sklearn.decomposition import PCA
from sklearn.utils.sparsefuncs import mean_variance_axis

from scstore.heads.rows import Array

__all__ = ["MIN_CELLS", "ClassProfiles", "ExpressionComponents", "Mixture", "fit_mixture"]

MIN_CELLS = 50
"""New cells below which there are no groups to speak of."""

SHRINKAGE = 0.9
"""Of the covariance within classes towards a sphere: directions that one set of genes is strong in, another is not."""
MAX_AXES = 256
TEMPER = 20.0
"""What the texts' log-likelihood is divided by. Its hundreds of dimensions are far from independent."""
ANCHOR = 50.0
"""Cells' worth of trust in a class's mean among the training cells, against what the new cells say."""
SHARE_CELLS = 20.0
"""Cells' worth of trust in equal shares of the classes."""
N_ITERATIONS = 30
N_COMPONENTS = 20
VARIABLE_GENES = 500
COMPONENT_SHRINKAGE = 0.1
TINY = 1e-30


@dataclass(frozen=True)
class ClassProfiles:
    """Classes in the space of gene texts: their means, and one covariance within all of them.

    Attributes
    ----------
    means
        ``(n_classes, d) float64``, less the mean of all training cells.
    axes, strengths
        ``(q, d)`` orthonormal and ``(q,)``: the covariance within classes is ``floor`` in all directions and so much
        more in these.
    floor
        Variance in every direction.
    power
        Mean squared length of a centred training cell.
    """

    means: Array
    axes: Array
    strengths: Array
    floor: float
    power: float

    @classmethod
    def fit(cls, blocks: Iterable[tuple[Array, Array]], *, n_classes: int, width: int) -> Self:
        """Learn from labelled cells, in one pass.

        Parameters
        ----------
        blocks
            Weighted means ``(b, width) float32`` and class numbers ``(b,)``; every class has a cell.
        n_classes, width
            How many.
        """
        sums, products, counts = np.zeros((n_classes, width)), np.zeros((width, width)), np.zeros(n_classes)
        for rows, codes in blocks:
            wide = rows.astype(np.float64)
            np.add.at(sums, codes, wide)
            products += wide.T @ wide
            counts += np.bincount(codes, minlength=n_classes)
        n = counts.sum()
        means = sums / counts[:, None]
        within = (products - (means * counts[:, None]).T @ means) / n
        centre = sums.sum(axis=0) / n
        values, vectors = np.linalg.eigh(within)
        top = np.argsort(values)[::-1][: min(MAX_AXES, len(values))]
        floor = SHRINKAGE * max(float(values.mean()), TINY)
        return cls(
            means=means - centre,
            axes=vectors[:, top].T.copy(),
            strengths=(1 - SHRINKAGE) * np.maximum(values[top], 0),
            floor=floor,
            power=float(np.trace(products) / n - centre @ centre),
        )

    def precise(self, rows: Array) -> Array:
        """Rows ``(n, d)`` times the inverse covariance."""
        along = rows @ self.axes.T
        result: Array = (rows - (along * (self.strengths / (self.floor + self.strengths))) @ self.axes) / self.floor
        return result


@dataclass(frozen=True)
class ExpressionComponents:
    """Principal components of the most variable genes, learnt from the new cells themselves.

    Attributes
    ----------
    genes
        ``(g,) int64`` columns of the expression.
    centre, axes, scale
        ``(g,)``, ``(p, g)`` and one number: a cell's components are ``(x[genes] - centre) @ axes.T / scale``.
    """

    genes: Array
    centre: Array
    axes: Array
    scale: float

    @classmethod
    def fit(cls, expression: csr_matrix, *, seed: int) -> Self:
        """Learn from log-normalised expression ``(n, n_genes)``."""
        _, variances = mean_variance_axis(expression, axis=0)
        genes = np.sort(np.argsort(-variances, kind="stable")[:VARIABLE_GENES])
        dense = np.asarray(expression[:, genes].toarray(), dtype=np.float64)
        n_components = min(N_COMPONENTS, len(genes), len(dense) - 1)
        found = PCA(n_components, svd_solver="covariance_eigh", random_state=seed).fit(dense)
        scale = float(np.sqrt(found.explained_variance_.mean()))
        return cls(genes, found.mean_, found.components_, max(scale, TINY))

    def of(self, expression: csr_matrix) -> Array:
        """Components ``(n, p) float64`` of cells."""
        dense = np.asarray(expression[:, self.genes].toarray(), dtype=np.float64)
        result: Array = (dense - self.centre) @ self.axes.T / self.scale
        return result


@dataclass(frozen=True)
class Mixture:
    """Classes among the new cells.

    Attributes
    ----------
    profiles
        Of the training cells.
    centre, scale
        ``(d,)`` and one number: new cells' means enter as ``(rows - centre) * scale``.
    text_means, component_means
        ``(n_classes, d)`` and ``(n_classes, p)``: of the classes, as the new cells have them.
    component_precision
        ``(p, p)``.
    log_shares
        ``(n_classes,)``.
    """

    profiles: ClassProfiles
    centre: Array
    scale: float
    text_means: Array
    component_means: Array
    component_precision: Array
    log_shares: Array

    def log_proba(self, rows: Array, components: Array) -> Array:
        """``(n, n_classes) float64`` of cells' weighted means ``(n, d)`` and components ``(n, p)``."""
        texts = (rows.astype(np.float64) - self.centre) * self.scale
        scores = _log_normal(texts, self.text_means, self.profiles.precise(self.text_means)) / TEMPER
        precise = self.component_means @ self.component_precision
        scores += _log_normal(components, self.component_means, precise) + self.log_shares
        result: Array = scores - logsumexp(scores, axis=1, keepdims=True)
        return result


def fit_mixture(profiles: ClassProfiles, rows: Array, components: Array) -> Mixture:
    """Find the classes among new cells by expectation-maximisation, from the guess of the texts alone.

    Parameters
    ----------
    profiles
        Of the classes, from the training cells.
    rows
        ``(n, d) float32``: the new cells' weighted means, over genes that need not be the training cells'.
    components
        ``(n, p)``: principal components of their expression.

    Returns
    -------
    Mixture
        Which labels these cells, and others of the same data set.
    """
    centre = rows.mean(axis=0, dtype=np.float64)
    texts = rows.astype(np.float64) - centre
    length = float(np.square(texts).sum(axis=1).mean())
    scale = float(np.sqrt(profiles.power / length)) if length > 0 else 1.0
    texts *= scale
    n, n_classes = len(rows), len(profiles.means)
    start = _log_normal(texts, profiles.means, profiles.precise(profiles.means)) / TEMPER
    belongs = np.exp(start - logsumexp(start, axis=1, keepdims=True))
    squares = components.T @ components
    for _ in range(N_ITERATIONS):
        counts = belongs.sum(axis=0)
        component_means = (belongs.T @ components) / np.maximum(counts, 1e-9)[:, None]
        within = (squares - (component_means * counts[:, None]).T @ component_means) / n
        spread = max(float(np.trace(within)) / len(within), 1e-9)
        within = (1 - COMPONENT_SHRINKAGE) * within + COMPONENT_SHRINKAGE * spread * np.eye(len(within))
        shares = (SHARE_CELLS / n_classes + counts) / (SHARE_CELLS + n)
        fitted = Mixture(
            profiles=profiles,
            centre=centre,
            scale=scale,
            text_means=(ANCHOR * profiles.means + belongs.T @ texts) / (ANCHOR + counts)[:, None],
            component_means=component_means,
            component_precision=np.linalg.inv(within),
            log_shares=np.log(shares),
        )
        belongs = np.exp(fitted.log_proba(rows, components))
    return fitted


def _log_normal(rows: Array, means: Array, precise: Array) -> Array:
    """Log-density of rows ``(n, d)`` up to what all classes share; ``precise`` is means times the precision."""
    result: Array = rows @ precise.T - 0.5 * np.einsum("kd,kd->k", means, precise)
    return result
