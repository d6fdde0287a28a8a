from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import anndata
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from support import make_cells

import scstore
from scstore.annotation.annotated_cells import GREY, PALETTE, label_colours
from scstore.errors import (
    CellsError,
    DamagedError,
    FeatureSpaceError,
    InputError,
    MissingExtraError,
    OptionError,
    OutputError,
)
from scstore.reporting.dot_plots import draw_rows
from scstore.reporting.marks import LABEL, ROW_KINDS, DotRow, labels_of
from scstore.reporting.plots import confusion_counts, draw_confusions, draw_layouts, embed, save, save_figure


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head") / "head"
    scstore.fit(make_cells(150), folder, label="cell_type")
    return folder


@pytest.fixture(scope="module")
def cells(head: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled cells in a file, with a layout, one of them empty."""
    new = make_cells(90, seed=1, empty=4)
    kinds = new.obs["cell_type"].cat.codes.to_numpy()
    new.obsm["X_umap"] = np.random.default_rng(0).normal(0, 1, (90, 2)) + 8 * np.eye(3)[kinds][:, :2]
    path = tmp_path_factory.mktemp("cells") / "annotated.h5ad"
    scstore.annotate(new, head).write_h5ad(path)
    return path


def labelled(names: list[str]) -> anndata.AnnData:
    """Cells of these labels, three of each, that nobody has to predict."""
    obs = pd.DataFrame(
        {LABEL: pd.Categorical(names * 3), "truth": names * 3, "sample": ["s1", "s2", "s3"] * len(names)}
    )
    obs.index = obs.index.astype(str)
    points = np.random.default_rng(0).normal(0, 1, (len(obs), 2))
    return anndata.AnnData(obs=obs, obsm={"X_umap": points})


def texts(svg: Path) -> list[str]:
    tag = "{http://www.w3.org/2000/svg}text"
    return ["".join(text.itertext()).strip() for text in ElementTree.parse(svg).iter(tag)]  # noqa: S314  # our own


def ticks(axis: Any) -> list[str]:
    return [one.get_text() for one in axis.get_ticklabels()]


def legend(axes: Any) -> list[str]:
    return [one.get_text() for one in axes.get_legend().get_texts()]


def test_a_umap_has_the_cells_their_names_and_numbers(cells: Path) -> None:
    found = anndata.read_h5ad(cells)
    axes = scstore.pl.umap(cells)
    counts = found.obs[LABEL].value_counts()
    assert legend(axes) == [f"{name} ({counts[name]})" for name in found.obs[LABEL].cat.categories]
    assert legend(axes)[-1] == "unassigned (1)"
    assert axes.get_title() == f"{LABEL} (predicted)"
    assert {text.get_text() for text in axes.texts} == set(counts.index) - {"unassigned"}
    colours = dict(zip(found.obs[LABEL].cat.categories, found.uns[f"{LABEL}_colors"], strict=True))
    drawn = {to_hex(one.get_facecolor()[0]).upper(): len(one.get_offsets()) for one in axes.collections}
    assert drawn == {colours[name]: n for name, n in counts.items()}
    assert to_hex(axes.collections[0].get_facecolor()[0]).upper() == GREY  # below all others
    points = np.concatenate([one.get_offsets() for one in axes.collections])
    np.testing.assert_allclose(np.sort(points, axis=0), np.sort(found.obsm["X_umap"], axis=0))
    assert plt.get_fignums() == [axes.figure.number]
    plt.close(axes.figure)


def test_numbers_get_a_colour_bar_and_axes_of_the_user_are_drawn_on(cells: Path) -> None:
    figure = Figure()
    ours, others = figure.subplots(1, 2)
    assert scstore.pl.umap(anndata.read_h5ad(cells), "scstore_confidence", ax=others) is others
    assert len(others.collections[0].get_array()) == 90
    assert not ours.collections
    assert len(figure.axes) == 3
    assert not plt.get_fignums()


@pytest.mark.parametrize("n", [1, 3, 40])
def test_names_do_not_lie_on_each_other(n: int) -> None:
    figure = Figure()
    axes = scstore.pl.umap(labelled([f"label {i}" for i in range(n)]), ax=figure)
    figure.draw_without_rendering()
    boxes = [one.get_bbox_patch().get_window_extent() for one in axes.texts]
    assert len(boxes) == n
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert len({to_hex(one.get_facecolor()[0]) for one in axes.collections}) == n


def test_a_confusion_matrix_counts_rows_and_has_shared_names_on_the_diagonal() -> None:
    truth, got = ["a", "a", "a", "b", "d"], ["a", "a", "b", "c", "unassigned"]
    counts = confusion_counts(truth, got)
    assert list(counts.index) == ["a", "b", "d"]
    assert list(counts.columns) == ["a", "b", "d", "c", "unassigned"]
    assert counts.to_numpy().tolist() == [[2, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    assert list(confusion_counts(["x"], ["a"]).columns) == ["a"]
    figure = Figure()
    draw_confusions(figure, {"one": counts, "two": counts})
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array()[0], [2 / 3, 1 / 3, 0, 0, 0])
    assert ticks(axes.yaxis) == ["a (3)", "b (1)", "d (1)"]
    assert [text.get_text() for text in axes.texts if text.get_text()] == [".67", ".33", "1.00", "1.00"]


def test_confusion_reads_both_columns(cells: Path) -> None:
    axes = scstore.pl.confusion(cells, "cell_type", ax=Figure())
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true: cell_type", f"got: {LABEL}")
    assert sum(int(re.findall(r"\((\d+)\)", one)[0]) for one in ticks(axes.yaxis)) == 90
    many = scstore.pl.confusion(labelled([f"type {i}" for i in range(40)]), "truth", ax=Figure())
    assert (len(ticks(many.yaxis)), len(many.texts)) == (40, 0)


def test_composition_adds_up_in_each_sample(cells: Path) -> None:
    found = anndata.read_h5ad(cells)
    axes = scstore.pl.composition(cells, "donor", ax=Figure())
    assert ticks(axes.yaxis) == ["d0 (45)", "d1 (45)"]
    widths = np.array([[bar.get_width() for bar in bars] for bars in axes.containers])
    np.testing.assert_allclose(widths.sum(axis=0), 1)
    expected = pd.crosstab(found.obs[LABEL], found.obs["donor"], normalize="columns")
    np.testing.assert_allclose(widths, expected.loc[[text.split(" (")[0] for text in legend(axes)]])


def test_confidence_shows_statuses_thresholds_and_held_out_cells(cells: Path, head: Path) -> None:
    statuses = anndata.read_h5ad(cells).obs["scstore_status"].value_counts()
    panels = scstore.pl.confidence(cells, ax=Figure())
    assert [one.get_xlabel() for one in panels] == ["confidence", "novelty", "confidence"]
    trained = scstore.load_head(head)
    expected = [f"{name} ({n})" for name, n in sorted(statuses.items())]
    expected.append(f"held-out, right ({len(trained.rejection_.confidence)})")
    assert [one for one in legend(panels[0]) if "threshold" not in one] == expected
    shares = [np.sum(stairs.get_data().values) for stairs in panels[0].patches]
    np.testing.assert_allclose([sum(shares[:-1]), shares[-1]], 100)
    bins = trained.record_["reliability"]
    np.testing.assert_allclose(panels[2].lines[1].get_ydata(), [one["accuracy"] for one in bins])
    with pytest.raises(OptionError):
        scstore.pl.confidence(cells, ax=panels[0])
    with pytest.raises(OptionError):
        scstore.pl.confidence(make_cells(9))


def test_markers_are_the_genes_of_each_label(cells: Path, head: Path) -> None:
    axes = scstore.pl.markers(head, n_genes=2, ax=Figure())
    genes = ticks(axes.xaxis)
    own = [{f"GENE{5 * kind + i}" for i in range(5)} for kind in range(3)]
    assert [set(genes[i : i + 2]) <= own[i // 2] for i in (0, 2, 4)] == [True] * 3
    assert len(axes.collections[0].get_offsets()) == 3 * 6
    with_cells = scstore.pl.markers(head, cells, n_genes=2, ax=Figure())
    sizes = with_cells.collections[0].get_sizes().reshape(4, 6)  # three labels, and no label
    assert all(sizes[kind, 2 * kind : 2 * kind + 2].min() > 50 for kind in range(3))
    assert (sizes[3] == 0).all()
    for other in (scstore.fit(make_cells(60), label="cell_type", head="knn"), scstore.AcrossGenesHead()):
        with pytest.raises(FeatureSpaceError):
            scstore.pl.markers(other)


def test_rows_are_drawn_where_they_are_and_kinds_look_alike_everywhere() -> None:
    model, control = ROW_KINDS["model"], ROW_KINDS["expression"]
    rows = [
        DotRow("with words", model, {"F1": [0.9, 0.94], "accuracy": [0.9]}),
        DotRow("expression", control, {"F1": [0.91, 0.93], "accuracy": []}, seen=True),
    ]
    first, second = draw_rows(Figure(), rows, ["F1", "accuracy"], title="It $makes$ no difference.", baseline=1)
    assert ticks(first.yaxis) == ["with words", "expression *"]
    assert first.get_title(loc="left") == "It $makes$ no difference."
    assert legend(second) == [model.words, control.words]
    assert first.get_xlim()[0] > 0.85
    np.testing.assert_allclose([bar.lines[0].get_xdata()[0] for bar in first.containers], 0.92)
    assert len(second.containers) == 1  # of what has no figure there is no dot
    assert len({(mark.colour, mark.marker) for mark in ROW_KINDS.values()}) == len(ROW_KINDS)


def test_an_evaluation_is_drawn_from_its_folder_too(cells: Path, tmp_path: Path) -> None:
    result = scstore.evaluate(cells, label="cell_type", views=["X", "regression"], folds=2)
    scstore.save_evaluation(result, tmp_path / "e", figures=False)
    for source in (result, tmp_path / "e"):
        (axes,) = scstore.pl.evaluation(source, metrics=["accuracy"], ax=Figure())
        assert axes.get_xlabel() == "accuracy"
        assert ticks(axes.yaxis) == ["expression", "logistic regression on expression"]
        assert axes.get_title(loc="left").replace("\n", " ") == result.conclusion
    with pytest.raises(OptionError):
        scstore.pl.evaluation(result, metrics=["f2"])
    with pytest.raises(InputError):
        scstore.pl.evaluation(tmp_path)


HOSTILE = [r"$\x$", "$", "_hidden", "a\x1b\x07b", "B_1 ^{", "%s &amp; <b>"]


def test_labels_of_any_signs_are_drawn_as_they_are(tmp_path: Path) -> None:
    """RELIABILITY 67: no formula, no broken SVG, none left out; whatever the user's own settings are."""
    shown = [name.replace("\x1b\x07", r"\x1b\x07") for name in HOSTILE]
    odd = labelled(HOSTILE)
    draw = {"umap": {}, "confusion": {"truth": "truth"}, "composition": {"by": "truth"}}
    with matplotlib.rc_context({"text.parse_math": True}):
        for name, options in draw.items():
            figure = Figure()
            getattr(scstore.pl, name)(odd, ax=figure, **options)
            save(figure, *(tmp_path / f"{name}.{suffix}" for suffix in ("svg", "png", "pdf")))
        draw_layouts(figure := Figure(), {HOSTILE[0]: odd.obsm["X_umap"]}, labels_of(HOSTILE * 3))
        save(figure, tmp_path / "layouts.svg")
        draw_rows(
            figure := Figure(),
            [DotRow(name, ROW_KINDS["model"], {HOSTILE[0]: [0.5]}) for name in HOSTILE],
            [HOSTILE[0]],
        )
        save(figure, tmp_path / "rows.svg")
    for svg in tmp_path.glob("*.svg"):
        drawn = " ".join(texts(svg))
        assert {name: name in drawn for name in shown} == dict.fromkeys(shown, True), svg.name


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_a_file_has_its_format_and_the_same_bytes(cells: Path, suffix: str, tmp_path: Path) -> None:
    written = []
    for i in range(2):
        scstore.pl.umap(cells, ax=(figure := Figure()))
        save_figure(figure, tmp_path / f"{i}.{suffix}", overwrite=False)
        written.append((tmp_path / f"{i}.{suffix}").read_bytes())
    assert written[0] == written[1]
    assert written[0].startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix])
    if suffix == "png":
        image = matplotlib.image.imread(tmp_path / "0.png")
        assert min(image.shape[:2]) > 900  # 300 dpi
    if suffix == "svg":
        assert "type 0 (" in " ".join(texts(tmp_path / "0.svg"))
    assert not plt.get_fignums()


