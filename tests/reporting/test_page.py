"""The page about labelled cells: what it says, and that names out of files stay text."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from page_cells import NASTY, nasty_cells
from support import make_cells

import scstore
from scstore.annotation.annotated_cells import label_colours
from scstore.errors import CellsError, DamagedError, FeatureSpaceError, InputError, OptionError, OutputError
from scstore.reporting.page import describe, report, write_page


def data(page: Path) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def column(page: dict[str, Any], name: str) -> list[Any]:
    one = next(one for one in page["columns"] if one["name"] == name)
    if "numbers" in one:
        return np.frombuffer(base64.b64decode(one["numbers"]), "<f4").tolist()
    return [one["values"][code] for code in base64.b64decode(one["codes"])]


def new_cells(n: int = 60) -> anndata.AnnData:
    cells = make_cells(n, seed=1)
    cells.obs["Sample"] = [f"s{i % 2 * 8 + 2}" for i in range(n)]
    cells.obs["leiden"] = cells.obs.pop("cell_type").to_numpy()
    cells.obs["n_counts"] = np.arange(n) * 1e300
    cells.obs["barcode"] = [f"b{i}" for i in range(n)]
    cells.obsm["X_umap"] = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    return cells[:, [f"GENE{i}" for i in range(40) if i not in (3, 8)]].copy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ref.h5ad``, a ``head`` of it, ``annotated.h5ad`` and its page, both by ``annotate``."""
    folder = tmp_path_factory.mktemp("page")
    reference = make_cells(150)
    reference.write_h5ad(folder / "ref.h5ad")
    scstore.fit(folder / "ref.h5ad", folder / "head", label="cell_type", group="donor")
    new_cells().write_h5ad(folder / "new.h5ad")
    output, page = folder / "annotated.h5ad", folder / "page.html"
    scstore.annotate(folder / "new.h5ad", folder / "head", output=output, report=page, unassigned="both")
    return folder


def test_the_page_says_what_the_labels_are(folder: Path) -> None:
    page, cells = data(folder / "page.html"), anndata.read_h5ad(folder / "annotated.h5ad")
    assert page["ids"] == list(cells.obs_names)
    for name in ("scstore_label", "scstore_second_label", "scstore_reason", "Sample", "leiden"):
        assert column(page, name) == list(cells.obs[name])
    np.testing.assert_allclose(column(page, "scstore_novelty"), cells.obs["scstore_novelty"], rtol=1e-6)
    assert page["left_out"] == ["barcode"]
    labels = next(one for one in page["columns"] if one["name"] == "scstore_label")
    own = dict(zip(cells.obs["scstore_label"].cat.categories, cells.uns["scstore_label_colors"], strict=True))
    assert dict(zip(labels["values"], labels["colours"], strict=True)) == own
    umap = np.frombuffer(base64.b64decode(page["umap"]), "<f4").reshape(-1, 2)
    np.testing.assert_array_equal(umap, cells.obsm["X_umap"])
    n_ok = int((cells.obs["scstore_status"] == "ok").sum())
    assert 0 < n_ok < 60
    assert page["verdict"][0].startswith(f"{n_ok} of 60 cells")
    assert len(page["verdict"]) == 3
    assert "150 cells" in page["methods"]
    assert "2 values of donor" in page["methods"]
    facts = dict(page["facts"])
    assert facts["digest of the head"].startswith("sha256:")
    assert str(folder) not in (folder / "page.html").read_text()  # no paths of this machine


def test_genes_samples_and_clusters_are_counted(folder: Path) -> None:
    page, cells = data(folder / "page.html"), anndata.read_h5ad(folder / "annotated.h5ad")
    read = scstore.load_head(folder / "head").record_["genes"]["symbol"]
    assert set(page["genes"]["missing"]) == {"GENE3", "GENE8"} & set(read)
    assert page["genes"]["n_read"] == len(read)
    assert page["samples"]["rows"] == ["s2", "s10"]
    for name in ("samples", "clusters"):
        found = page[name]
        table = pd.DataFrame(found["counts"], found["rows"], found["labels"])
        expected = pd.crosstab(cells.obs[found["column"]], cells.obs["scstore_label"])
        assert all(table.loc[row, label] == n for (row, label), n in expected.stack().items())
        assert table.to_numpy().sum() == 60


