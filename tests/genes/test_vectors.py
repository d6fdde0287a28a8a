from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ortho_group
from threadpoolctl import threadpool_limits

from scstore.errors import GenesError
from scstore.genes import vectors as vectors_module
from scstore.genes.vectors import RandomEncoder, encode_texts, matrix_power, whiten


class LengthEncoder:
    """Vectors that show what was asked: the length of the text."""

    def __init__(self, *, bad: str | None = None) -> None:
        self.batches: list[list[str]] = []
        self.bad = bad

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "length"}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(list(texts))
        return np.array([[np.nan if text == self.bad else len(text)] for text in texts], dtype=np.float32)


def test_texts_are_encoded_once_longest_first_and_given_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = LengthEncoder()
    monkeypatch.setattr(vectors_module, "BATCH", 2)
    vectors = encode_texts(encoder, ["bb", "a", "cccc", "a", "ddd"])
    assert encoder.batches == [["cccc", "ddd"], ["bb", "a"]]
    assert vectors.ravel().tolist() == [2, 1, 4, 1, 3]


def test_a_vector_that_is_not_finite_names_its_text() -> None:
    with pytest.raises(GenesError, match="'ddd'"):
        encode_texts(LengthEncoder(bad="ddd"), ["a", "ddd"])


def test_no_texts_are_refused() -> None:
    with pytest.raises(GenesError, match="no gene texts"):
        encode_texts(LengthEncoder(), [])


def test_random_vectors_depend_on_the_text_and_the_seed_alone() -> None:
    alone = RandomEncoder(8).encode(["CD3D"])
    among = RandomEncoder(8).encode(["LYZ", "CD3D"])
    np.testing.assert_array_equal(alone[0], among[1])
    assert not np.array_equal(among[0], among[1])
    assert not np.array_equal(alone, RandomEncoder(8, seed=1).encode(["CD3D"]))


def test_random_vectors_are_standard_normal() -> None:
    vectors = RandomEncoder(256).encode([f"gene{i}" for i in range(200)])
    assert abs(vectors.mean()) < 0.02
    assert abs(vectors.std() - 1) < 0.02


def test_whitened_vectors_have_unit_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6)) + 3).astype(np.float32)
    monkeypatch.setattr(vectors_module, "SHRINKAGE", 0)
    white = whiten(vectors)
    np.testing.assert_allclose(np.cov(white.T), np.eye(6), atol=1e-3)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-5)


def test_whitening_turns_with_the_vectors() -> None:
    """It does not depend on the basis, hence not on eigenvector signs that differ between libraries."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((100, 5)).astype(np.float32)
    turn = ortho_group.rvs(5, random_state=2)
    np.testing.assert_allclose(whiten((vectors @ turn).astype(np.float32)), whiten(vectors) @ turn, atol=1e-3)


def test_fewer_genes_than_dimensions_stay_finite() -> None:
    assert np.isfinite(whiten(np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32))).all()


def test_powers_multiply() -> None:
    rng = np.random.default_rng(3)
    half = rng.standard_normal((4, 4))
    matrix = half @ half.T
    root = matrix_power(matrix, 0.5, 0.0)
    np.testing.assert_allclose(root @ root, matrix, atol=1e-9)


def test_the_number_of_threads_decides_no_digit() -> None:
    """RELIABILITY 70: of directions that hold nothing but noise least of all."""
    vectors = RandomEncoder(384).encode([f"g{i}" for i in range(24)])
    vectors[:, :5] = vectors[:, 5:10]
    found = set()
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            found.add(whiten(vectors).tobytes())
    assert len(found) == 1
