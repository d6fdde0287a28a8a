from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scstore.heads.rows import materialise
from scstore.heads.scaling import column_moments, fit_scaling, identity_scaling, usable_scale


@settings(max_examples=40, deadline=None, derandomize=True)
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


def test_identity_changes_nothing(cells: Any) -> None:
    np.testing.assert_array_equal(identity_scaling(cells.X).apply(cells.X), cells.X)


def test_unfolding_undoes_folding() -> None:
    rng = np.random.default_rng(0)
    scaling = fit_scaling(rng.normal(3, 5, (40, 6)).astype(np.float32))
    weights, bias = rng.normal(size=(3, 6)), rng.normal(size=3)
    for seen, wanted in zip(scaling.unfold(*scaling.fold(weights, bias)), (weights, bias), strict=True):
        np.testing.assert_allclose(seen, wanted, rtol=1e-10)
