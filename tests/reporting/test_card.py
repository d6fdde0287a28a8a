from __future__ import annotations

from pathlib import Path

import pytest
from support import make_cells

import scstore
from scstore.heads.fusion import FusedHead
from scstore.reporting.card import as_table, escaped, model_card

NAMES = {"type 0": "T | B", "type 1": "<b>B</b>", "type 2": "`rm`\n# x"}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> FusedHead:
    folder = tmp_path_factory.mktemp("card")
    cells = make_cells(120)
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).map(NAMES)
    cells.obsm["X_new"] = cells.X.toarray()[:, :12]
    cells.write_h5ad(folder / "cells.h5ad")
    return scstore.fit(folder / "cells.h5ad", folder / "head", label="cell_type", views=["X_new", "X"])


def test_it_says_all_that_the_head_says(head: FusedHead) -> None:
    card = model_card(head, name="blood")
    assert card.startswith("# blood\n")
    assert "| labels | cell_type of cells.h5ad |" in card
    assert "| cells | 120 of 3 classes (ids sha256:" in card
    assert f"| accuracy | {head.held_out_['accuracy']:.3f} |" in card
    assert f"| balanced accuracy (mean recall) | {head.held_out_['balanced_accuracy']:.3f} |" in card
    assert f"temperatures, fitted on these cells: x {head.fusion_.temperatures[0]:.2f}" in card.lower()
    assert head.rejection_ is not None
    assert f"confidence below {head.rejection_.thresholds('both').confidence:.3f}, or novelty" in card
    assert head.record_["views"]["X_new"]["fingerprint"] in card
    assert f"The {len(head.genes_ or ())} genes that the head reads the expression of" in card
    assert f"{head.held_out_['coverage_95']:.3f} |" in card
    assert head.missing_ is not None
    for known, accuracy in zip(head.missing_.known, head.missing_.accuracy, strict=True):
        assert f"| {known:.0%} | {accuracy:.3f} |" in card
    assert "held out at random" in card
    assert "No cell: weights" in card
    assert "scikit-learn" in card.split("## Versions")[1]
    for name, n in head.record_["trained_on"]["classes"].items():
        recall = head.record_["held_out_by_class"][name]["recall"]
        assert any(f"| {n} |" in line and f"| {recall:.3f} |" in line for line in card.splitlines())


def test_it_comes_from_the_file_alone(head: FusedHead, tmp_path: Path) -> None:
    from scstore.heads.artifact import save_head

    save_head(head, tmp_path / "head", record=head.record_)
    loaded = scstore.load_head(tmp_path / "head")
    assert model_card(loaded, name="blood") == model_card(head, name="blood")


def test_labels_stay_text(head: FusedHead) -> None:
    """RELIABILITY 45."""
    card = model_card(head, name="a|b")
    assert "T \\| B" in card
    assert "&lt;b&gt;B&lt;/b&gt;" in card
    assert r"\`rm\` # x" in card
    assert "<b>" not in card


def test_without_held_out_cells_it_says_so(tmp_path: Path) -> None:
    cells = make_cells(3)
    cells.obs["cell_type"] = ["a", "b", "c"]
    cells.obsm["X_new"] = cells.X.toarray()[:, :5]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    card = model_card(scstore.fit(tmp_path / "cells.h5ad", label="cell_type", views=["X_new"]), name="few")
    assert "it is not calibrated" in card
    assert "Never: the head has no thresholds." in card


def test_it_says_which_groups_were_held_out_and_that_knn_keeps_cells(tmp_path: Path) -> None:
    make_cells(90).write_h5ad(tmp_path / "cells.h5ad")
    head = scstore.fit(tmp_path / "cells.h5ad", label="cell_type", views=["X"], head="knn", group="donor")
    card = model_card(head, name="knn")
    assert "whole groups of donor held out" in card
    assert "held out at random" not in card
    assert "The head is its training cells" in card


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("T_CD4+ cells (naïve)", "T_CD4+ cells (naïve)"),
        ("<img src=x>&amp;", "&lt;img src=x&gt;&amp;amp;"),
        ("![x](http://e.org)", r"!\[x\](http:&#47;&#47;e.org)"),
        ("see https://e.org or WWW.e.org, a@b.org", "see https:&#47;&#47;e.org or WWW&#46;e.org, a&#64;b.org"),
        ("_B_ *T* ~x~ `c` $\\x$", r"\_B\_ \*T\* \~x\~ \`c\` \$\\x\$"),
        ("a|b\n| c\r\x1b[2J", r"a\|b \| c \x1b\[2J".replace(r"\x1b", r"\\x1b").replace(" \\\\x", "\\\\r\\\\x")),
    ],
)
def test_names_stay_text(text: str, written: str) -> None:
    """RELIABILITY 67: no HTML, link, image, emphasis, formula, code or further cell."""
    assert escaped(text) == written
    lines = as_table([text], [[text]]).splitlines()
    assert lines == [f"| {written} |", "| --- |", f"| {written} |"]
