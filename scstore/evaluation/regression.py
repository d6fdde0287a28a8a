"""The control of every table with expression: a class-balanced logistic regression, chosen on the training cells."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from scstore.cells.gene_statistics import ClassSums, top_genes
from scstore.heads.class_numbers import group_folds, stratified_folds, stratified_sample
from scstore.heads.preprocessing import usable_scale
from scstore.heads.rows import Array, to_dense

# What is tried: genes of highest ANOVA F, and C. Where no cell can be held out, the second of each.
N_GENES = (50, 100, 500)
PENALTIES = (0.01, 0.05, 0.2, 1.0)
INNER_FOLDS = 3
CHOOSING_CELLS, FITTING_CELLS = 4_000, 50_000  # of more, a part of each class
Setting = tuple[int, float]


def regression_proba(
    train: Any, labels: NDArray[np.object_], test: Any, *, groups: Array | None, seed: int
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Return classes, and probabilities of the test cells, by the setting of highest macro-F1 on inner folds."""
    train, test, rng = sparse.csr_matrix(train), sparse.csr_matrix(test), np.random.default_rng(seed)
    names, codes = np.unique(labels.astype(str), return_inverse=True)
    part = _part(codes, CHOOSING_CELLS, rng)
    held_out = _folds(codes[part], None if groups is None else np.unique(groups[part], return_inverse=True)[1], rng)
    said: dict[Setting, list[Array]] = {}
    truth: list[Array] = []
    for fold in held_out:
        known, inside = np.delete(part, fold), part[fold]
        if len(np.unique(codes[known])) < 2:
            continue
        truth.append(codes[inside])
        for setting, head, rows in _fits(train[known], codes[known], train[inside], N_GENES, PENALTIES):
            said.setdefault(setting, []).append(head.predict(rows))
    best = N_GENES[1], PENALTIES[1]
    if truth:
        right = np.concatenate(truth)
        how: dict[str, Any] = {"labels": np.unique(right), "average": "macro", "zero_division": 0}
        best = max(said, key=lambda setting: f1_score(right, np.concatenate(said[setting]), **how))
    fitted = _part(codes, FITTING_CELLS, rng)
    ((_, head, rows),) = _fits(train[fitted], codes[fitted], test, best[:1], best[1:])
    return tuple(names[head.classes_].tolist()), head.predict_proba(rows)


def _part(codes: Array, size: int, rng: np.random.Generator) -> Array:
    return np.arange(len(codes)) if len(codes) <= size else stratified_sample(codes, size=size, rng=rng)


def _folds(codes: Array, groups: Array | None, rng: np.random.Generator) -> list[Array]:
    if groups is None or not groups.any():
        return stratified_folds(codes, n_folds=INNER_FOLDS, rng=rng)
    return group_folds(groups, n_folds=INNER_FOLDS)


def _fits(
    known: Any, codes: Array, others: Any, n_genes: tuple[int, ...], penalties: tuple[float, ...]
) -> Iterator[tuple[Setting, LogisticRegression, Array]]:
    """Yield every setting with a classifier of the known cells, and the other cells' rows for it."""
    f = ClassSums(int(codes.max()) + 1, known.shape[1]).add(known, codes).f_values()
    genes = top_genes(f, max(n_genes))
    values, rest = to_dense(known[:, genes]), to_dense(others[:, genes])
    mean = values.mean(axis=0, dtype=np.float64)
    scale = usable_scale(mean, values.var(axis=0, dtype=np.float64))
    values, rest = (((part - mean) / scale).astype(np.float32) for part in (values, rest))
    for k in n_genes:
        head = LogisticRegression(class_weight="balanced", max_iter=1000, warm_start=True)
        for penalty in penalties:  # weakest weights first: each fit starts from the one before
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                head.set_params(C=penalty).fit(values[:, :k], codes)
            yield (k, penalty), head, rest[:, :k]
