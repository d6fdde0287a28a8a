from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from support import make_cells

import scstore
from scstore.errors import FeatureSpaceError, InputError, OptionError, OutputError
from scstore.search import query as query_module


@pytest.fixture(scope="module")
def folder(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("query")
    scstore.extract(make_cells(70), folder / "ref.zarr", model=str(llama), shard_rows=16)
    scstore.extract(make_cells(20, seed=1, empty=2), folder / "new.zarr", like=folder / "ref.zarr")
    return folder


def test_neighbours_are_the_nearest_by_cosine(folder: Path) -> None:
    frame = scstore.query(folder / "new.zarr", folder / "ref.zarr", k=6).table
    reference, new = (scstore.open(folder / f"{n}.zarr").view("readout")[:].astype(float) for n in ("ref", "new"))
    mean = reference.mean(0)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (reference - mean, new - mean)]
    expected = np.sort(1 - unit[1] @ unit[0].T, axis=1)[:, :6]
    got = frame["distance"].to_numpy().reshape(-1, 6)
    np.testing.assert_allclose(got, np.delete(expected, 2, axis=0), atol=1e-4)
    assert frame["rank"].tolist() == [1, 2, 3, 4, 5, 6] * 19
    assert "cell2" not in set(frame["cell_id"])


def test_metadata_of_the_neighbours_comes_along(folder: Path) -> None:
    frame = scstore.query(folder / "new.zarr", folder / "ref.zarr", k=3, columns=["cell_type"]).table
    assert list(frame.columns) == ["cell_id", "rank", "neighbour", "distance", "cell_type"]
    obs = scstore.open(folder / "ref.zarr").obs
    assert frame["cell_type"].astype(str).tolist() == obs["cell_type"].astype(str)[frame["neighbour"]].tolist()
    truth = scstore.open(folder / "new.zarr").obs["cell_type"].astype(str)
    first = frame[frame["rank"] == 1]
    assert (first["cell_type"].astype(str).to_numpy() == truth[first["cell_id"]].to_numpy()).mean() > 0.8


def test_a_cell_finds_itself(folder: Path) -> None:
    frame = scstore.query(folder / "ref.zarr", folder / "ref.zarr", k=1).table
    assert frame["neighbour"].tolist() == frame["cell_id"].tolist()
    np.testing.assert_allclose(frame["distance"], 0, atol=1e-5)


def test_neighbours_show_what_they_are(folder: Path) -> None:
    found = scstore.query(folder / "new.zarr", folder / "ref.zarr", k=3)
    assert (found.n_cells, found.k, found.view) == (19, 3, scstore.open(folder / "ref.zarr").default_view)
    shares = scstore.query(folder / "new.zarr", folder / "ref.zarr", k=3, summarise="cell_type")
    for one, words in ((found, ("19", "57", "neighbour", "median")), (shares, ("19", "n_labelled"))):
        for text in (repr(one), one._repr_html_()):
            assert [word for word in (*words, found.view, "ref.zarr") if word not in text] == []


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_outputs(folder: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"n.{suffix}"
    frame = scstore.query(folder / "new.zarr", folder / "ref.zarr", out, k=2, columns=["donor"]).table
    read = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
    pd.testing.assert_frame_equal(read, frame, check_dtype=False, check_categorical=False, rtol=1e-5)
    with pytest.raises(OutputError):
        scstore.query(folder / "new.zarr", folder / "ref.zarr", out)


@pytest.mark.parametrize("k", [0, 71])
def test_k_is_checked(folder: Path, k: int) -> None:
    """RELIABILITY 42: k larger than the reference."""
    with pytest.raises(OptionError, match=f"k={k}"):
        scstore.query(folder / "new.zarr", folder / "ref.zarr", k=k)


def test_a_filter_that_leaves_too_few(folder: Path) -> None:
    with pytest.raises(OptionError, match="0 cells"):
        scstore.query(folder / "new.zarr", folder / "ref.zarr", k=1, where="donor == 'd7'")


def test_a_query_without_cells_is_an_empty_table(folder: Path, llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 42: empty query."""
    scstore.extract(make_cells(1, empty=0), tmp_path / "none.zarr", like=folder / "ref.zarr")
    frame = scstore.query(tmp_path / "none.zarr", folder / "ref.zarr", k=2).table
    assert len(frame) == 0
    assert "distance" in frame.columns


def test_other_feature_spaces_are_refused(folder: Path, llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 35."""
    scstore.extract(make_cells(10), tmp_path / "s.zarr", model=str(llama), instruction="?")
    with pytest.raises(FeatureSpaceError, match=r"layout\.instruction"):
        scstore.query(tmp_path / "s.zarr", folder / "ref.zarr")


def test_unknown_names_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="tissue"):
        scstore.query(folder / "new.zarr", folder / "ref.zarr", columns=["tissue"])
    with pytest.raises(OptionError):
        scstore.query(folder / "new.zarr", folder / "ref.zarr", view="X")
    with pytest.raises(OutputError):
        scstore.query(folder / "new.zarr", folder / "ref.zarr", "n.txt")


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_file_written_in_blocks_is_the_same_table(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    whole = scstore.query(folder / "new.zarr", folder / "ref.zarr", k=3).table
    monkeypatch.setattr(query_module, "MOST_CELLS", 4)
    out = tmp_path / f"n.{suffix}"
    counts = query_module.query_to_file(folder / "new.zarr", folder / "ref.zarr", out, k=3)
    written = (pd.read_csv if suffix == "csv" else pd.read_parquet)(out)
    assert (counts.n_cells, counts.n_rows, list(counts.table)) == (19, 57, list(whole))
    assert counts.median_distance == pytest.approx(whole["distance"].median())
    assert written["neighbour"].tolist() == whole["neighbour"].tolist()
    np.testing.assert_allclose(written["distance"], whole["distance"], atol=1e-6)


def cells_with(*names: str, n: int = 20, seed: int = 0) -> anndata.AnnData:
    """Cells of no store with such matrices."""
    rng = np.random.default_rng(seed)
    return anndata.AnnData(obs=make_cells(n).obs, obsm={name: rng.normal(size=(n, 4)) for name in names})


def test_the_view_that_both_have(folder: Path, tmp_path: Path) -> None:
    known = cells_with("X_pca", "X_umap", "X_scVI")
    assert scstore.query(cells_with("X_umap", "X_pca", seed=1), known, k=2).view == "X_pca"
    assert scstore.query(cells_with("X_umap", seed=1), known, k=2).view == "X_umap"
    with pytest.raises(OptionError, match="'X_pca', 'X_scVI'"):
        scstore.query(cells_with("X_scVI", "X_pca"), known, k=2)
    with pytest.raises(OptionError, match="like="):
        scstore.query(cells_with("X_other"), known, k=2)
    store = scstore.open(folder / "ref.zarr")
    exported = store.to_anndata(["genept", "readout"])
    foreign = anndata.AnnData(obs=exported.obs, obsm={"genept": exported.obsm["genept"]})
    with pytest.raises(FeatureSpaceError):  # of the same name, but nobody knows what is in it
        scstore.query(foreign, folder / "ref.zarr", k=2)


def test_options_by_name(folder: Path) -> None:
    with pytest.raises(OptionError, match="columns="):
        scstore.query(store=folder / "new.zarr", reference=folder / "ref.zarr", column=["donor"])
    with pytest.raises(OptionError, match="output="):
        query_module.query_to_file(folder / "new.zarr", folder / "ref.zarr")
