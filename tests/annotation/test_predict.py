from __future__ import annotations

import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from support import make_cells, write_model

import scstore
from scstore.errors import (
    FarFromReferenceWarning,
    FeatureSpaceError,
    GeneMatchWarning,
    GenesError,
    OptionError,
    OutputError,
    ScstoreWarning,
)
from scstore.progress import Reporter
from scstore.store.ledger import record_path

EMPTY = ["cell5", "cell40"]


class Warnings(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str, kind: type[ScstoreWarning] = ScstoreWarning) -> None:
        self.said.append(message)


def test_cells_get_label_confidence_margin_status(folder: Path) -> None:
    frame = scstore.predict(folder / "new.zarr", folder / "head")
    truth = scstore.open(folder / "new.zarr").obs["cell_type"].astype(str)
    assert list(frame.columns) == [
        "label", "confidence", "status", "reason", "best_label", "second_label", "margin", "novelty"
    ]  # fmt: skip
    assert frame.index.name == "cell_id"
    rest = frame.drop(EMPTY)
    assert (rest["best_label"] == truth.drop(EMPTY)).mean() > 0.9
    assert set(rest["status"]) <= {"ok", "unsure", "far"}
    assert ((rest["label"] == rest["best_label"]) == (rest["status"] == "ok")).all()
    assert (rest["label"] == "unassigned").mean() < 0.3
    assert rest["confidence"].between(1 / 3, 1).all()
    assert (rest["margin"] <= rest["confidence"]).all()


def test_an_empty_cell_is_unassigned(folder: Path) -> None:
    """RELIABILITY 10: heads answer unassigned."""
    row = scstore.predict(folder / "new.zarr", folder / "head").loc["cell5"]
    assert row[["label", "confidence", "margin", "status"]].tolist() == ["unassigned", 0.0, 0.0, "empty"]
    assert row["best_label"] == "unassigned"
    assert np.isnan(row["novelty"])


def test_probabilities_on_request(folder: Path) -> None:
    frame = scstore.predict(folder / "new.zarr", folder / "head", proba=True)
    chances = frame.filter(like="p(").drop(EMPTY)
    assert list(chances.columns) == ["p(type 0)", "p(type 1)", "p(type 2)"]
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    np.testing.assert_allclose(chances.max(axis=1), frame["confidence"].drop(EMPTY))


def test_a_head_from_disk_says_what_the_head_in_memory_says(folder: Path) -> None:
    trained = scstore.fit(folder / "ref.zarr", label="cell_type")
    left, right = (scstore.predict(folder / "new.zarr", head) for head in (trained, folder / "head"))
    pd.testing.assert_frame_equal(left, right)


def test_an_existing_output_is_kept(folder: Path, tmp_path: Path) -> None:
    scstore.predict(folder / "new.zarr", folder / "head", tmp_path / "out.csv")
    with pytest.raises(OutputError):
        scstore.predict(folder / "new.zarr", folder / "head", tmp_path / "out.csv")
    scstore.predict(folder / "new.zarr", folder / "head", tmp_path / "out.csv", overwrite=True)


def test_formulas_and_markup_stay_text(folder: Path, tmp_path: Path) -> None:
    """RELIABILITY 45."""
    cells = make_cells(60)
    names = {"type 0": "=1+1", "type 1": "<b>B</b>", "type 2": 'a"b,c'}
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).map(names)
    cells.obsm["X_pca"] = np.log1p(cells.X.toarray())[:, :15]
    cells.write_h5ad(tmp_path / "s.h5ad")
    head = scstore.fit(tmp_path / "s.h5ad", label="cell_type")
    scstore.predict(tmp_path / "s.h5ad", head, tmp_path / "out.csv", unassigned="none")
    assert set(pd.read_csv(tmp_path / "out.csv")["label"]) == set(names.values())


