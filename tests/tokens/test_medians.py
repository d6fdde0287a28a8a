from __future__ import annotations

import anndata
import numpy as np
from scipy.sparse import csr_matrix

from scstore.tokens.medians import ExpressedMedians


def test_medians_are_over_the_cells_that_express_the_gene(cells: anndata.AnnData) -> None:
    values = np.log1p(cells.X.toarray() * 3)
    medians = ExpressedMedians(40)
    for start in range(0, 60, 7):
        medians.add(csr_matrix(values[start : start + 7]), np.arange(40))
    wanted = [np.quantile(column[column > 0], 0.5, method="inverted_cdf") for column in values.T]
    np.testing.assert_allclose(medians.values(), wanted, atol=0.011)
    np.testing.assert_array_equal(medians.n_cells, (values > 0).sum(0))


def test_columns_become_genes() -> None:
    medians = ExpressedMedians(3)
    medians.add(csr_matrix([[2.0, 5.0, 7.0]]), np.array([2, -1, 0]))
    np.testing.assert_allclose(medians.values(), [7, 1, 2], atol=0.011)
    assert medians.n_cells.tolist() == [1, 0, 1]
