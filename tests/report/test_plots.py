from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from scstore.report.plots import confusion_matrix_figure, embed, umap_figure


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_rows_of_the_confusion_matrix_are_shares_of_the_true_class(tmp_path: Path, suffix: str) -> None:
    truth = ["a", "a", "a", "b"]
    shares = confusion_matrix_figure(truth, ["a", "a", "b", "c"], tmp_path / f"c.{suffix}", title="t <b> $")
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3, 0], [0, 0, 1], [0, 0, 0]])
    assert (tmp_path / f"c.{suffix}").stat().st_size > 1000


def test_sixty_one_classes_are_drawn(tmp_path: Path) -> None:
    names = [f"cell type {i}" for i in range(61)]
    confusion_matrix_figure(names, names[::-1], tmp_path / "c.png")
    assert matplotlib.image.imread(tmp_path / "c.png").shape[0] > 2000


def test_umaps_keep_groups_together_and_a_seed_gives_the_same_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], 40)
    features = rng.standard_normal((80, 10)) * 0.1 + np.where(groups[:, None] == 0, 1, -1) * np.arange(10)
    points = embed(features, seed=3)
    np.testing.assert_array_equal(points, embed(features, seed=3))
    near = np.linalg.norm(points[:, None] - points[None], axis=2) + np.eye(80) * 1e9
    assert (groups[near.argmin(1)] == groups).all()
    umap_figure({"one": points, "two": -points}, [f"type {g}" for g in groups], tmp_path / "u.png")
    image = matplotlib.image.imread(tmp_path / "u.png")
    assert image.shape[1] > image.shape[0]