def test_the_heads_genes_are_shown_in_the_cells(folder: Path) -> None:
    found, cells = data(folder / "page.html")["markers"], anndata.read_h5ad(folder / "annotated.h5ad")
    names = [name.partition(" (")[0] for name in found["labels"]]
    assert set(names) == set(cells.obs["scstore_label"])
    counts = cells.to_df()[found["genes"]] > 0
    expected = counts.groupby(cells.obs["scstore_label"].astype(str).to_numpy()).mean().loc[names]
    np.testing.assert_allclose(found["shares"], expected, atol=1e-3)
    own = [gene for gene in found["genes"] if int(gene.removeprefix("GENE")) < 15]
    assert len(own) >= 6  # each type has five genes of its own


def test_confidence_is_shown_beside_the_heads_own(folder: Path) -> None:
    sure = data(folder / "page.html")["sure"]
    head = scstore.load_head(folder / "head")
    held_out = head.held_out_["n"]
    assert sure["n"] == held_out
    assert sum(sure["confidence"]["held_out"]) == len(head.rejection_.confidence)
    assert sum(sure["confidence"]["cells"]) == 60
    assert sum(sure["novelty"]["held_out"]) > 0
    assert sum(sure["reliability"]["n"]) == held_out


def test_a_file_gives_the_page_that_annotate_wrote(folder: Path, tmp_path: Path, scstore_command: Any) -> None:
    said = scstore_command(
        "--json", "report", folder / "annotated.h5ad", "-o", tmp_path / "p.html", "--head", folder / "head"
    )
    assert json.loads(said.stdout.splitlines()[-1])["output"] == str(tmp_path / "p.html")
    assert data(tmp_path / "p.html") | {"title": ""} == data(folder / "page.html") | {"title": ""}
    with pytest.raises(OutputError):
        report(folder / "annotated.h5ad", tmp_path / "p.html")
    report(folder / "annotated.h5ad", tmp_path / "p.html", overwrite=True)
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    for mine in ("mine.html", "."):
        with pytest.raises(OutputError):
            report(folder / "annotated.h5ad", tmp_path / mine, overwrite=True)


def test_labels_in_a_table_have_a_page_too(folder: Path, tmp_path: Path) -> None:
    scstore.annotate(new_cells(), folder / "head", output=tmp_path / "t.csv", report=tmp_path / "p.html", umap=False)
    assert len(pd.read_csv(tmp_path / "t.csv")) == len(data(tmp_path / "p.html")["ids"]) == 60


def test_nearest_reference_cells_in_the_space_of_the_head(folder: Path, tmp_path: Path) -> None:
    report(folder / "annotated.h5ad", tmp_path / "p.html", head=folder / "head", reference=folder / "ref.h5ad")
    page, reference = data(tmp_path / "p.html"), anndata.read_h5ad(folder / "ref.h5ad")
    near = page["nearest"]
    codes = np.frombuffer(base64.b64decode(near["codes"]), "<i4").reshape(60, near["k"])
    first = [near["about"][code] for code in codes[:, 0]]
    about = reference.obs.loc[[near["ids"][code] for code in codes[:, 0]], ["cell_type", "donor"]].astype(str)
    donors = list(about.agg(", ".join, axis=1))
    assert first == donors
    same = [text.split(",")[0] == kind for text, kind in zip(first, column(page, "leiden"), strict=True)]
    assert np.mean(same) > 0.9


