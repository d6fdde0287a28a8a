from __future__ import annotations

import ast
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from support import Notes, make_cells

import scstore
from scstore.annotation.predict import predict_to_file
from scstore.errors import LabelsError, OptionError
from scstore.reporting.card import model_card

LINEAGE = {"type 0": "T", "type 1": "T", "type 2": "B"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of two levels of labels; types 0 and 1 are hard to tell apart."""
    path = tmp_path_factory.mktemp("levels") / "cells.h5ad"
    cells = make_cells(150)
    rng = np.random.default_rng(3)
    codes = cells.obs["cell_type"].cat.codes.to_numpy()
    centres = np.array([[0, 0, 0], [0, 0, 1.2], [9, 9, 0]])
    cells.obsm["X_emb"] = (centres[codes] + rng.normal(size=(150, 3))).astype(np.float32)
    cells.obs["lineage"] = cells.obs["cell_type"].astype(str).map(LINEAGE)
    cells.obs["spelled"] = cells.obs["cell_type"].astype(str)
    cells.obs.loc[cells.obs.index[:20], "spelled"] = cells.obs["spelled"].iloc[:20].str.replace("type", "Types")
    cells.obs.loc["cell3", "lineage"] = ""
    cells.write_h5ad(path)
    return path


def test_levels_are_consistent_and_back_off(path: Path, tmp_path: Path) -> None:
    notes = Notes()
    head = scstore.fit(
        path, tmp_path / "head", label=["cell_type", "lineage"], views=["X_emb"], keep=0.7, progress=notes
    )
    assert "levels, coarse to fine: lineage (2 labels) > cell_type (3 labels)" in notes.said
    assert any(said.startswith("1 cells are left out") for said in notes.said)
    assert any("1 of 150 cells have no lineage" in said for said in notes.said)
    assert head.record_["label"] == "cell_type"
    assert [level["column"] for level in head.record_["levels"]] == ["lineage", "cell_type"]
    coarse, fine = (level["held_out"]["accuracy"] for level in head.record_["levels"])
    assert coarse > fine
    frame = scstore.predict(path, tmp_path / "head")
    pd.testing.assert_frame_equal(frame, scstore.predict(path, head))
    assert list(frame.columns[8:]) == [
        "label:lineage",
        "confidence:lineage",
        "label:cell_type",
        "confidence:cell_type",
    ]
    assert set(frame["status"]) == {"ok", "coarse", "unsure"}
    ok, backed, unsure = (frame[frame["status"] == status] for status in ("ok", "coarse", "unsure"))
    assert (ok["label"] == ok["label:cell_type"]).all()
    assert (ok["label:lineage"].astype(str) == ok["label:cell_type"].astype(str).map(LINEAGE)).all()
    assert (backed["label"] == backed["label:lineage"]).all()
    assert (backed["label"].astype(str) == backed["best_label"].astype(str).map(LINEAGE)).all()
    assert set(backed["label:cell_type"]) == {"unassigned"}
    assert (backed["confidence:lineage"] > backed["confidence"]).all()
    assert (unsure[["label", "label:lineage", "label:cell_type"]] == "unassigned").all(axis=None)
    lineage = anndata.read_h5ad(path).obs["lineage"].astype(str)
    assert (backed["label"] == lineage[backed.index]).mean() > 0.9


def test_every_cell_gets_all_levels_without_thresholds(path: Path, tmp_path: Path) -> None:
    head = scstore.fit(path, label=("lineage", "cell_type"), views=["X_emb"])
    frame = scstore.predict(path, head, unassigned="none")
    assert set(frame["status"]) == {"ok"}
    assert (frame["label:lineage"].astype(str) == frame["label"].astype(str).map(LINEAGE)).all()
    counts = predict_to_file(path, head, tmp_path / "o.parquet", keep=0.6, majority="lineage")
    obs = scstore.annotate(path, head, keep=0.6, majority="lineage", umap=False).obs
    assert counts.statuses["coarse"] == (obs["scstore_status"] == "coarse").sum() > 0
    assert set(obs["scstore_label:lineage"]) <= {"T", "B", "unassigned"}
    assert set(obs["scstore_majority_label"]) <= {"T", "B", "type 0", "type 1", "type 2", "unassigned"}


def test_far_cells_are_unassigned_at_every_level(path: Path, tmp_path: Path) -> None:
    head = scstore.fit(path, label=["lineage", "cell_type"], views=["X_emb"])
    far = anndata.read_h5ad(path)[:30].copy()
    far.obsm["X_emb"] = far.obsm["X_emb"] + 100
    far.write_h5ad(tmp_path / "far.h5ad")
    frame = scstore.predict(tmp_path / "far.h5ad", head, unassigned="both")
    assert set(frame["status"]) == {"far"}
    assert (frame[["label", "label:lineage", "label:cell_type"]] == "unassigned").all(axis=None)


def test_a_label_in_two_coarser_ones_is_refused_with_the_cells(path: Path) -> None:
    with pytest.raises(LabelsError, match="donor") as caught:
        scstore.fit(path, label=["cell_type", "donor"], views=["X_emb"])
    counts = anndata.read_h5ad(path).obs.groupby("cell_type", observed=True)["donor"].value_counts()
    assert f"type 0: d0 ({counts['type 0', 'd0']} cells), d1 ({counts['type 0', 'd1']} cells)" in str(caught.value)


def test_columns_are_named_once_and_by_heads_that_take_them(path: Path, evaluation_store: Path) -> None:
    for label in ([], ["cell_type", "cell_type"]):
        with pytest.raises(OptionError, match="label="):
            scstore.fit(path, label=label, views=["X_emb"])
    with pytest.raises(OptionError, match="across-genes"):
        scstore.fit(evaluation_store, label=["cell_type", "with_rare"], head="across-genes", allow_partial=True)


def test_words_for_a_missing_label_leave_cells_out(path: Path, tmp_path: Path) -> None:
    notes = Notes()
    head = scstore.fit(path, label="spelled", views=["X_emb"], progress=notes)
    assert len(head.classes_) == 6
    assert any("'type 0' (" in said and "'Types 0' (" in said for said in notes.said)
    words = ["types 0", "types 1", "types 2"]
    head = scstore.fit(path, label="spelled", missing_labels=words, views=["X_emb"])
    assert list(head.classes_) == ["type 0", "type 1", "type 2"]
    assert head.record_["trained_on"]["n_cells"] == 130
    assert head.record_["missing_labels"] == words


@pytest.mark.parametrize("word", ["unassigned", " Unassigned", "heterogeneous"])
def test_words_of_predict_are_not_learned(word: str, path: Path, tmp_path: Path) -> None:
    """RELIABILITY 53: unless the user says that they are missing; and that cure works."""
    cells = anndata.read_h5ad(path)
    cells.obs["kind"] = cells.obs["cell_type"].astype(str)
    cells.obs.loc[cells.obs.index[:20], "kind"] = word
    cells.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(LabelsError) as caught:
        scstore.fit(tmp_path / "a.h5ad", label="kind", views=["X_emb"], missing_labels=["doublet"])
    words = ast.literal_eval(str(caught.value).partition("missing_labels=")[2].rstrip("."))
    head = scstore.fit(tmp_path / "a.h5ad", label="kind", views=["X_emb"], missing_labels=words)
    assert list(head.classes_) == ["type 0", "type 1", "type 2"]


def test_the_card_tells_the_levels_apart(path: Path) -> None:
    head = scstore.fit(path, label=["lineage", "cell_type"], views=["X_emb"])
    card = model_card(head, name="head")
    assert card.index("level lineage") < card.index("level cell_type")
