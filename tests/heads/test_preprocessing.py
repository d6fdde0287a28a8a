from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.decomposition import PCA

from scstore.cells.gene_statistics import ClassSums, GroupMoments
from scstore.errors import CellsError, DamagedError, LabelsError
from scstore.heads import preprocessing
from scstore.heads.preprocessing import (
    ExpressionReducer,
    column_moments,
    columns_of,
    few_share,
    fit_scaling,
    usable_scale,
)
from scstore.heads.rows import materialise


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), n=st.integers(1, 60), block_bytes=st.integers(1, 2000))
def test_streamed_moments_equal_those_in_memory(seed: int, n: int, block_bytes: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(0, 1, (n, 6)) * [1e-3, 1, 1, 10, 1e3, 0] + [0, 0, 1e4, -5, 1e5, 7]).astype(np.float32)
    mean, variance = column_moments(values, block_bytes=block_bytes)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(variance, exact.var(axis=0), rtol=1e-8, atol=1e-12)


def test_scaled_columns_are_standard_and_rows_have_norm_one(cells: Any) -> None:
    scaled = materialise(fit_scaling(cells.X).over(cells.X))
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=0) * np.sqrt(cells.X.shape[1]), 1, rtol=1e-4)
    np.testing.assert_allclose(np.square(scaled).sum(axis=1).mean(), 1, rtol=1e-4)


def test_constant_columns_stay_finite() -> None:
    values = np.tile(np.array([[0.0, 7, 1e8, 1]], dtype=np.float32), (5, 1))
    values[:, 3] = np.arange(5)
    mean, variance = column_moments(values)
    assert usable_scale(mean, variance)[:3].tolist() == [1, 1, 1]
    scaled = fit_scaling(values).apply(values)
    assert np.isfinite(scaled).all()
    assert not scaled[:, :3].any()


def test_an_outlier_dimension_keeps_its_digits() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(-64, 64, (200, 1)).astype(np.float32) / 64
    far = small + np.float32(1024)
    np.testing.assert_allclose(fit_scaling(far).apply(far), fit_scaling(small).apply(small), atol=2e-4)


def test_folding_moves_the_scaling_into_the_weights(cells: Any) -> None:
    rng = np.random.default_rng(0)
    scaling = fit_scaling(cells.X)
    weights, bias = rng.normal(size=(3, cells.X.shape[1])).astype(np.float32), rng.normal(size=3).astype(np.float32)
    folded, offset = scaling.fold(weights, bias)
    np.testing.assert_allclose(
        cells.X.astype(np.float64) @ folded.T + offset, scaling.apply(cells.X) @ weights.T + bias, atol=1e-4
    )


def expressed(n: int = 300, genes: int = 80, classes: int = 4, seed: int = 0) -> tuple[sparse.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.repeat(np.arange(classes), 2), rng.integers(0, classes, n - 2 * classes)])
    rates = rng.gamma(0.3, 3, (classes, genes))
    return sparse.csr_matrix(np.log1p(rng.poisson(rates[codes])).astype(np.float32)), np.array([f"t{c}" for c in codes])


def components(reducer: ExpressionReducer, X: Any) -> np.ndarray:
    return materialise(reducer.over(columns_of(X, reducer.selected)))


def test_it_is_selection_scaling_and_pca() -> None:
    X, y = expressed()
    reducer = ExpressionReducer.fit(X, y, n_genes=30, n_components=6)
    dense = X.toarray().astype(np.float64)
    chosen = dense[:, reducer.selected]
    scaled = (chosen - chosen.mean(axis=0)) / chosen.std(axis=0)
    wanted = PCA(6, svd_solver="full").fit_transform(scaled)
    found = components(reducer, X)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), atol=1e-4)
    assert (reducer.axes[np.arange(20), np.abs(reducer.axes).argmax(axis=1)] > 0).all()
    everything = scaled @ reducer.axes.T
    np.testing.assert_allclose(everything[:, :6], found, atol=1e-4)
    np.testing.assert_allclose(everything.var(axis=0), reducer.spread, rtol=1e-4)


def test_without_components_a_head_reads_the_genes_as_they_are() -> None:
    X, y = expressed()
    reducer = ExpressionReducer.fit(X, y, n_genes=30, n_components=0)
    np.testing.assert_array_equal(components(reducer, X), X[:, reducer.selected].toarray())
    assert reducer.width == 30