def test_the_command_draws_each_kind(cells: Path, head: Path, tmp_path: Path, scstore_command: Any) -> None:
    result = scstore.evaluate(cells, label="cell_type", views=["X"], folds=2)
    scstore.save_evaluation(result, tmp_path / "e", figures=False)
    for words in (
        ["umap", cells, "--color", "donor"],
        ["confusion", cells, "--truth", "cell_type"],
        ["composition", cells, "--by", "donor"],
        ["confidence", cells],
        ["markers", head],
        ["markers", head, "--cells", cells],
        ["evaluation", tmp_path / "e", "--metric", "macro_f1"],
    ):
        target = tmp_path / f"{words[0]}{len(words)}.svg"
        scstore_command("plot", *map(str, words), "-o", str(target))
        assert texts(target)
    for words in (["umap", cells, "--by", "donor"], ["composition", cells], ["umap", cells, "--color", "dono"]):
        scstore_command("plot", *map(str, words), "-o", str(tmp_path / "no.svg"), code=2)
    assert not (tmp_path / "no.svg").exists()


def test_only_figures_of_ours_are_replaced(tmp_path: Path) -> None:
    mine, figure = tmp_path / "mine.svg", Figure()
    mine.write_text("<svg/>")
    with pytest.raises(OutputError):
        save_figure(figure, mine, overwrite=True)
    with pytest.raises(OutputError):
        save_figure(figure, tmp_path / "a.gif", overwrite=False)
    for suffix in ("png", "pdf", "svg"):
        target = tmp_path / f"a.{suffix}"
        save_figure(figure, target, overwrite=False)
        with pytest.raises(OutputError):
            save_figure(figure, target, overwrite=False)
        save_figure(figure, target, overwrite=True)


