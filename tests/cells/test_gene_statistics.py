"""Analysis of variance against scikit-learn's; excess dropout against what is known of simulated cells."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.feature_selection import f_classif
from support import make_cells

from scstore.cells.gene_statistics import ClassSums, GroupMoments, excess_dropout, top_genes
from scstore.errors import CellsError


def counts(seed: int, n: int = 120, genes: int = 30, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    rates = rng.gamma(0.5, 2, (classes, genes))
    return np.log1p(rng.poisson(rates[codes])).astype(np.float32), codes


def streamed(values: np.ndarray, codes: np.ndarray, *, step: int, as_csr: bool) -> ClassSums:
    sums = ClassSums(int(codes.max()) + 1, values.shape[1])
    for start in range(0, len(values), step):
        block = values[start : start + step]
        sums.add(sparse.csr_matrix(block) if as_csr else block, codes[start : start + step])
    return sums


@pytest.mark.parametrize("as_csr", [True, False])
def test_f_equals_scikit_learn(as_csr: bool) -> None:
    values, codes = counts(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # genes without a count
        wanted = np.nan_to_num(f_classif(values.astype(np.float64), codes)[0])
    found = streamed(values, codes, step=17, as_csr=as_csr).f_values()
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), step=st.integers(1, 150), as_csr=st.booleans())
def test_f_does_not_depend_on_the_blocks(seed: int, step: int, as_csr: bool) -> None:
    values, codes = counts(seed)
    whole = streamed(values, codes, step=len(values), as_csr=False)
    parts = streamed(values, codes, step=step, as_csr=as_csr)
    np.testing.assert_allclose(parts.f_values(), whole.f_values(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(parts.variances(), whole.variances(), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(parts.counts, whole.counts)


@settings(max_examples=30)
@given(level=st.floats(0, 1e4, allow_nan=False), n=st.integers(4, 400))
def test_constant_genes_score_zero(level: float, n: int) -> None:
    codes = np.arange(n) % 2
    sums = streamed(np.full((n, 2), level, dtype=np.float32), codes, step=7, as_csr=False)
    assert sums.f_values().tolist() == [0, 0]
    assert sums.variances().tolist() == [0, 0]


def test_a_gene_that_separates_perfectly_is_finite_and_first() -> None:
    codes = np.array([0, 0, 0, 1, 1, 1])
    values = np.array([[0, 1.0], [0, 2], [0, 1], [3, 4], [3, 3], [3, 5]])
    f = streamed(values, codes, step=6, as_csr=False).f_values()
    assert np.isfinite(f).all()
    assert f[0] > 1e6 > f[1] > 0


@pytest.mark.parametrize("codes", [[0, 1, 2], [0, 0, 0]], ids=["a cell a class", "one class"])
def test_nothing_to_compare_scores_zero(codes: list[int]) -> None:
    sums = streamed(np.eye(3), np.array(codes), step=3, as_csr=False)
    assert sums.f_values().tolist() == [0, 0, 0]


@pytest.mark.parametrize("as_csr", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_by_name(bad: float, as_csr: bool) -> None:
    sums = ClassSums(2, 3).add(np.ones((5, 3)), np.array([0, 1, 0, 1, 0]))
    block = np.ones((2, 3))
    block[1, 2] = bad
    with pytest.raises(CellsError, match=r"cells 5 to 6"):
        sums.add(sparse.csr_matrix(block) if as_csr else block, np.array([0, 1]))


def test_top_genes_break_ties_by_number() -> None:
    assert top_genes(np.array([1.0, 5, 5, 0, 7]), 3).tolist() == [4, 1, 2]
    assert top_genes(np.array([1.0, 2]), 10).tolist() == [1, 0]
    assert top_genes(np.zeros(0), 3).tolist() == []


def grouped(values: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    pairs, codes = np.unique(np.stack([groups, labels]), axis=1, return_inverse=True)
    sums = streamed(values, codes.ravel(), step=23, as_csr=True)
    return sums.grouped_f_values([np.flatnonzero(pairs[0] == group) for group in np.unique(groups)])


def test_one_group_has_the_plain_f() -> None:
    values, codes = counts(1)
    plain = streamed(values, codes, step=50, as_csr=False).f_values()
    np.testing.assert_allclose(grouped(values, codes, np.zeros_like(codes)), plain, rtol=1e-9)


def test_what_differs_between_groups_alone_scores_next_to_nothing() -> None:
    rng = np.random.default_rng(0)
    groups, labels = np.repeat([0, 1, 2], 60), rng.integers(0, 2, 180)
    labels[:50], labels[-50:] = 0, 1  # labels and groups go together, so plain F is fooled
    values = np.stack([groups * 3.0, labels * 1.0], axis=1) + rng.normal(0, 0.5, (180, 2)) + 2
    plain = streamed(values, labels, step=60, as_csr=False).f_values()
    assert plain[0] > 50
    within = grouped(values, labels, groups)
    assert within[0] < 3
    assert within[1] > 10


def test_a_group_of_few_cells_does_not_decide() -> None:
    """In four cells a gene can be constant in both labels by chance: an F without bound, but for the moderation."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.integers(0, 2, 200), [0, 0, 1, 1]])
    groups = np.concatenate([np.repeat([0, 1], 100), [2, 2, 2, 2]])
    values = rng.normal(3, 1, (204, 2))
    values[:200, 0] += labels[:200] * 1.5
    values[200:, 0] = [3, 2, 3, 2]
    values[200:, 1] = [0, 0, 1, 1]
    within = grouped(values, labels, groups)
    assert within[0] > 3 * within[1]