def test_spaces_of_two_heads_are_told_apart(folder: Path, tmp_path: Path) -> None:
    scstore.fit(folder / "ref.h5ad", tmp_path / "other", label="cell_type", group="donor", seed=1)
    again = scstore.annotate(folder / "new.h5ad", tmp_path / "other", umap=False, unassigned="both")
    known = anndata.read_h5ad(folder / "annotated.h5ad")
    assert again.obsm["X_scstore"].shape == known.obsm["X_scstore"].shape
    assert scstore.query(known, folder / "annotated.h5ad", view="X_scstore", k=1).table["distance"].max() < 1e-3
    with pytest.raises(FeatureSpaceError):
        scstore.query(again, folder / "annotated.h5ad", view="X_scstore", k=1)
    with pytest.raises(FeatureSpaceError):
        report(folder / "annotated.h5ad", tmp_path / "p.html", head=tmp_path / "other")


def test_an_evaluation_says_whether_the_model_helped(folder: Path, tmp_path: Path) -> None:
    found = scstore.evaluate(folder / "ref.h5ad", label="cell_type", group="donor")
    scstore.save_evaluation(found, tmp_path / "evaluation", figures=False)
    report(folder / "annotated.h5ad", tmp_path / "p.html", evaluation=tmp_path / "evaluation")
    told = data(tmp_path / "p.html")["evaluation"]
    assert told["says"] == found.conclusion
    regime = found.regimes[0]
    means = [regime.mean_and_sd(row.name, "macro_f1")[0] for row in regime.scored.rows]
    np.testing.assert_allclose([row["mean"] for row in told["rows"]], means)
    (tmp_path / "evaluation" / "evaluation.json").write_text('{"regimes": [{}]}')
    for wrong in ("evaluation", "nothing"):
        with pytest.raises(InputError):
            report(folder / "annotated.h5ad", tmp_path / "q.html", evaluation=tmp_path / wrong)


def test_what_cannot_be_shown_is_refused_first(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "p.html"
    with pytest.raises(CellsError):
        report(folder / "new.h5ad", page)
    with pytest.raises(OptionError):
        report(folder / "annotated.h5ad", page, sample="nothing")
    cells = anndata.read_h5ad(folder / "annotated.h5ad")
    cells.uns["scstore"]["annotation"]["genes"] = "none"
    with pytest.raises(DamagedError):
        report(cells, page)
    assert not page.exists()


def test_names_stay_text_and_nothing_is_fetched(tmp_path: Path) -> None:
    obs, umap, record = nasty_cells()
    page = write_page(describe(obs, umap, record, source=NASTY[4]), tmp_path / "p.html", overwrite=False)
    html = page.read_text("utf-8")
    assert len(re.findall(r"<script", html)) == 2  # the data and the page's own
    assert len(re.findall(r"</script", html)) == 2
    assert "<img" not in html
    found = data(page)
    assert found["ids"] == list(obs.index)
    assert column(found, NASTY[0]) == list(obs[NASTY[0]])
    assert found["genes"]["missing"] == list(NASTY)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    script = html.rpartition("<script>")[2]
    assert not re.findall(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|fetch\(|XMLHttp", script)
    assert set(re.findall(r"https?://[^\"' ]*", html)) == {"http://www.w3.org/2000/svg"}  # the name of SVG's elements


def test_ten_thousand_cells_are_a_small_file(tmp_path: Path) -> None:
    n = 10_000
    obs, umap, record = nasty_cells(n)
    for i in range(30):
        obs[f"number {i}"] = np.arange(n) / 7
    obs.index = [f"AAACCTGAGAAACCAT-{i}" for i in range(n)]
    page = describe(obs, umap, record, source="cells.h5ad")
    assert len(page["left_out"]) == 8
    assert write_page(page, tmp_path / "p.html", overwrite=False).stat().st_size < 5_000_000


def test_colours_are_those_of_the_annotation() -> None:
    obs, umap, record = nasty_cells()
    page = describe(obs, umap, record, source="cells.h5ad")
    labels = list(obs["scstore_label"].cat.categories)
    expected = dict(zip(labels, label_colours(labels), strict=True))
    for name in ("scstore_label", "scstore_best_label"):
        one = next(one for one in page["columns"] if one["name"] == name)
        assert dict(zip(one["values"], one["colours"], strict=True)).items() <= expected.items()