def test_cells_that_lack_something_are_refused(cells: Path) -> None:
    with pytest.raises(InputError, match="X_umap"):
        scstore.pl.umap(make_cells(9), "cell_type")
    with pytest.raises(OptionError, match="annotate"):
        scstore.pl.composition(make_cells(9), "donor")
    with pytest.raises(OptionError, match="cell_type"):
        scstore.pl.umap(cells, "celltype")
    with pytest.raises(CellsError):
        scstore.pl.umap(labelled(["a"])[:0].copy())


def test_values_that_are_missing_are_left_out(cells: Path) -> None:
    found = anndata.read_h5ad(cells)
    found.obsm["X_umap"][:10] = np.nan
    found.obs["number"] = np.where(np.arange(90) < 20, np.nan, 1.0)
    assert len(scstore.pl.umap(found, ax=Figure()).texts) == 3
    assert len(scstore.pl.umap(found, "number", ax=Figure()).collections[0].get_offsets()) == 70
    found.obs["scstore_novelty"] = np.nan  # as of a head across genes
    panels = scstore.pl.confidence(found, ax=Figure())
    panels[1].figure.draw_without_rendering()
    with pytest.raises(InputError):
        scstore.pl.umap(found, "scstore_novelty")


def test_a_record_of_another_program_is_called_damaged(cells: Path, tmp_path: Path) -> None:
    found = anndata.read_h5ad(cells)
    for held_out in ({"confidence": [1, 2]}, {"reliability": {"n": ["x"]}}, {"novelty": "none"}):
        found.uns["scstore"]["annotation"]["held_out"] = held_out
        with pytest.raises(DamagedError):
            scstore.pl.confidence(found, ax=Figure())
    (tmp_path / "evaluation.json").write_text(json.dumps({"regimes": [{"rows": [{"name": "X"}]}]}))
    with pytest.raises(InputError):
        scstore.pl.evaluation(tmp_path)