def test_many_classes_are_added_as_few() -> None:
    values, _ = counts(2, n=300)
    codes = np.arange(300) // 2
    wanted = np.nan_to_num(f_classif(values.astype(np.float64), codes)[0])
    np.testing.assert_allclose(streamed(values, codes, step=31, as_csr=True).f_values(), wanted, rtol=1e-8, atol=1e-12)


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
    for group, score in enumerate(moments.dropout()):
        own = values[codes == group]
        np.testing.assert_allclose(score, excess_dropout(own.mean(0), own.var(0, ddof=1), (own > 0).mean(0)), rtol=1e-6)
    assert moments.counts.tolist() == [20, 20, 20]


def test_dropout_singles_out_genes_that_are_high_in_some_cells_only() -> None:
    """Of two sets of genes of equal means, one is on in a fifth of the cells alone."""
    rng = np.random.default_rng(0)
    means = np.tile(np.geomspace(0.5, 8, 20), 2)
    on = rng.random((500, 40)) < 0.2
    rates = np.where(np.arange(40) < 20, means * on / 0.2, means)
    moments = moments_of(sparse.csr_matrix(np.log1p(rng.poisson(rates).astype(float))))
    score = moments.dropout()[0]
    assert np.nanmin(score[:20]) > np.nanmax(score[20:])


@pytest.mark.parametrize("detection", [[0.0, 0.5], [1.0, 0.5]])
def test_a_gene_of_no_cell_or_of_all_has_no_dropout_to_judge(detection: list[float]) -> None:
    score = excess_dropout(np.array([2.0, 1.0]), np.ones(2), np.array(detection))
    assert np.isnan(score).tolist() == [True, False]
    assert np.isnan(excess_dropout(np.zeros(1), np.zeros(1), np.zeros(1))).all()


def test_dropout_does_not_depend_on_the_number_of_cells() -> None:
    rows = lognorm(make_cells())
    once, twice = moments_of(rows), moments_of(sparse.vstack([rows] * 8, format="csr"))
    np.testing.assert_allclose(once.dropout(), twice.dropout(), rtol=0.02)


def test_markers_are_chosen_by_turns() -> None:
    """F over all classes would name the three genes of the first class before any of another."""
    codes = np.repeat(np.arange(8), 20)
    values = np.random.default_rng(0).uniform(0, 0.4, (160, 14))
    owners = [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]
    for gene, owner in enumerate(owners):
        values[:, gene] += (3 - 0.1 * gene if owner == 0 else 1) * (codes == owner)
    sums = streamed(values, codes, step=50, as_csr=False)
    assert set(top_genes(sums.f_values(), 3)) == {0, 1, 2}
    assert set(sums.markers(8).tolist()) == {0, 3, 4, 5, 6, 7, 8, 9}
    assert sums.markers(1).tolist() == [0]
    assert sums.markers(99).dtype == np.int64
    assert sorted(sums.markers(99).tolist()) == list(range(14))


def test_markers_equal_a_direct_computation() -> None:
    values, codes = counts(7, n=150)
    exact = values.astype(np.float64)
    present = [codes == code for code in range(4)]
    within = sum(((exact[own] - exact[own].mean(axis=0)) ** 2).sum(axis=0) for own in present) / (150 - 4)
    within = np.maximum(within, 1e-3)
    t = np.array(
        [
            np.abs(exact[own].mean(axis=0) - exact[~own].mean(axis=0))
            / np.sqrt(within * (1 / own.sum() + 1 / (~own).sum()))
            for own in present
        ]
    )
    turns = np.argsort(-t, axis=1, kind="stable")
    sums = streamed(values, codes, step=40, as_csr=True)
    for n_turns in (1, 2, 4):
        wanted = set(turns[:, :n_turns].ravel().tolist())
        assert set(sums.markers(len(wanted)).tolist()) == wanted
    assert sums.markers(1)[0] == t.max(axis=0).argmax()


def test_classes_of_one_cell_have_no_marker_and_constant_genes_are_none() -> None:
    values, codes = counts(3)
    values[:, 4] = 2.5
    lonely = np.zeros((1, 30), dtype=np.float32)
    lonely[0, 4] = 50
    plain = streamed(values, codes, step=40, as_csr=True).markers(10)
    more = streamed(np.vstack([values, lonely]), np.append(codes, 4), step=40, as_csr=True).markers(10)
    np.testing.assert_array_equal(more, plain)
    assert 4 not in streamed(values, codes, step=40, as_csr=True).markers(30)


def test_without_two_classes_of_two_cells_markers_are_the_genes_that_vary_most() -> None:
    values, _ = counts(1, n=12)
    sums = streamed(values, np.arange(12), step=5, as_csr=False)
    np.testing.assert_array_equal(sums.markers(5), np.argsort(-values.astype(float).var(axis=0), kind="stable")[:5])
    nothing = streamed(np.ones((12, 3)), np.arange(12), step=5, as_csr=False)
    assert len(nothing.markers(3)) == 0


def test_many_classes_each_get_their_own_marker() -> None:
    codes = np.repeat(np.arange(60), 4)
    values = np.random.default_rng(2).uniform(0, 0.1, (240, 200))
    values[np.arange(240), codes] += 1 + codes / 10
    assert set(streamed(values, codes, step=100, as_csr=True).markers(60).tolist()) == set(range(60))


def test_dispersion_is_variance_over_a_mean_that_is_not_tiny() -> None:
    values, codes = counts(5)
    values[:, 0] = 0
    exact = values.astype(np.float64)
    found = streamed(values, codes, step=33, as_csr=True).dispersions()
    np.testing.assert_allclose(found, exact.var(axis=0) / (exact.mean(axis=0) + 0.1), rtol=1e-9)
    assert found[0] == 0
