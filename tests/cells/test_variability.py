"""Genes that vary, without labels: against what is known of simulated cells."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from scipy import sparse
from support import make_cells

from scstore.cells.variability import GroupMoments, excess_dropout


def lognorm(cells: anndata.AnnData) -> sparse.csr_matrix:
    values = cells.X.toarray()
    return sparse.csr_matrix(np.log1p(values / np.maximum(values.sum(1, keepdims=True), 1) * 1e4))


def moments_of(rows: sparse.csr_matrix, codes: np.ndarray | None = None, *, step: int = 17) -> GroupMoments:
    codes = np.zeros(rows.shape[0], dtype=np.int64) if codes is None else codes
    moments = GroupMoments(int(codes.max()) + 1, rows.shape[1])
    for start in range(0, rows.shape[0], step):
        moments.add(rows[start : start + step], codes[start : start + step])
    return moments


def test_moments_are_numpys() -> None:
    rows, codes = lognorm(make_cells()), np.arange(60) % 3
    moments = moments_of(rows, codes)
    values = np.expm1(rows.toarray().astype(np.float64))
    for group in range(3):
        own = values[codes == group]
        np.testing.assert_allclose(moments.mean(group), own.mean(0))
        np.testing.assert_allclose(moments.variance(group), own.var(0, ddof=1), rtol=1e-9)
        np.testing.assert_allclose(moments.detection(group), (own > 0).mean(0))
    assert moments.n_cells.tolist() == [20, 20, 20]


def test_dropout_singles_out_genes_that_are_high_in_some_cells_only() -> None:
    """Of two sets of genes of equal means, one is on in a fifth of the cells alone."""
    rng = np.random.default_rng(0)
    means = np.tile(np.geomspace(0.5, 8, 20), 2)
    on = rng.random((500, 40)) < 0.2
    rates = np.where(np.arange(40) < 20, means * on / 0.2, means)
    moments = moments_of(sparse.csr_matrix(np.log1p(rng.poisson(rates).astype(float))))
    score = excess_dropout(moments.mean(0), moments.variance(0), moments.detection(0))
    assert np.nanmin(score[:20]) > np.nanmax(score[20:])


@pytest.mark.parametrize("detection", [[0.0, 0.5], [1.0, 0.5]])
def test_a_gene_of_no_cell_or_of_all_has_no_dropout_to_judge(detection: list[float]) -> None:
    score = excess_dropout(np.array([2.0, 1.0]), np.ones(2), np.array(detection))
    assert np.isnan(score).tolist() == [True, False]
    assert np.isnan(excess_dropout(np.zeros(1), np.zeros(1), np.zeros(1))).all()


def test_dropout_does_not_depend_on_the_number_of_cells() -> None:
    rows = lognorm(make_cells())
    once, twice = moments_of(rows), moments_of(sparse.vstack([rows] * 8, format="csr"))
    first = excess_dropout(once.mean(0), once.variance(0), once.detection(0))
    second = excess_dropout(twice.mean(0), twice.variance(0), twice.detection(0))
    np.testing.assert_allclose(first, second, rtol=0.02)
