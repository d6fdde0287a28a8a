from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from support import Run, make_cells

import scstore
from scstore.errors import InputError, OptionError
from scstore.search import query as query_module
from scstore.search.query import SearchOptions
from scstore.search.summarise import query_summary

NEIGHBOURS = pd.DataFrame(
    {
        "cell_id": ["a", "a", "a", "b", "b", "b", "c", "c", "c"],
        "rank": [1, 2, 3] * 3,
        "type": pd.Categorical(["T", "T", "B", "NK", None, "B", None, None, None], ["T", "NK", "B", "unused"]),
        "age": [1, 1, 2, 1, 1, 1, 3, 3, 3],
    }
)


def test_shares_and_coherence_by_hand() -> None:
    table = scstore.summarise(NEIGHBOURS, "type").set_index("cell_id")
    assert list(table.columns) == ["n_labelled", "label", "fraction", "coherence", "f(T)", "f(NK)", "f(B)"]
    assert table["n_labelled"].tolist() == [3, 2, 0]
    assert table["label"].tolist()[:2] == ["T", "NK"]
    np.testing.assert_allclose(table["coherence"], [4 / 9 + 1 / 9, 1 / 2, np.nan])
    np.testing.assert_allclose(table["fraction"], [2 / 3, 1 / 2, np.nan])
    np.testing.assert_allclose(table[["f(T)", "f(NK)", "f(B)"]].sum(axis=1), [1, 1, 0])
    assert table.loc["c", "label"] is None


def test_clusters_pool_their_cells() -> None:
    clusters = pd.Series(["x", "x", None], index=["a", "b", "c"], name="leiden")
    table = scstore.summarise(NEIGHBOURS, "type", clusters=clusters)
    assert table["leiden"].tolist() == ["x"]
    assert table[["n_cells", "n_labelled"]].to_numpy().tolist() == [[2, 5]]
    np.testing.assert_allclose(table[["f(T)", "f(NK)", "f(B)"]], [[2 / 5, 1 / 5, 2 / 5]])
    np.testing.assert_allclose(table["coherence"], 9 / 25)
    np.testing.assert_allclose(table["cell_coherence"], (5 / 9 + 1 / 2) / 2)
    assert table["label"].tolist() == ["T"]


def test_columns_of_numbers_are_labels_too() -> None:
    assert scstore.summarise(NEIGHBOURS, "age")["label"].tolist() == ["1", "1", "3"]


def test_no_cells_and_no_labels() -> None:
    assert len(scstore.summarise(NEIGHBOURS[:0], "type")) == 0
    unlabelled = scstore.summarise(NEIGHBOURS.assign(type=None), "type")
    assert unlabelled["label"].tolist() == [None] * 3
    assert unlabelled["coherence"].isna().all()


def test_what_cannot_be_summed_up_is_refused() -> None:
    with pytest.raises(InputError, match="--summarise tissue.*cell_id, rank, type"):
        scstore.summarise(NEIGHBOURS, "tissue")
    many = pd.DataFrame({"cell_id": "a", "rank": range(1, 1003), "barcode": [f"b{i}" for i in range(1002)]})
    with pytest.raises(OptionError, match="1,002 different values"):
        scstore.summarise(many, "barcode")
    with pytest.raises(InputError, match=r"--by.*2 cells.*'b'"):
        scstore.summarise(NEIGHBOURS, "type", clusters=pd.Series(["x"], index=["a"]))


def test_the_command(scstore_command: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = make_cells(80)
    made = anndata.AnnData(obs=cells.obs.assign(leiden=[str(i % 3) for i in range(80)]))
    made.obsm["X_pca"] = 5 * np.eye(6)[cells.obs["cell_type"].cat.codes] + rng.normal(size=(80, 6))
    made.write_h5ad(tmp_path / "a.h5ad")
    words = ("query", "a.h5ad", "--reference", "a.h5ad", "-k", "5", "--summarise", "cell_type")
    done = scstore_command(*words, "-o", "cells.parquet")
    assert "mean coherence" in done.stdout
    assert "by chance" in done.stdout
    by_cell = pd.read_parquet(tmp_path / "cells.parquet")
    assert (by_cell["label"].to_numpy() == cells.obs["cell_type"].astype(str).to_numpy()).mean() > 0.9
    done = scstore_command(*words, "--by", "leiden", "--where", "donor == 'd0'", "-o", "clusters.csv")
    assert "leiden" in done.stdout
    assert "--column" in scstore_command(*words, "--column", "donor", "-o", "x.csv", code=2).stderr
    clusters = pd.read_csv(tmp_path / "clusters.csv")
    assert clusters["n_cells"].sum() == 80


@pytest.mark.parametrize("by", [None, "leiden"])
def test_blocks_sum_up_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str | None) -> None:
    rng = np.random.default_rng(1)
    cells = make_cells(60)
    obs = cells.obs.assign(
        leiden=pd.Categorical([f"c{i % 3}" if i % 7 else None for i in range(60)], [*"x", "c0", "c1", "c2"])
    )
    obs["cell_type"] = obs["cell_type"].astype(str).where(rng.random(60) > 0.3)
    made = anndata.AnnData(obs=obs)
    made.obsm["X_pca"] = rng.normal(size=(60, 6))
    made.write_h5ad(tmp_path / "a.h5ad")
    neighbours = scstore.query(tmp_path / "a.h5ad", tmp_path / "a.h5ad", k=2)
    whole = scstore.summarise(neighbours, "cell_type", clusters=None if by is None else obs[by])
    monkeypatch.setattr(query_module, "TABLE_CELLS", 7)
    out = tmp_path / "o.parquet"
    found = query_summary(tmp_path / "a.h5ad", tmp_path / "a.h5ad", out, SearchOptions(k=2), column="cell_type", by=by)
    assert (found.n_rows, found.columns) == (len(whole), tuple(whole.columns))
    assert (found.clusters is None) == (by is None)
    assert found.mean_coherence == pytest.approx(whole["coherence"].mean())
    pd.testing.assert_frame_equal(pd.read_parquet(out), whole)


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    made = anndata.AnnData(obs=make_cells(20).obs)
    made.obsm["X_pca"] = np.eye(20)
    made.write_h5ad(tmp_path / "a.h5ad")
    for column, by, told in (("cell_type", "leiden", "--by leiden"), ("tissue", None, "--summarise tissue")):
        with pytest.raises(InputError, match=f"{told}.*no such obs column.*cell_type, donor"):
            query_summary(tmp_path / "a.h5ad", tmp_path / "a.h5ad", tmp_path / "x.csv", column=column, by=by)