def test_colours_are_those_of_the_cells_or_of_the_palette() -> None:
    assert labels_of(["b", "a"]).colours == list(PALETTE[:2])
    with_none = labels_of(pd.Categorical(["b", None, "unassigned"], categories=["a", "unassigned", "b"]))
    assert with_none.names == ["b", "unassigned", "(no value)"]
    assert with_none.codes.tolist() == [0, 2, 1]
    own = labelled(["x", "y"])
    own.uns[f"{LABEL}_colors"] = ["#112233", "#445566"]
    axes = scstore.pl.umap(own, ax=Figure())
    assert {to_hex(one.get_facecolor()[0]) for one in axes.collections} == {"#112233", "#445566"}
    own.uns[f"{LABEL}_colors"] = ["red", "#445566", "#000000"]  # none of these cells'
    assert {to_hex(one.get_facecolor()[0]) for one in scstore.pl.umap(own, ax=Figure()).collections} == {
        colour.lower() for colour in PALETTE[:2]
    }
    lights = [
        sum(w * int(c[i : i + 2], 16) for i, w in ((1, 0.3), (3, 0.59), (5, 0.11)))
        for c in label_colours("abcdefghijklmnop")
    ]
    assert max(lights) < 0.67 * 255  # no yellow on white


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, scstore_command: Any) -> None:
    for name in [name for name in sys.modules if name.startswith(("scstore.pl", "scstore.reporting", "matplotlib"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in ("pl", "reporting"):  # which are put back when this is over
        monkeypatch.delitem(vars(scstore), name, raising=False)
    with pytest.raises(MissingExtraError, match=r"scstore\[plot\]"):
        scstore.pl  # noqa: B018
    assert "scstore[plot]" in scstore_command("plot", "umap", "cells.h5ad", "-o", "umap.png", code=2).stderr


def test_umaps_keep_groups_together_and_a_seed_gives_the_same_picture() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], 40)
    features = rng.standard_normal((80, 10)) * 0.1 + np.where(groups[:, None] == 0, 1, -1) * np.arange(10)
    points = embed(features, seed=3)
    np.testing.assert_array_equal(points, embed(features, seed=3))
    near = np.linalg.norm(points[:, None] - points[None], axis=2) + np.eye(80) * 1e9
    assert (groups[near.argmin(1)] == groups).all()
