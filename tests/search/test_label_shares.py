from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from support import make_cells

import scstore
from scstore.errors import InputError, OptionError
from scstore.search import query as query_module
from scstore.search.label_shares import LabelShares

LABELS = ["T", "T", "B", "NK", None, None]
PLACES = np.array([[0, 1, 2], [3, 4, 2], [4, 5, 4]])


def test_shares_and_coherence_by_hand() -> None:
    table = LabelShares("type", LABELS, groups=None).by_cell(np.array(["a", "b", "c"], dtype=object), PLACES)
    assert list(table.columns) == ["cell_id", "n_labelled", "label", "fraction", "coherence", "f(B)", "f(NK)", "f(T)"]
    assert table["n_labelled"].tolist() == [3, 2, 0]
    assert [one if isinstance(one, str) else None for one in table["label"]] == ["T", "B", None]
    np.testing.assert_allclose(table["coherence"], [4 / 9 + 1 / 9, 1 / 2, np.nan])
    np.testing.assert_allclose(table["fraction"], [2 / 3, 1 / 2, np.nan])
    np.testing.assert_allclose(table[["f(B)", "f(NK)", "f(T)"]].sum(axis=1), [1, 1, 0])


def test_groups_pool_their_cells() -> None:
    shares = LabelShares("type", LABELS, groups=pd.Series(["x", "x", None, "y"], name="leiden"))
    shares.add(np.array([0, 1]), PLACES[:2])
    shares.add(np.array([2]), PLACES[2:])
    table = shares.by_group()
    assert table["leiden"].tolist() == ["x"]
    assert table["n_labelled"].tolist() == [5]
    np.testing.assert_allclose(table[["f(B)", "f(NK)", "f(T)"]], [[2 / 5, 1 / 5, 2 / 5]])
    np.testing.assert_allclose(table["coherence"], 9 / 25)


def test_too_many_labels_are_refused() -> None:
    with pytest.raises(OptionError):
        LabelShares("barcode", [f"b{i}" for i in range(1001)], groups=None)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    obs = make_cells(60).obs.assign(leiden=pd.Categorical([f"c{i % 3}" if i % 7 else None for i in range(60)]))
    obs["cell_type"] = obs["cell_type"].astype(str).where(rng.random(60) > 0.3, "unknown")
    made = anndata.AnnData(obs=obs)
    made.obsm["X_pca"] = rng.normal(size=(60, 6))
    path = tmp_path_factory.mktemp("shares") / "a.h5ad"
    made.write_h5ad(path)
    return path


@pytest.mark.parametrize("by", [None, "leiden"])
def test_query_gives_the_shares_of_its_neighbours(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str | None
) -> None:
    neighbours = scstore.query(reference, reference, k=3).table
    monkeypatch.setattr(query_module, "TABLE_CELLS", 7)
    out = tmp_path / "o.parquet"
    table = scstore.query(reference, reference, out, k=3, summarise="cell_type", by=by).table
    key = neighbours["cell_id"] if by is None else scstore.open(reference).obs["leiden"][neighbours["cell_id"]].array
    labels = neighbours["cell_type"].astype(str)
    wanted = pd.crosstab(
        np.asarray(key)[labels != "unknown"], labels[labels != "unknown"].to_numpy(), normalize="index"
    )
    found = table.set_index(table.columns[0]).filter(like="f(").reindex(wanted.index)
    np.testing.assert_allclose(found, wanted)
    pd.testing.assert_frame_equal(pd.read_parquet(out), table)


def test_columns_that_are_not_there(reference: Path) -> None:
    with pytest.raises(InputError, match="Did you mean cell_type"):
        scstore.query(reference, reference, summarise="celltype")
    with pytest.raises(InputError, match="clusters"):
        scstore.query(reference, reference, summarise="cell_type", by="clusters")
    with pytest.raises(OptionError):
        scstore.query(reference, reference, by="leiden")
