"""Scores of cell types for cells, by the texts of genes and types; p-values from shuffled weights of the genes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import PCA

from scstore.errors import CellsError
from scstore.genes.matching import guess_organism, match_genes
from scstore.naming.terms import Texts
from scstore.progress import Reporter
from scstore.store.reader import Store

Float32 = NDArray[np.float32]
FEWEST_CELLS = 3  # that express a gene, or it is not read
NEAREST = 16  # cells that are averaged, the cell itself among them
VARIABLE, COMPONENTS = 2000, 30  # genes and components that neighbours are found by
# A gene speaks for a type where its text is nearer to the type's than other genes' by this many standard deviations.
SPEAKS = 1.5
# Shuffles of the null, at least, cells that it is made of, at most, and scores that it has where these are few.
SHUFFLES, SAMPLE, FEW = 100, 200, 5000
BLOCK = 2048  # rows that are averaged at a time


@dataclass(frozen=True, eq=False)
class Scores:
    """Of ``n`` rows (cells with their neighbours, or clusters) and ``t`` types."""

    values: Float32  # (n, t): in standard deviations of scores with shuffled weights
    order: NDArray[np.int64]  # (n, t): types, the best first
    p: NDArray[np.float64]  # (n,): how often shuffled weights give the best type as high a score
    lead_p: NDArray[np.float64]  # (n,): or as large a lead over the second that is not its kin


def read_expression(
    store: Store, rows: NDArray[np.int64], texts: Texts, progress: Reporter
) -> tuple[sparse.csr_matrix, pd.DataFrame]:
    """Return log-normalised expression of the genes that have a text ``(n, g)``, and these genes."""
    if len(rows) < FEWEST_CELLS or "X" not in store.views:
        why = store.why_not("X") if len(rows) >= FEWEST_CELLS else f": there are {len(rows)} cells"
        raise CellsError(f"{store.path}: cells are named by what they express beside others{why}.")
    var = store.expression_genes
    organism = guess_organism([*var["symbol"].astype(str), *var["ensembl_id"].astype(str)]) or "human"
    known = texts.genes[texts.genes["organism"] == organism]
    match = match_genes(var, known, min_match=0, source=str(store.path))
    progress.note(match.report)
    found = match.apply(sparse.csr_matrix(store.view("X")[rows]))
    expressed = np.flatnonzero(found.getnnz(axis=0) >= FEWEST_CELLS)
    return sparse.csr_matrix(found[:, expressed]), known.iloc[match.genes[expressed]]


def gene_weights(similarity: Float32, markers: sparse.csc_matrix | None = None) -> Float32:
    """Return how much each gene speaks for each type ``(g, t)``; markers count as much as all texts together."""
    spread = similarity.std(axis=0)
    standard = (similarity - similarity.mean(axis=0)) / np.where(spread > 0, spread, 1)
    weights = _unit_columns(np.maximum(standard - SPEAKS, 0))
    if markers is not None:
        weights = _unit_columns(weights + _unit_columns(markers.toarray()))
    return weights.astype(np.float32)


def _unit_columns(weights: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(weights / np.maximum(np.linalg.norm(weights, axis=0), 1e-12))


def variable_genes(expression: sparse.csr_matrix) -> NDArray[np.int64]:
    mean = np.asarray(expression.mean(axis=0)).ravel()
    variance = np.asarray(expression.multiply(expression).mean(axis=0)).ravel() - mean**2
    return np.sort(np.argsort(-variance, kind="stable")[:VARIABLE])


def places_of(expression: sparse.csr_matrix) -> Float32:
    variable = variable_genes(expression)
    n_components = min(COMPONENTS, len(variable), expression.shape[0] - 1)
    pca = PCA(max(1, n_components), svd_solver="covariance_eigh")
    return np.asarray(pca.fit_transform(expression[:, variable].toarray()), dtype=np.float32)


def neighbour_means(places: Float32) -> sparse.csr_matrix:
    """Return what averages each cell with its nearest ones ``(n, n)``."""
    import faiss

    n, k = len(places), min(NEAREST, len(places))
    _, near = faiss.knn(places, places, k)
    return sparse.csr_matrix((np.full(n * k, 1 / k, np.float32), near.ravel(), np.arange(0, n * k + 1, k)), (n, n))


def cluster_means(codes: NDArray[np.int64]) -> sparse.csr_matrix:
    """Return what averages the cells of each cluster ``(n_clusters, n)``."""
    counts = np.bincount(codes).astype(np.float32)
    return sparse.csr_matrix((1 / counts[codes], (codes, np.arange(len(codes)))))


def score(
    expression: sparse.csr_matrix,
    means: sparse.csr_matrix,
    weights: Float32,
    *,
    centre: Float32 | None = None,
    kin: NDArray[np.bool_] | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
) -> Scores:
    """Score averaged rows, ``means`` ``(n, cells)`` of ``expression`` above ``centre``, for each type."""
    rng, n_genes = np.random.default_rng(seed), len(weights)
    if centre is None:
        centre = np.asarray(expression.mean(axis=0)).ravel().astype(np.float32)
    own = np.eye(weights.shape[1], dtype=bool) if kin is None else kin
    values = np.empty((means.shape[0], weights.shape[1]), dtype=np.float32)
    for start in range(0, len(values), BLOCK):
        rows = _centred(expression, means[start : start + BLOCK], centre)
        values[start : start + BLOCK] = _standard(rows @ weights, rows, weights)
    chosen = np.sort(rng.choice(len(values), min(sample, len(values)), replace=False))
    rows = _centred(expression, means[chosen], centre)
    shuffles = max(SHUFFLES, FEW // len(chosen))
    shuffled = [_standard(rows @ weights[rng.permutation(n_genes)], rows, weights) for _ in range(shuffles)]
    null = np.concatenate(shuffled)
    order = np.argsort(-values, axis=1, kind="stable")
    best = _p_values(values.max(axis=1), null.max(axis=1))
    return Scores(values, order, best, _p_values(_lead(values, own), _lead(null, own)))


def _centred(expression: sparse.csr_matrix, means: sparse.csr_matrix, centre: Float32) -> Float32:
    return np.asarray((means @ expression).toarray() - centre)


def _standard(sums: Float32, rows: Float32, weights: Float32) -> Float32:
    """Return weighted sums in the mean and spread that they have over all shuffles of the weights, which are known."""
    n = len(weights)
    expected = rows.sum(axis=1)[:, None] * weights.mean(axis=0)
    spread = np.sqrt(n / max(1, n - 1) * n * rows.var(axis=1)[:, None] * weights.var(axis=0))
    return np.where(spread > 0, (sums - expected) / np.where(spread > 0, spread, 1), 0)


def _lead(values: Float32, kin: NDArray[np.bool_]) -> Float32:
    """Return by how much the best type of each row leads over the best that is not its kin; without one, its score."""
    others = np.where(kin[values.argmax(axis=1)], -np.inf, values).max(axis=1)
    return np.asarray(values.max(axis=1) - np.where(np.isfinite(others), others, 0))


def _p_values(found: Float32, null: Float32) -> NDArray[np.float64]:
    above = len(null) - np.searchsorted(np.sort(null), found, side="left")
    return np.asarray((1 + above) / (1 + len(null)), dtype=np.float64)


def speaking_genes(
    expression: sparse.csr_matrix, rows: NDArray[np.int64], weights: NDArray[np.float32], *, most: int = 5
) -> list[int]:
    """Return the genes that add most to the score of a type, of ``weights`` ``(g,)``, in some cells."""
    above = np.asarray(expression[rows].mean(axis=0) - expression.mean(axis=0)).ravel()
    added = above * weights
    return [int(gene) for gene in np.argsort(-added, kind="stable")[:most] if added[gene] > 0]
