"""Rows that know how much was read of them at once, and cells that look a little like cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest


class DiskRows:
    """Rows as a store gives them: slices, or sorted and distinct row numbers; nothing else."""

    def __init__(self, values: Any) -> None:
        self.values = values
        self.most = 0
        self.read = 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, slice):
            assert key.dtype.kind == "i"
            assert (np.diff(key) > 0).all(), "a disk wants sorted, distinct rows"
        block = self.values[key]
        self.most = max(self.most, block.shape[0])
        self.read += block.shape[0]
        return block


@dataclass(frozen=True)
class Cells:
    """Features of low rank with noise, unequal means and spreads, and classes with a long tail."""

    X: np.ndarray
    y: np.ndarray


def make_cells(
    n: int = 600, d: int = 40, classes: int = 5, *, seed: int = 0, tail: float = 1.0, spread: float = 1.0
) -> Cells:
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, classes + 1) ** tail
    codes = rng.choice(classes, n, p=frequency / frequency.sum())
    codes[: 2 * classes] = np.repeat(np.arange(classes), 2)
    rank = 2 * classes
    centres, loadings = rng.normal(0, 1.5, (classes, rank)), rng.normal(0, 1, (rank, d))
    values = (centres[codes] + spread * rng.normal(0, 1, (n, rank))) @ loadings + rng.normal(0, 2, (n, d))
    values = values * rng.gamma(2, 1, d) + rng.normal(0, 30, d)
    return Cells(values.astype(np.float32), np.array([f"type {c}" for c in codes]))


@pytest.fixture(scope="session")
def cells() -> Cells:
    return make_cells()


@pytest.fixture(scope="session")
def cells_factory() -> Any:
    return make_cells


@pytest.fixture(scope="session")
def disk_rows() -> type[DiskRows]:
    return DiskRows
