from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_selection import f_classif
from support import make_cells

from scstore.cells.expression import ExpressionSlot
from scstore.cells.opening import open_cells
from scstore.errors import LabelsError
from scstore.panels.gene_scores import Design, design, score_genes
from scstore.progress import Silent


def lognorm(cells: anndata.AnnData) -> csr_matrix:
    return csr_matrix(cells.X / cells.X.sum(1) * 1e4).log1p()


def scores_of(plan: Design, rows: csr_matrix) -> np.ndarray:
    genes = pd.DataFrame(index=[f"GENE{i}" for i in range(rows.shape[1])])
    with open_cells(anndata.AnnData(rows, var=genes)) as opened:
        return score_genes(opened, ExpressionSlot("X", "lognorm"), plan, progress=Silent())


def test_without_groups_the_score_is_scikit_learns_f(cells: anndata.AnnData) -> None:
    rows, labels = lognorm(cells), cells.obs["cell_type"].astype(str)
    found = scores_of(design(list(labels), n_cells=60, source="cells"), rows)
    np.testing.assert_allclose(found, f_classif(rows.toarray().astype(np.float64), labels)[0], rtol=1e-5)


def test_cells_without_a_label_do_not_count(cells: anndata.AnnData) -> None:
    rows, labels = lognorm(cells), list(cells.obs["cell_type"].astype(str))
    some = design([None if i % 3 else label for i, label in enumerate(labels)], n_cells=60, source="cells")
    kept = design(labels[::3], n_cells=20, source="cells")
    np.testing.assert_allclose(scores_of(some, rows), scores_of(kept, rows[::3]))


def test_a_gene_that_no_compared_cell_expresses_is_not_ranked(cells: anndata.AnnData) -> None:
    rows = lognorm(cells).tolil()
    rows[:, 3] = 0
    plan = design(list(cells.obs["cell_type"].astype(str)), n_cells=60, source="cells")
    assert np.flatnonzero(np.isnan(scores_of(plan, rows.tocsr()))).tolist() == [3]


def test_without_labels_each_group_is_scored_by_itself() -> None:
    """A gene that only separates donors varies over all cells, and in no donor."""
    cells = make_cells(300, 400)
    values, donor = cells.X.toarray(), np.arange(300) % 2
    rng = np.random.default_rng(0)
    values[:, 50:] = rng.poisson(np.linspace(0.1, 12, 350), (300, 350))  # genes of every mean to compare with
    values[:, 20] = rng.poisson(np.where(donor, 12, 0.05))
    cells.X = csr_matrix(values)
    rows = lognorm(cells)
    together = scores_of(design(None, n_cells=300, source=""), rows)
    groups = [str(value) for value in donor]
    apart = scores_of(design(None, groups, n_cells=300, source=""), rows)
    assert (together > together[20]).sum() < 5
    assert (apart > apart[20]).sum() >= 30


def test_cells_without_a_label_or_group_are_not_seen(cells: anndata.AnnData) -> None:
    labels = list(cells.obs["cell_type"].astype(str))
    assert design(labels, n_cells=60, source="cells").seen.all()
    third = np.arange(60) % 3 == 0
    some = [label if kept else None for label, kept in zip(labels, third, strict=True)]
    np.testing.assert_array_equal(design(some, n_cells=60, source="cells").seen, third)
    groups = ["d" if kept else None for kept in third]
    np.testing.assert_array_equal(design(labels, groups, n_cells=60, source="cells").seen, third)


def test_a_label_of_one_cell_does_not_count_but_is_seen(cells: anndata.AnnData) -> None:
    found = design(["alone", *cells.obs["cell_type"].astype(str)[1:]], n_cells=60, source="cells")
    assert found.codes[0] == -1
    assert found.seen[0]
    assert found.n_classes == 3


def test_groups_that_do_not_count_are_named(cells: anndata.AnnData) -> None:
    labels = [f"{kind}" for kind in cells.obs["cell_type"]]
    groups = ["big"] * 56 + ["small"] * 2 + ["same"] * 2
    labels[56:] = ["type 0", "type 1", "type 2", "type 2"]
    found = design(labels, groups, n_cells=60, source="cells")
    assert found.left_out == ("same", "small")
    assert len(found.classes) == 1
    assert not found.seen[56:].any()


def test_without_labels_groups_of_ten_cells_count() -> None:
    found = design(None, ["a"] * 50 + ["b"] * 9 + [None], n_cells=60, source="cells")
    assert (found.left_out, found.by_labels) == (("b",), False)
    assert found.codes.tolist() == [0] * 50 + [-1] * 10


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        (["a"] * 18, None),
        (["a"] * 9 + ["b"] * 9, ["1"] * 9 + ["2"] * 9),
        (None, ["a"] * 9 + ["b"] * 9),
    ],
)
def test_nothing_to_compare_is_refused(labels: list[str | None] | None, groups: list[str | None] | None) -> None:
    with pytest.raises(LabelsError, match=r"cells\.h5ad"):
        design(labels, groups, n_cells=18, source="cells.h5ad")
