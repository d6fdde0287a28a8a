from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import matplotlib.image
import numpy as np

from scstore.report.plots import class_mark, confusion_figure, embed, metrics_figure, umap_figure


def texts(svg: Path) -> list[str]:
    tag = "{http://www.w3.org/2000/svg}text"
    return ["".join(text.itertext()).strip() for text in ElementTree.parse(svg).iter(tag)]  # noqa: S314  # our own


def test_rows_of_the_confusion_matrix_are_shares_of_the_true_class(tmp_path: Path) -> None:
    title, truth = "t <b> $a$", ["a", "a", "a", "b"]
    shares = confusion_figure({title: (truth, ["a", "a", "b", "c"])}, tmp_path / "c.svg", tmp_path / "c.png")
    np.testing.assert_allclose(shares[title], [[2 / 3, 1 / 3, 0], [0, 0, 1], [0, 0, 0]])
    drawn = texts(tmp_path / "c.svg")
    assert [drawn.count(word) for word in (title, ".67", ".33", "1.00", ".00", "0.00", "true")] == [1, 1, 1, 1, 0, 0, 1]
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_figures_name_all_of_sixty_one_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"cell type {i}, $CD{i}$+" for i in range(61)]
    truth = names * 3
    confusion_figure({"one": (truth, truth), "two": (truth, truth[::-1])}, tmp_path / "c.svg")
    drawn = texts(tmp_path / "c.svg")
    assert drawn.count("predicted") == 2
    assert drawn.count("true") == 1
    assert all(drawn.count(name) == 3 for name in names)  # two axes of predictions, one of truth
    layouts = {name: rng.normal(0, 1, (183, 2)).astype(np.float32) for name in "abc"}
    umap_figure(layouts, truth, tmp_path / "u.svg")
    drawn = texts(tmp_path / "u.svg")
    assert drawn.count("UMAP 1") == 3
    for i, name in enumerate(sorted(names)):
        assert drawn.count(f"{i + 1} {name}") == 1  # in the legend
        assert drawn.count(str(i + 1)) == 3  # on every panel


def test_sixty_four_classes_differ_in_colour_or_marker() -> None:
    assert len({class_mark(i) for i in range(64)}) == 64


def test_metrics_have_a_panel_each_and_a_bar_a_method(tmp_path: Path) -> None:
    methods = {f"method {i}": {"accuracy": (0.1 * i, 0.02), "F1": (0.05 * i, None)} for i in range(1, 8)}
    kinds = {name: "control" if i % 2 else "with the model" for i, name in enumerate(methods)}
    metrics_figure(methods, tmp_path / "m.svg", tmp_path / "m.png", kinds=kinds, title="$ title")
    drawn = texts(tmp_path / "m.svg")
    for name in (*methods, "accuracy", "F1", "control", "with the model", "$ title"):
        assert drawn.count(name) == 1
    assert ".70" in drawn
    assert ".35" in drawn
    assert (tmp_path / "m.png").stat().st_size > 1000


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


HOSTILE = [r"$\x$", "$", "_hidden", "a\x1b\x00b", "B_1 ^{", "%s &amp; <b>"]


def test_labels_of_any_signs_are_drawn_as_they_are(tmp_path: Path) -> None:
    """RELIABILITY 67: no formula, no broken SVG, none left out; whatever the user's own settings are."""
    shown = [name.replace("\x1b\x00", r"\x1b\x00") for name in HOSTILE]
    with matplotlib.rc_context({"text.parse_math": True}):
        confusion_figure({HOSTILE[0]: (HOSTILE, HOSTILE)}, tmp_path / "c.svg", tmp_path / "c.png")
        points = np.arange(12, dtype=np.float32).reshape(6, 2)
        umap_figure({HOSTILE[0]: points, HOSTILE[3]: points}, HOSTILE, tmp_path / "u.svg", tmp_path / "u.png")
        methods = {name: {HOSTILE[0]: (0.5, 0.1)} for name in HOSTILE}
        kinds = dict.fromkeys(HOSTILE, HOSTILE[3])
        metrics_figure(methods, tmp_path / "m.svg", tmp_path / "m.png", kinds=kinds, title=HOSTILE[0])
    for figure in "cum":
        drawn = texts(tmp_path / f"{figure}.svg")
        assert {name: drawn.count(name) > 0 for name in shown} == dict.fromkeys(shown, True), figure