def test_markers_come_first_then_genes_of_high_f_and_dispersed_genes_of_the_background() -> None:
    X, y = expressed(genes=300)
    few = ExpressionReducer.fit(X, y, n_genes=220, n_components=0)
    sums = ClassSums(4, 300)
    sums.add(X, np.unique(y, return_inverse=True)[1])
    np.testing.assert_array_equal(few.selected[:100], sums.markers(100))
    first = np.argsort(-sums.f_values(), kind="stable")[:100].tolist()
    ordered = [*first, *np.argsort(-sums.dispersions(), kind="stable")]
    rest = [gene for gene in ordered if gene not in few.selected[:100]]
    assert few.selected[100:].tolist() == list(dict.fromkeys(rest))[:120]
    assert sorted(few.selected[few.places]) == sorted(first)
    loud = X.tolil()
    loud[:, 7] = 0
    quiet, other = loud.tocsr(), loud.copy()
    other[::2, 7] = 9
    assert 7 not in ExpressionReducer.fit(quiet, y, n_genes=150, n_components=0).selected
    seen = ExpressionReducer.fit(quiet, y, n_genes=150, n_components=0, background=other.tocsr())
    assert 7 in seen.selected
    assert seen.mean[seen.selected.tolist().index(7)] == pytest.approx(4.5)


def test_few_labels_bring_genes_that_more_cells_lack_than_their_mean_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "FREE", 50)
    X, y = expressed(genes=300)
    dropout = GroupMoments(1, 300).add(X, np.zeros(300, dtype=int)).dropout()[0]
    wanted = np.argsort(-np.nan_to_num(dropout, nan=-np.inf), kind="stable")[:50]
    few = ExpressionReducer.fit(X[:40], y[:40], n_genes=290, n_components=0, background=X)
    assert sorted(few.selected[few.free]) == sorted(wanted)
    assert ExpressionReducer.fit(X[:40], y[:40], n_genes=290, n_components=0).free.shape == (0,)
    assert ExpressionReducer.fit(X[:40], y[:40], n_genes=290, n_components=5, background=X).free.shape == (0,)
    assert ExpressionReducer.fit(X[:140], y[:140], n_genes=290, n_components=0, background=X).free.shape == (0,)
    assert [few_share(n, 4) for n in (8, 30, 60, 120, 900)] == pytest.approx([0.7418, 0.5, 0.2929, 0, 0], abs=1e-4)


def factors(reducer: ExpressionReducer) -> tuple[np.ndarray, np.ndarray]:
    """Loadings and the covariance W W^T + noise of the standardised genes."""
    loadings = reducer.axes.T * np.sqrt(reducer.spread)
    noise = np.maximum(1 - (loadings**2).sum(axis=1), preprocessing.LEAST_NOISE)
    return loadings, loadings @ loadings.T + np.diag(noise)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_missing_genes_get_their_conditional_mean(share: float) -> None:
    X, y = expressed()
    reducer = ExpressionReducer.fit(X, y, n_genes=40, n_components=0)
    measured = np.random.default_rng(1).random(40) >= share
    values, (_, covariance) = X[:, reducer.selected].toarray(), factors(reducer)
    z = (values[:, measured] - reducer.mean[measured]) / reducer.scale[measured]
    across = covariance[np.ix_(~measured, measured)]
    wanted = z @ np.linalg.solve(covariance[np.ix_(measured, measured)], across.T)
    wanted = np.maximum(reducer.mean[~measured] + wanted * reducer.scale[~measured], 0)
    unknown = values.copy()
    unknown[:, ~measured] = np.nan  # what is there in their place is never looked at
    estimate = reducer.estimate(measured)
    found = estimate.complete(unknown)
    np.testing.assert_allclose(found[:, ~measured], wanted, atol=1e-5)
    np.testing.assert_array_equal(found[:, measured], values[:, measured])
    assert found.min() >= 0
    assert (wanted == 0).any() or share < 0.5
    explained = np.diag(across @ np.linalg.solve(covariance[np.ix_(measured, measured)], across.T))
    np.testing.assert_allclose(estimate.explained, explained, atol=1e-9)
    assert ((estimate.explained >= 0) & (estimate.explained <= 1)).all()


def test_where_all_genes_are_measured_nothing_changes() -> None:
    X, y = expressed()
    reducer = ExpressionReducer.fit(X, y, n_genes=40, n_components=0)
    rows = X[:, reducer.selected]
    estimate = reducer.estimate(np.ones(40, dtype=bool))
    np.testing.assert_array_equal(materialise(estimate.over(rows)), rows.toarray())
    assert estimate.explained.shape == (0,)
    np.testing.assert_array_equal(estimate.complete(rows.toarray()), rows.toarray())
    none = reducer.estimate(np.zeros(40, dtype=bool))
    np.testing.assert_allclose(none.complete(rows.toarray()), np.tile(reducer.mean, (300, 1)), rtol=1e-6)
    assert not none.explained.any()


