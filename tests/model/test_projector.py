from __future__ import annotations

import numpy as np
import pytest
import torch

from scstore.errors import OptionError
from scstore.model.projector import orthonormal, project


@pytest.fixture
def tokens() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(300, 16) @ torch.randn(16, 16) * 0.3 + 0.1


@pytest.fixture
def genes() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((200, 24)) @ rng.standard_normal((24, 24))).astype(np.float32)


@pytest.mark.parametrize("kind", ["aligned", "random"])
def test_the_norm_is_that_of_tokens(kind: str, tokens: torch.Tensor, genes: np.ndarray) -> None:
    projected = project(genes, tokens, kind=kind)
    assert projected.shape == (200, 16)
    assert projected.dtype == np.float32
    assert np.median(np.linalg.norm(projected, axis=1)) == pytest.approx(float(tokens.norm(dim=1).median()), rel=1e-4)


def test_aligned_vectors_point_where_tokens_point(tokens: torch.Tensor, genes: np.ndarray) -> None:
    """Their directions spread as the tokens' do, which random projections of the same vectors do not."""

    def spread(vectors: np.ndarray) -> np.ndarray:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.cov(unit.T)

    target = spread(tokens.numpy())
    aligned, random = (spread(project(genes, tokens, kind=kind)) for kind in ("aligned", "random"))
    assert np.linalg.norm(aligned - target) < 0.6 * np.linalg.norm(random - target)


def test_native_vectors_stay_as_they_are(tokens: torch.Tensor, genes: np.ndarray) -> None:
    np.testing.assert_array_equal(project(genes[:, :16], tokens, kind="native"), genes[:, :16])
    with pytest.raises(OptionError):
        project(genes, tokens, kind="native")


@pytest.mark.parametrize("kind", ["aligned", "random"])
def test_a_seed_gives_the_same_vectors(kind: str, tokens: torch.Tensor, genes: np.ndarray) -> None:
    first = project(genes, tokens, kind=kind, seed=1)
    np.testing.assert_array_equal(first, project(genes, tokens, kind=kind, seed=1))
    assert not np.allclose(first, project(genes, tokens, kind=kind, seed=2))


@pytest.mark.parametrize(("rows", "columns"), [(5, 9), (9, 5), (6, 6)])
def test_the_shorter_side_is_orthonormal(rows: int, columns: int) -> None:
    matrix = orthonormal(rows, columns, seed=0)
    product = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    np.testing.assert_allclose(product, np.eye(min(rows, columns)), atol=1e-12)
