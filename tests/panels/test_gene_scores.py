from __future__ import annotations

import anndata
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.feature_selection import f_classif
from support import make_cells

from scstore.panels.comparison import Design, design
from scstore.panels.gene_scores import GeneScore, rank_scores, take_in_turn

NAN = float("nan")


def lognorm(cells: anndata.AnnData) -> csr_matrix:
    return csr_matrix(cells.X / cells.X.sum(1) * 1e4).log1p()


def scores_of(plan: Design, rows: csr_matrix, *, step: int = 7) -> np.ndarray:
    score = GeneScore(plan, rows.shape[1])
    for start in range(0, rows.shape[0], step):
        score.add(start, rows[start : start + step])
    return score.values()


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


def test_ranks_follow_the_scores_and_ties_the_names() -> None:
    ranks = rank_scores(np.array([1.0, 3, NAN, 3, 0]), ["a", "z", "b", "y", "c"])
    np.testing.assert_array_equal(ranks, [3, 2, NAN, 1, 4])


def test_rankings_take_turns() -> None:
    names = ["a", "b", "c", "d", "e"]
    ranks = np.array([[1, 2, 3, 4, 5], [5, 4, NAN, 2, 1]])
    # a and e are first somewhere, with equal means; then b and d are second, with equal means; c is third
    assert [names[i] for i in take_in_turn(ranks, names)] == ["a", "e", "b", "d", "c"]
    assert [names[i] for i in take_in_turn(np.array([[1, 2, 3], [2, 1, NAN]]), names[:3])] == ["a", "b", "c"]
    assert [names[i] for i in take_in_turn(np.array([[1, 2], [3, 1]]), names[:2])] == ["b", "a"]
    assert take_in_turn(np.array([[NAN, 1, NAN]]), names[:3]).tolist() == [1]


SCORES = st.lists(st.one_of(st.just(NAN), st.integers(-3, 3).map(float)), min_size=12, max_size=12)


@settings(max_examples=50)
@given(scores=st.lists(SCORES, min_size=1, max_size=5), n=st.integers(1, 12), data=st.data())
def test_each_ranking_gets_its_share_whatever_their_order(
    scores: list[list[float]], n: int, data: st.DataObject
) -> None:
    names = [f"g{i:02}" for i in range(12)]
    ranks = np.array([rank_scores(np.array(own), names) for own in scores])
    order = take_in_turn(ranks, names)
    chosen = set(order[:n].tolist())
    for own in ranks:
        assert set(np.flatnonzero(own <= n // len(ranks)).tolist()) <= chosen
    assert set(order.tolist()) == set(np.flatnonzero(~np.isnan(ranks).all(axis=0)).tolist())
    rows = data.draw(st.permutations(range(len(ranks))))
    genes = data.draw(st.permutations(range(12)))
    again = take_in_turn(ranks[rows][:, genes], [names[i] for i in genes])
    assert [names[genes[i]] for i in again] == [names[i] for i in order]