@settings(max_examples=6)
@given(seed=st.integers(0, 99), block_bytes=st.integers(300, 200_000))
def test_the_size_of_the_blocks_does_not_matter(seed: int, block_bytes: int) -> None:
    X, y = expressed(seed=seed)
    whole = ExpressionReducer.fit(X, y, n_genes=20, n_components=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessing, "EXPRESSION_BLOCK_BYTES", block_bytes)
        parts = ExpressionReducer.fit(X, y, n_genes=20, n_components=4)
    np.testing.assert_array_equal(parts.selected, whole.selected)
    np.testing.assert_allclose(parts.axes, whole.axes, atol=1e-6)
    np.testing.assert_allclose(parts.spread, whole.spread, rtol=1e-6)


def test_rows_on_disk_dense_or_sparse_give_the_same(disk_rows: Any) -> None:
    X, y = expressed()
    wanted = components(ExpressionReducer.fit(X, y, n_genes=30, n_components=6), X)
    for rows in (X.toarray(), disk_rows(X), disk_rows(X.toarray().astype(np.float64))):
        found = components(ExpressionReducer.fit(rows, y, n_genes=30, n_components=6), rows)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_selected_genes_alone_are_enough() -> None:
    X, y = expressed()
    reducer = ExpressionReducer.fit(X, y, n_genes=25, n_components=5)
    np.testing.assert_array_equal(materialise(reducer.over(X[:, reducer.selected])), components(reducer, X))
    alone = np.vstack([components(reducer, X[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(alone, components(reducer, X)[:20], atol=1e-6)


def test_genes_of_the_only_cell_of_a_class_do_not_take_over() -> None:
    """RELIABILITY 42: a class seen once."""
    X, y = expressed(genes=60)
    lonely = np.zeros((1, 90), dtype=np.float32)
    lonely[0, 60:] = 3
    wide = sparse.vstack([sparse.hstack([X, sparse.csr_matrix((300, 30), dtype=np.float32)]), lonely]).tocsr()
    reducer = ExpressionReducer.fit(wide, np.append(y, "rare"), n_genes=20, n_components=5)
    assert reducer.selected.max() < 60


def test_a_class_for_every_cell_falls_back_on_variance() -> None:
    X, _ = expressed(20)
    reducer = ExpressionReducer.fit(X, [f"c{i:02}" for i in range(20)], n_genes=10, n_components=3)
    np.testing.assert_array_equal(reducer.selected, np.argsort(-X.toarray().var(axis=0), kind="stable")[:10])


def test_fewer_genes_cells_or_directions_than_asked_for() -> None:
    X, y = expressed(40, genes=5)
    sizes = {"n_genes": 200, "n_components": 20}
    assert ExpressionReducer.fit(X, y, **sizes).axes.shape == (5, 5)
    few = X[[0, 1, 2, 3]]
    assert len(ExpressionReducer.fit(few, ["a", "a", "b", "b"], **sizes).axes) <= 3
    twice = sparse.hstack([X[:, :1], X[:, :1]]).tocsr()
    reducer = ExpressionReducer.fit(twice, y, **sizes)
    assert reducer.axes.shape == (1, 2)
    assert reducer.n_components == 1
    left = reducer.estimate(np.array([True, False])).complete(twice.toarray())
    np.testing.assert_allclose(left, twice.toarray(), atol=0.15)  # a twin tells nearly all


def test_what_cannot_be_learned_from_is_refused() -> None:
    X, y = expressed()
    with pytest.raises(CellsError):
        ExpressionReducer.fit(sparse.csr_matrix((300, 9), dtype=np.float32), y, n_genes=9, n_components=0)
    with pytest.raises(LabelsError):
        ExpressionReducer.fit(X, ["a"] * 300, n_genes=9, n_components=0)
    X.data[5] = np.nan
    with pytest.raises(CellsError):
        ExpressionReducer.fit(X, y, n_genes=9, n_components=0)


def test_it_comes_back_from_its_arrays() -> None:
    X, y = expressed()
    reducer = ExpressionReducer.fit(X, y, n_genes=25, n_components=5)
    arrays = reducer.to_state()
    np.testing.assert_array_equal(components(ExpressionReducer.from_state(arrays), X), components(reducer, X))
    for change in (
        {"places": arrays["places"] + 20},
        {"places": arrays["places"][:0]},
        {"scale": arrays["scale"] * 0},
        {"mean": arrays["mean"][:-1]},
        {"axes": arrays["axes"][:0], "spread": arrays["spread"][:0]},
        {"axes": arrays["axes"][:, :-1]},
        {"spread": -arrays["spread"]},
        {"n_components": 99},
        {name: arrays[name][..., :0] for name in ("selected", "mean", "scale", "axes")},
    ):
        with pytest.raises(DamagedError):
            ExpressionReducer.from_state({**arrays, **change})
