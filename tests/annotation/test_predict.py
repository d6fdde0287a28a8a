from __future__ import annotations

import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from support import make_cells, write_model

import scstore
from scstore.errors import FeatureSpaceError, GenesError, OutputError
from scstore.progress import Reporter
from scstore.store.layout import record_path


class Warnings(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def folder(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference, a head trained on it, and new cells of which one is empty."""
    folder = tmp_path_factory.mktemp("predict")
    scstore.extract(make_cells(90), folder / "ref.zarr", model=str(llama))
    scstore.extract(make_cells(40, seed=1, empty=5), folder / "new.zarr", like=folder / "ref.zarr", shard_rows=16)
    scstore.fit(folder / "ref.zarr", folder / "head", label="cell_type")
    return folder


def test_cells_get_label_confidence_margin_status(folder: Path) -> None:
    frame = scstore.predict(folder / "new.zarr", folder / "head")
    truth = scstore.open(folder / "new.zarr").obs["cell_type"].astype(str)
    assert list(frame.columns) == ["label", "confidence", "margin", "status", "novelty", "best_label"]
    assert frame.index.name == "cell_id"
    rest = frame.drop("cell5")
    assert (rest["best_label"] == truth.drop("cell5")).mean() > 0.9
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
    chances = frame.filter(like="p(").drop("cell5")
    assert list(chances.columns) == ["p(type 0)", "p(type 1)", "p(type 2)"]
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    np.testing.assert_allclose(chances.max(axis=1), frame["confidence"].drop("cell5"))


def test_a_head_from_disk_says_what_the_head_in_memory_says(folder: Path) -> None:
    trained = scstore.fit(folder / "ref.zarr", label="cell_type")
    left, right = (scstore.predict(folder / "new.zarr", head) for head in (trained, folder / "head"))
    pd.testing.assert_frame_equal(left, right)


@pytest.mark.parametrize("suffix", ["h5ad", "csv", "parquet"])
def test_every_output_holds_the_same(folder: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out.{suffix}"
    frame = scstore.predict(folder / "new.zarr", folder / "head", out, proba=True)
    if suffix == "h5ad":
        adata = anndata.read_h5ad(out)
        assert list(adata.obs["scstore_label"]) == list(frame["label"])
        np.testing.assert_array_equal(adata.obs["scstore_confidence"], frame["confidence"])
        np.testing.assert_array_equal(adata.obsm["scstore_probability"], frame.filter(like="p("))
        assert "readout_wmean_l3" in adata.obsm
        assert adata.X is not None
    else:
        read = pd.read_csv(out, index_col=0) if suffix == "csv" else pd.read_parquet(out)
        pd.testing.assert_frame_equal(read, frame)
    with pytest.raises(OutputError, match="--overwrite"):
        scstore.predict(folder / "new.zarr", folder / "head", out)
    scstore.predict(folder / "new.zarr", folder / "head", out, overwrite=True)


def test_formulas_and_markup_stay_text(llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 45."""
    cells = make_cells(60)
    names = {"type 0": "=1+1", "type 1": "<b>B</b>", "type 2": 'a"b,c'}
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).map(names)
    scstore.extract(cells, tmp_path / "s.zarr", model=str(llama))
    head = scstore.fit(tmp_path / "s.zarr", label="cell_type", views=["genept"])
    scstore.predict(tmp_path / "s.zarr", head, tmp_path / "out.csv", unassigned="none")
    assert set(pd.read_csv(tmp_path / "out.csv")["label"]) == set(names.values())


def test_a_head_of_another_feature_space_is_refused_field_by_field(folder: Path, tmp_path: Path) -> None:
    """RELIABILITY 35."""
    other = write_model(tmp_path / "other", seed=9)
    scstore.extract(make_cells(20), tmp_path / "s.zarr", model=str(other), instruction="cell?")
    with pytest.raises(FeatureSpaceError) as caught:
        scstore.predict(tmp_path / "s.zarr", folder / "head")
    for field in ("model.digest", "layout.instruction", "genes.digest", "--like"):
        assert field in str(caught.value)


def test_a_missing_view_is_refused(folder: Path, llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 35: view missing."""
    scstore.extract(make_cells(20), tmp_path / "s.zarr", model=str(llama), layers=(1,))
    with pytest.raises(FeatureSpaceError, match="view readout_wmean_l3.*does not have"):
        scstore.predict(tmp_path / "s.zarr", folder / "head")


def test_an_expression_head_reads_genes_by_name(folder: Path, llama: Path, tmp_path: Path) -> None:
    head = scstore.fit(folder / "ref.zarr", label="cell_type", views=["X"])
    cells = make_cells(40, seed=1)
    first = scstore.predict(folder / "new.zarr", head).drop("cell5")
    turned = cells[:, ::-1].copy()
    turned.write_h5ad(tmp_path / "turned.h5ad")
    second = scstore.predict(tmp_path / "turned.h5ad", head).drop("cell5")
    pd.testing.assert_frame_equal(first, second, rtol=1e-4)


def test_genes_that_are_not_measured_are_said(folder: Path, tmp_path: Path) -> None:
    head = scstore.fit(folder / "ref.zarr", label="cell_type", views=["X"])
    fewer = make_cells(20, seed=1)[:, 3:].copy()
    fewer.write_h5ad(tmp_path / "fewer.h5ad")
    warnings = Warnings()
    frame = scstore.predict(tmp_path / "fewer.h5ad", head, progress=warnings)
    assert any("genes whose expression the head reads are not in" in said for said in warnings.said)
    assert len(frame) == 20
    none = make_cells(20, seed=1)
    none.var_names = [f"OTHER{i}" for i in range(40)]
    none.write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(GenesError, match="none of them"):
        scstore.predict(tmp_path / "none.h5ad", head)


def test_cells_that_are_not_extracted_are_left_out_when_allowed(folder: Path, tmp_path: Path) -> None:
    unfinished = Path(shutil.copytree(folder / "new.zarr", tmp_path / "s.zarr"))
    record_path(unfinished, 1).unlink()
    frame = scstore.predict(unfinished, folder / "head", tmp_path / "o.h5ad", allow_partial=True)
    assert len(frame) == anndata.read_h5ad(tmp_path / "o.h5ad").n_obs == 24
    assert "cell20" not in frame.index


def test_embeddings_that_scstore_did_not_make(tmp_path: Path) -> None:
    cells = make_cells(80)
    cells.obsm["X_pca"] = np.log1p(cells.X.toarray())[:, :15]
    cells[:60].copy().write_h5ad(tmp_path / "a.h5ad")
    cells[60:].copy().write_h5ad(tmp_path / "b.h5ad")
    head = scstore.fit(tmp_path / "a.h5ad", tmp_path / "head", label="cell_type")
    assert list(head.views_) == ["X_pca"]
    frame = scstore.predict(tmp_path / "b.h5ad", tmp_path / "head")
    assert (frame["best_label"] == cells[60:].obs["cell_type"].astype(str)).mean() > 0.9
    scstore.predict(tmp_path / "b.h5ad", tmp_path / "head", tmp_path / "out.h5ad")
    annotated = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(annotated.X.toarray(), cells[60:].X.toarray())  # the counts are still counts
    assert list(annotated.obs["scstore_label"]) == list(frame["label"])
    narrower = cells[60:].copy()
    narrower.obsm["X_pca"] = narrower.obsm["X_pca"][:, :9]
    narrower.write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(FeatureSpaceError, match="width: 15 → 9"):
        scstore.predict(tmp_path / "c.h5ad", tmp_path / "head")


@pytest.mark.parametrize("name", ["out.txt", "out"])
def test_an_unknown_format_is_refused_first(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"\.h5ad, \.csv, \.parquet"):
        scstore.predict(folder / "new.zarr", folder / "head", tmp_path / name)
