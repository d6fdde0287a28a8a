from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scstore.annotation.prediction_files import open_predictions_file
from support import make_cells

import scstore
from scstore.annotation.predict import PredictionCounts, predict_to_file
from scstore.errors import CellsError, FarFromReferenceWarning, OptionError, ScstoreWarning
from scstore.heads.fusion import FusedHead
from scstore.heads.rejection import SURE
from scstore.progress import Reporter


class Warnings(Reporter):
    def __init__(self) -> None:
        self.kinds: list[type[ScstoreWarning]] = []

    def warn(self, message: str, kind: type[ScstoreWarning] = ScstoreWarning) -> None:
        self.kinds.append(kind)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Blocks of 10 cells; what every read asked for."""
    asked: list[int] = []
    judged = FusedHead.iter_predictions

    def iter_predictions(self: FusedHead, views: Any, **_: Any) -> Any:
        for start, proba, novelty in judged(self, views, block_rows=10):
            asked.append(len(proba))
            yield start, proba, novelty

    monkeypatch.setattr(FusedHead, "iter_predictions", iter_predictions)
    return asked


@pytest.mark.parametrize("suffix", ["h5ad", "csv", "parquet"])
def test_blocks_join_to_the_whole(suffix: str, folder: Path, tmp_path: Path, small_blocks: list[int]) -> None:
    whole = scstore.predict(folder / "new.zarr", folder / "named", proba=True)
    assert small_blocks == [10, 10, 10, 9] * 2  # once to see whether most cells are far: they are few enough for it
    assert list(whole.index) == [f"cell{i}" for i in range(41)]
    assert list(np.flatnonzero(whole["status"] == "empty")) == [5, 40]
    out = tmp_path / f"out.{suffix}"
    counts = predict_to_file(folder / "new.zarr", folder / "named", out, proba=True)
    assert isinstance(counts, PredictionCounts)
    assert counts.n_cells == 41
    assert counts.cells == whole["label"].value_counts().to_dict()
    assert counts.statuses == whole["status"].value_counts().to_dict()
    for name, total in counts.confidence.items():
        assert total == pytest.approx(whole["confidence"][whole["label"] == name].sum())
    if suffix == "h5ad":
        found = anndata.read_h5ad(out)
        for name in ("label", "status", "best_label"):
            assert list(found.obs[f"scstore_{name}"]) == list(whole[name])
        for name in ("confidence", "margin", "novelty"):
            np.testing.assert_array_equal(found.obs[f"scstore_{name}"], whole[name])
        np.testing.assert_array_equal(found.obsm["scstore_probability"], whole.filter(like="p("))
        assert list(found.uns["scstore_probability_classes"]) == ["CD4/CD8, naïve", "type 1", "type 2"]
    else:
        read = pd.read_csv(out, index_col=0) if suffix == "csv" else pd.read_parquet(out)
        pd.testing.assert_frame_equal(read, whole)


def test_annotating_annotated_cells_replaces_the_answers(folder: Path, tmp_path: Path) -> None:
    predict_to_file(folder / "new.zarr", folder / "named", tmp_path / "a.h5ad", proba=True)
    predict_to_file(tmp_path / "a.h5ad", folder / "named", tmp_path / "b.h5ad", proba=True, unassigned="none")
    first, second = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in "ab")
    assert list(first.obs.columns) == list(second.obs.columns)
    assert list(second.obs["scstore_label"]) == list(second.obs["scstore_best_label"])
    np.testing.assert_array_equal(first.obsm["scstore_probability"], second.obsm["scstore_probability"])
    predict_to_file(tmp_path / "b.h5ad", folder / "named", tmp_path / "c.h5ad")
    third = anndata.read_h5ad(tmp_path / "c.h5ad")  # the probabilities of an earlier prediction are not its own
    assert "scstore_probability" not in third.obsm
    assert "scstore_probability_classes" not in third.uns


def test_why_a_label_is_unassigned(folder: Path) -> None:
    new, head = folder / "new.zarr", folder / "named"
    none = scstore.predict(new, head, unassigned="none")
    assert (none["label"] == none["best_label"]).all()
    strict = {
        rule: scstore.predict(new, head, unassigned=rule, keep=0.5) for rule in ("confidence", "distance", "both")
    }
    sure = strict["confidence"]["confidence"] >= SURE  # is kept, whatever share of the held-out cells is
    assert set(strict["confidence"]["status"][sure]) == {"ok"}
    assert set(strict["confidence"]["status"]) <= {"ok", "unsure", "empty"}
    assert set(strict["distance"]["status"]) == {"ok", "far", "empty"}
    for rule, frame in strict.items():
        loose = scstore.predict(new, head, unassigned=rule, keep=1.0)
        more = (frame["label"] == "unassigned").sum() - (loose["label"] == "unassigned").sum()
        assert more >= 0 if rule == "confidence" else more > 0
        far, unsure = frame[frame["status"] == "far"], frame[frame["status"] == "unsure"]
        kept = frame[frame["status"] == "ok"]
        assert far.empty or far["novelty"].min() > kept["novelty"].max()
        assert unsure.empty or unsure["confidence"].max() < kept["confidence"].min()
        assert (frame.loc[frame["status"] != "ok", "label"] == "unassigned").all()


def test_a_data_set_far_away_is_said(folder: Path, tmp_path: Path) -> None:
    cells = make_cells(40, seed=1)
    cells.obsm["X_new"] = np.log1p(cells.X.toarray())[:, :20]
    cells.write_h5ad(tmp_path / "a.h5ad")
    cells.obsm["X_new"] = 5 * cells.obsm["X_new"][:, ::-1] + 30
    cells.write_h5ad(tmp_path / "b.h5ad")
    head = scstore.fit(tmp_path / "a.h5ad", label="cell_type", views=["X_new"])
    for name, kinds, statuses in (("a", [], {"ok", "unsure"}), ("b", [FarFromReferenceWarning], {"far", "unsure"})):
        notes = Warnings()
        frame = scstore.predict(tmp_path / f"{name}.h5ad", head, progress=notes)
        assert notes.kinds == kinds
        assert set(frame["status"]) <= statuses
        told = scstore.predict(tmp_path / f"{name}.h5ad", head, unassigned="confidence", progress=Warnings())
        assert set(told["status"]) <= {"ok", "unsure"}


def test_a_head_without_thresholds(folder: Path) -> None:
    head = scstore.load_head(folder / "named")
    head.rejection_ = None
    frame = scstore.predict(folder / "new.zarr", head)
    assert set(frame["status"]) == {"ok", "empty"}
    assert frame["novelty"].isna().all()
    for asked in ({"unassigned": "both"}, {"keep": 0.9}):
        with pytest.raises(OptionError, match="the head"):
            scstore.predict(folder / "new.zarr", head, **asked)
    with pytest.raises(OptionError, match="unassigned='often'"):
        scstore.predict(folder / "new.zarr", head, unassigned="often")


@pytest.mark.parametrize("suffix", ["h5ad", "csv", "parquet"])
def test_a_failure_on_the_way_leaves_nothing(suffix: str, folder: Path, tmp_path: Path) -> None:
    """RELIABILITY 43: crash while writing."""
    store, out = scstore.open(folder / "new.zarr"), tmp_path / f"out.{suffix}"
    frame = scstore.predict(store, folder / "named")
    out.write_text("old")
    with (
        pytest.raises(CellsError),
        open_predictions_file(out, store, labels=["CD4/CD8, naïve", "type 1", "type 2"]) as writer,
    ):
        writer.write(frame[:10])
        raise CellsError("row 11")
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]
