from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from support import make_cells, make_store

import scstore
from scstore import fsio
from scstore.errors import IncompleteStoreError, InputError, LabelsError, OptionError, OutputError
from scstore.store.ledger import record_path


@pytest.fixture(scope="module")
def path(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "ref.zarr"
    cells = make_cells(90, empty=3)
    cells.obs["partly"] = cells.obs["cell_type"].astype(str).where(np.arange(90) % 2 == 0)
    cells.obs["constant"] = "a"
    cells.obs["nothing"] = np.nan
    cells.obs["hole"] = cells.obs["donor"].where(np.arange(90) != 7)
    cells.obs["few"] = cells.obs["cell_type"].astype(str).where(np.arange(90) < 20)
    cells.obs["lab"] = np.arange(90) % 3
    make_store(cells, path, llama, shard_rows=30)
    return path


@pytest.mark.parametrize(("head", "views"), [("linear", None), ("mlp", ["genept"]), ("knn", ["genept"])])
def test_every_head_learns(path: Path, tmp_path: Path, head: str, views: list[str] | None) -> None:
    trained = scstore.fit(path, tmp_path / "head", label="cell_type", head=head, views=views)
    if views is None:  # expression is always read, other views where they add something
        assert "X" in trained.views_
        assert {*trained.views_, *trained.record_["left_out_views"]} == {"readout_wmean_l3", "genept", "X"}
    else:
        assert list(trained.views_) == views
    assert trained.held_out_["accuracy"] > 0.9
    loaded = scstore.load_head(tmp_path / "head")
    record = loaded.record_
    assert record["trained_on"]["n_cells"] == 89  # the empty cell is left out
    assert record["trained_on"]["name"] == "ref.zarr"
    assert list(loaded.classes_) == ["type 0", "type 1", "type 2"]


def test_the_same_seed_gives_the_same_head_byte_for_byte(path: Path, tmp_path: Path) -> None:
    short = {"epochs": 5}
    for name in ("a", "b"):
        scstore.fit(path, tmp_path / name, label="cell_type", head="mlp", views=["readout"], params=short, seed=4)
    scstore.fit(path, tmp_path / "c", label="cell_type", head="mlp", views=["readout"], params=short, seed=5)
    a, b, c = (fsio.digest_tree(tmp_path / name) for name in "abc")
    assert a == b != c


def test_cells_without_a_label_are_left_out(path: Path, tmp_path: Path) -> None:
    """RELIABILITY 42: a label column with missing values."""
    scstore.fit(path, tmp_path / "head", label="partly", views=["genept"])
    record = scstore.load_head(tmp_path / "head").record_
    assert record["trained_on"]["n_cells"] == 45


@pytest.mark.parametrize(
    ("label", "word"), [("constant", "one class"), ("nothing", "no cell has"), ("no", "cell_type")]
)
def test_labels_that_cannot_be_learned_are_refused(path: Path, tmp_path: Path, label: str, word: str) -> None:
    """RELIABILITY 42: one class."""
    with pytest.raises(LabelsError, match=word):
        scstore.fit(path, tmp_path / "head", label=label, views=["genept"])
    assert not (tmp_path / "head").exists()


def test_an_unfinished_store_is_refused_unless_allowed_and_recorded(path: Path, tmp_path: Path) -> None:
    """RELIABILITY 32."""
    unfinished = Path(shutil.copytree(path, tmp_path / "s.zarr"))
    record_path(unfinished, 2).unlink()
    with pytest.raises(IncompleteStoreError):
        scstore.fit(unfinished, tmp_path / "head", label="cell_type")
    scstore.fit(unfinished, tmp_path / "head", label="cell_type", views=["genept"], allow_partial=True)
    record = scstore.load_head(tmp_path / "head").record_
    assert record["trained_on"]["partial"] is True
    assert record["trained_on"]["n_cells"] == 59


def test_an_existing_head_is_kept(path: Path, tmp_path: Path) -> None:
    (tmp_path / "head").mkdir()
    with pytest.raises(OutputError):
        scstore.fit(path, tmp_path / "head", label="cell_type")


def test_options_are_checked(path: Path) -> None:
    with pytest.raises(InputError, match="no view"):
        scstore.fit(path, label="cell_type", views=["scvi"])
    with pytest.raises(OptionError, match="views="):
        scstore.fit(path, label="cell_type", views=["readout", "readout_wmean_l3"])
    with pytest.raises(InputError, match="svm"):
        scstore.fit(path, label="cell_type", head="svm")


def test_parameters_reach_the_estimator(path: Path) -> None:
    weak = scstore.fit(path, label="cell_type", views=["genept"], params={"C": 1e-6})
    strong = scstore.fit(path, label="cell_type", views=["genept"], params={"C": 10.0})
    weights = [np.abs(head.members_["genept"].head.coef_).max() for head in (weak, strong)]  # type: ignore[attr-defined]
    assert weights[0] < 0.1 * weights[1]
    with pytest.raises(InputError, match="gamma"):
        scstore.fit(path, label="cell_type", views=["genept"], params={"gamma": 1})


def test_whole_groups_are_held_out_and_recorded(path: Path, tmp_path: Path) -> None:
    head = scstore.fit(path, tmp_path / "head", label="cell_type", views=["X"], group="lab")
    plain = scstore.fit(path, label="cell_type", views=["X"])
    assert head.record_["group"] == "lab"
    assert scstore.load_head(tmp_path / "head").record_["group"] == "lab"
    assert plain.record_["group"] is None
    assert head.held_out_["n"] == 89
    assert not np.array_equal(head.held_out_proba_, plain.held_out_proba_)


@pytest.mark.parametrize(
    ("group", "word"),
    [("hole", "1 labelled cell"), ("constant", "one value"), ("doner", "donor"), ("nothing", "nothing")],
)
def test_groups_that_cannot_be_held_out_are_refused(path: Path, tmp_path: Path, group: str, word: str) -> None:
    with pytest.raises(LabelsError, match=word):
        scstore.fit(path, tmp_path / "head", label="cell_type", views=["X"], group=group)
    assert not (tmp_path / "head").exists()


@pytest.mark.parametrize(("label", "all_cells"), [("few", True), ("partly", False)])
def test_few_labels_learn_the_genes_from_all_cells(path: Path, label: str, all_cells: bool) -> None:
    store = scstore.open(path)
    reducer = scstore.fit(path, label=label, views=["X"]).members_["X"].reducer  # type: ignore[union-attr]
    assert reducer is not None
    rows = np.arange(90) != 3 if all_cells else np.arange(90) % 2 == 0
    X = store.view("X")[:].toarray()[rows]
    np.testing.assert_allclose(reducer.mean, X[:, reducer.selected].mean(axis=0), rtol=1e-4)
