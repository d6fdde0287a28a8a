from __future__ import annotations

import anndata
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_selection import f_classif
from support import make_cells

from scstore.errors import LabelsError
from scstore.panels.gene_scores import GeneScore, LabelScore, VariationScore, design_groups, design_labels


def lognorm(cells: anndata.AnnData) -> csr_matrix:
    return csr_matrix(cells.X / cells.X.sum(1) * 1e4).log1p()


def add_all(score: GeneScore, rows: csr_matrix, *, step: int = 7) -> np.ndarray:
    for start in range(0, rows.shape[0], step):
        score.add(start, rows[start : start + step])
    return score.values()


def test_without_groups_the_score_is_scikit_learns_f(cells: anndata.AnnData) -> None:
    rows, labels = lognorm(cells), cells.obs["cell_type"].astype(str)
    design = design_labels(list(labels), label="cell_type", source="cells")
    found = add_all(LabelScore(design, 40), rows)
    np.testing.assert_allclose(found, f_classif(rows.toarray().astype(np.float64), labels)[0], rtol=1e-5)
    assert design.seen.all()


def test_cells_without_a_label_or_group_are_left_out(cells: anndata.AnnData) -> None:
    rows, labels = lognorm(cells), list(cells.obs["cell_type"].astype(str))
    some = [None if i % 3 else label for i, label in enumerate(labels)]
    design = design_labels(some, label="cell_type", source="cells")
    kept = design_labels(labels[::3], label="cell_type", source="cells")
    np.testing.assert_allclose(add_all(LabelScore(design, 40), rows), add_all(LabelScore(kept, 40), rows[::3]))
    assert design.seen.sum() == 20
    groups = [None if i % 3 else "d" for i in range(60)]
    np.testing.assert_array_equal(
        design_labels(labels, groups, label="cell_type", source="cells").seen, np.arange(60) % 3 == 0
    )


def test_a_label_of_one_cell_does_not_vote(cells: anndata.AnnData) -> None:
    labels = ["alone", *cells.obs["cell_type"].astype(str)[1:]]
    design = design_labels(labels, label="cell_type", source="cells")
    assert design.codes[0] == -1
    assert design.seen[0]
    assert design.n_classes == 3


def test_groups_that_cannot_vote_are_named(cells: anndata.AnnData) -> None:
    labels = [f"{kind}" for kind in cells.obs["cell_type"]]
    groups = ["big"] * 56 + ["small"] * 2 + ["same"] * 2
    labels[56:] = ["type 0", "type 1", "type 2", "type 2"]
    design = design_labels(labels, groups, label="cell_type", source="cells")
    assert design.left_out == ("same", "small")
    assert len(design.classes) == 1
    assert not design.seen[56:].any()


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(LabelsError, match="cells.h5ad: column 'kind' has 1 label"):
        design_labels(["a"] * 5, label="kind", source="cells.h5ad")
    with pytest.raises(LabelsError, match="within one group"):
        design_labels(["a", "a", "b", "b"], ["1", "1", "2", "2"], label="kind", source="cells.h5ad")
    with pytest.raises(LabelsError, match="10 cells"):
        design_groups(["a"] * 9 + ["b"] * 9, n_cells=18, source="cells.h5ad")


def test_a_gene_that_no_compared_cell_expresses_is_not_ranked(cells: anndata.AnnData) -> None:
    rows = lognorm(cells).tolil()
    rows[:, 3] = 0
    design = design_labels(list(cells.obs["cell_type"].astype(str)), label="cell_type", source="cells")
    assert np.flatnonzero(np.isnan(add_all(LabelScore(design, 40), rows.tocsr()))).tolist() == [3]


def test_without_labels_groups_are_judged_each_by_itself() -> None:
    """A gene that only tells donors apart varies over all cells, and in no donor."""
    cells = make_cells(300, 400)
    values, donor = cells.X.toarray(), np.arange(300) % 2
    rng = np.random.default_rng(0)
    values[:, 50:] = rng.poisson(np.linspace(0.1, 12, 350), (300, 350))  # genes of every mean to compare with
    values[:, 20] = rng.poisson(np.where(donor, 12, 0.05))
    cells.X = csr_matrix(values)
    rows = lognorm(cells)
    groups = [str(value) for value in donor]
    together = add_all(VariationScore(design_groups(None, n_cells=300, source=""), 400), rows)
    apart = add_all(VariationScore(design_groups(groups, n_cells=300, source=""), 400), rows)
    assert (together > together[20]).sum() < 5
    assert (apart > apart[20]).sum() >= 30


def test_without_labels_none_is_seen(cells: anndata.AnnData) -> None:
    design = design_groups(["a"] * 50 + ["b"] * 9 + [None], n_cells=60, source="cells")
    assert design.left_out == ("b",)
    assert not design.seen.any()
    assert design.codes.tolist() == [0] * 50 + [-1] * 10