@pytest.fixture(scope="module")
def of_views(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head that reads all views: by default one that adds nothing is left out."""
    path, views = tmp_path_factory.mktemp("views") / "head", ["readout", "genept", "X"]
    scstore.fit(folder / "ref.zarr", path, label="cell_type", views=views)
    return path


def test_a_head_of_another_feature_space_is_refused_field_by_field(of_views: Path, tmp_path: Path) -> None:
    """RELIABILITY 35."""
    other = write_model(tmp_path / "other", seed=9)
    scstore.extract(make_cells(20), tmp_path / "s.zarr", model=str(other), instruction="cell?")
    with pytest.raises(FeatureSpaceError) as caught:
        scstore.predict(tmp_path / "s.zarr", of_views)
    for field in ("the model", "layout.instruction", "the gene table"):
        assert field in str(caught.value)
    assert "sha256" not in str(caught.value)


def test_a_missing_view_is_refused(of_views: Path, llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 35: view missing."""
    scstore.extract(make_cells(20), tmp_path / "s.zarr", model=str(llama), layers=(1,))
    with pytest.raises(FeatureSpaceError, match="readout_wmean_l3"):
        scstore.predict(tmp_path / "s.zarr", of_views)


def test_an_expression_head_reads_genes_by_name(folder: Path, llama: Path, tmp_path: Path) -> None:
    head = scstore.fit(folder / "ref.zarr", label="cell_type", views=["X"])
    cells = make_cells(41, seed=1)
    first = scstore.predict(folder / "new.zarr", head).drop(EMPTY)
    turned = cells[:, ::-1].copy()
    turned.write_h5ad(tmp_path / "turned.h5ad")
    second = scstore.predict(tmp_path / "turned.h5ad", head).drop(EMPTY)
    pd.testing.assert_frame_equal(first, second, rtol=1e-4, check_categorical=False)


@pytest.fixture(scope="module")
def by_expression(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    scstore.fit(folder / "ref.zarr", path := tmp_path_factory.mktemp("x") / "head", label="cell_type", views=["X"])
    return path


def lacking(path: Path, genes: list[str], *, n: int = 60) -> Path:
    cells = make_cells(n, seed=1)
    cells[:, ~cells.var_names.isin(genes)].copy().write_h5ad(path)
    return path


def test_a_few_genes_that_are_not_measured_are_estimated_and_said(by_expression: Path, tmp_path: Path) -> None:
    fewer = lacking(tmp_path / "fewer.h5ad", ["GENE0", "GENE6", "GENE30"])
    head = scstore.load_head(by_expression)
    symbols = head.record_["genes"]["symbol"]
    importance = dict(zip(symbols, head.gene_importance(), strict=True))
    with pytest.warns(GeneMatchWarning, match="3 of the 40 genes") as seen:
        frame = scstore.predict(fewer, by_expression, unassigned="none")
    first = str(seen[0].message).split("most important: ")[1].split(",")[0]
    assert first == max(("GENE0", "GENE6", "GENE30"), key=importance.__getitem__)
    truth = make_cells(60, seed=1).obs["cell_type"].astype(str)
    assert (frame["label"].to_numpy() == truth.to_numpy()).mean() > 0.9


def test_too_many_missing_genes_are_refused_unless_told(by_expression: Path, tmp_path: Path) -> None:
    bare = lacking(tmp_path / "bare.h5ad", [f"GENE{i}" for i in range(15)])
    with pytest.raises(GenesError, match="GENE") as caught:
        scstore.predict(bare, by_expression)
    assert "min_accuracy=0.8" in str(caught.value)
    with pytest.warns(GeneMatchWarning):
        frame = scstore.predict(bare, by_expression, min_accuracy=0)
    assert len(frame) == 60
    whole = scstore.predict(lacking(tmp_path / "whole.h5ad", []), by_expression)
    assert frame["confidence"].mean() < whole["confidence"].mean() - 0.05
    assert (frame["label"] == "unassigned").mean() > (whole["label"] == "unassigned").mean() + 0.2
    for wrong in (-0.1, 1.5):
        with pytest.raises(OptionError):
            scstore.predict(bare, by_expression, min_accuracy=wrong)


def test_none_of_the_genes_is_refused_whatever_is_said(by_expression: Path, tmp_path: Path) -> None:
    none = make_cells(20, seed=1)
    none.var_names = [f"OTHER{i}" for i in range(40)]
    none.write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(GenesError, match="none"):
        scstore.predict(tmp_path / "none.h5ad", by_expression, min_accuracy=0)


def test_where_most_cells_are_far_they_stay_unassigned(by_expression: Path, tmp_path: Path) -> None:
    cells = make_cells(60, seed=1)
    cells.X = csr_matrix(np.random.default_rng(0).poisson(8.0, cells.shape).astype(np.float32))  # nobody's profile
    cells.write_h5ad(tmp_path / "far.h5ad")
    with pytest.warns(FarFromReferenceWarning):
        frame = scstore.predict(tmp_path / "far.h5ad", by_expression)
    assert (frame["status"] == "far").mean() > 0.5
    assert (frame.loc[frame["status"] == "far", "label"] == "unassigned").all()
    with pytest.warns(FarFromReferenceWarning):
        told = scstore.predict(tmp_path / "far.h5ad", by_expression, unassigned="confidence")
    assert "far" not in set(told["status"])
    pd.testing.assert_series_equal(told["novelty"], frame["novelty"])


def test_cells_that_are_not_extracted_are_left_out_when_allowed(folder: Path, tmp_path: Path) -> None:
    unfinished = Path(shutil.copytree(folder / "new.zarr", tmp_path / "s.zarr"))
    record_path(unfinished, 1).unlink()
    frame = scstore.predict(unfinished, folder / "head", allow_partial=True)
    scstore.annotate(unfinished, folder / "head", output=tmp_path / "o.h5ad", allow_partial=True, umap=False)
    assert len(frame) == anndata.read_h5ad(tmp_path / "o.h5ad").n_obs == 25
    assert "cell20" not in frame.index


def test_embeddings_that_scstore_did_not_make(tmp_path: Path) -> None:
    cells = make_cells(80)
    cells.obsm["X_pca"] = np.log1p(cells.X.toarray())[:, :15]
    cells[:60].copy().write_h5ad(tmp_path / "a.h5ad")
    cells[60:].copy().write_h5ad(tmp_path / "b.h5ad")
    head = scstore.fit(tmp_path / "a.h5ad", tmp_path / "head", label="cell_type", views=["X_pca"])
    assert list(head.views_) == ["X_pca"]
    frame = scstore.predict(tmp_path / "b.h5ad", tmp_path / "head")
    assert (frame["best_label"] == cells[60:].obs["cell_type"].astype(str)).mean() > 0.9
    narrower = cells[60:].copy()
    narrower.obsm["X_pca"] = narrower.obsm["X_pca"][:, :9]
    narrower.write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(FeatureSpaceError, match="width: 15 → 9"):
        scstore.predict(tmp_path / "c.h5ad", tmp_path / "head")


@pytest.mark.parametrize("name", ["out.txt", "out"])
def test_an_unknown_format_is_refused_first(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="out"):
        scstore.predict(folder / "new.zarr", folder / "head", tmp_path / name)
