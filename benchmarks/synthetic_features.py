"""Features of realistic shape at any size, on disk, for the benchmarks of heads and search.

Low rank and noise, a few dimensions of great spread or far from zero (as hidden states of language models have them),
40 cell types with a long tail, half precision.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

N_CLASSES, RANK = 40, 64
BLOCK_ROWS = 20_000


class OnDisk:
    """Rows as a store gives them: read when asked for.

    Parameters
    ----------
    path
        A ``.npy`` file.
    """

    def __init__(self, path: Path) -> None:
        self.values = np.load(path, mmap_mode="r")
        self.shape = self.values.shape

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(self.values[key])


def write_features(folder: Path, parts: dict[str, int], *, width: int, noise: float, seed: int = 0) -> None:
    """Write ``NAME.npy``, ``(n, width) float16``, and ``NAME_y.npy``, ``(n,)`` labels, for each part.

    Parameters
    ----------
    folder
        Where.
    parts
        Rows by name, all of one distribution. A part holds two cells of every class, if it has so many.
    width
        Dimensions.
    noise
        Standard deviation in every dimension, beside 64 hidden ones.
    seed
        Of everything.
    """
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, N_CLASSES + 1) ** 1.3
    loadings = rng.normal(0, 1, (RANK, width)).astype(np.float32) * (0.97 ** np.arange(RANK, dtype=np.float32))[:, None]
    centres = rng.normal(0, 0.55, (N_CLASSES, RANK)).astype(np.float32)
    spread, shift = rng.gamma(2, 0.5, width).astype(np.float32), rng.normal(0, 3, width).astype(np.float32)
    spread[rng.permutation(width)[:3]] *= 30
    shift[rng.permutation(width)[:3]] += 200
    for name, n in parts.items():
        labels = rng.choice(N_CLASSES, n, p=shares / shares.sum())
        twice = np.repeat(np.arange(N_CLASSES), 2)[:n]
        labels[: len(twice)] = twice
        np.save(folder / f"{name}_y.npy", labels)
        file = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.float16, shape=(n, width))
        for start in range(0, n, BLOCK_ROWS):
            codes = labels[start : start + BLOCK_ROWS]
            hidden = centres[codes] + rng.standard_normal((len(codes), RANK), dtype=np.float32)
            values = hidden @ loadings + noise * rng.standard_normal((len(codes), width), dtype=np.float32)
            file[start : start + len(codes)] = values * spread / 8 + shift
        file.flush()
