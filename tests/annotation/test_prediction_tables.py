from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import make_cells, read_xlsx

import scstore
from scstore.annotation import predict as module
from scstore.annotation import prediction_frames
from scstore.annotation.predict import PredictionCounts, predict_to_file
from scstore.errors import CellsError, FarFromReferenceWarning, OptionError, OutputError, ScstoreWarning
from scstore.heads.rejection import SURE
from scstore.progress import Reporter
from scstore.tables import FORMATS, open_table


class Warnings(Reporter):
    def __init__(self) -> None:
        self.kinds: list[type[ScstoreWarning]] = []

    def warn(self, message: str, kind: type[ScstoreWarning] = ScstoreWarning) -> None:
        self.kinds.append(kind)


def table(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".xlsx":
        rows = read_xlsx(path)
        return pd.DataFrame(rows[1:], columns=rows[0]).set_index("cell_id")
    return pd.read_csv(path, index_col=0, sep="\t" if path.suffix == ".tsv" else ",", keep_default_na=False)


@pytest.mark.parametrize("suffix", FORMATS)
def test_blocks_join_to_the_whole(suffix: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scstore.predict(folder / "new.zarr", folder / "named", proba=True)
    monkeypatch.setattr(prediction_frames, "BLOCK", 10)
    pd.testing.assert_frame_equal(scstore.predict(folder / "new.zarr", folder / "named", proba=True), whole)
    assert list(whole.index) == [f"cell{i}" for i in range(41)]
    assert list(np.flatnonzero(whole["status"] == "empty")) == [5, 40]
    assert (whole["second_label"][whole["status"] != "empty"] != whole["best_label"][whole["status"] != "empty"]).all()
    out = tmp_path / f"out{suffix}"
    counts = predict_to_file(folder / "new.zarr", folder / "named", out, proba=True)
    assert isinstance(counts, PredictionCounts)
    assert counts.n_cells == 41
    assert counts.cells == whole["label"].value_counts().to_dict()
    assert counts.statuses == whole["status"].value_counts().to_dict()
    for name, total in counts.confidence.items():
        assert total == pytest.approx(whole["confidence"][whole["label"] == name].sum())
    found = table(out)
    assert list(found.columns) == list(whole.columns)
    assert list(found.index) == list(whole.index)
    for name in ("label", "status", "reason", "best_label", "second_label"):
        assert [text or "" for text in found[name]] == list(whole[name])
    for name in ("confidence", "margin", "p(type 1)"):
        assert found[name].astype(float).tolist() == [float(f"{value:.4g}") for value in whole[name]]


def test_the_doubtful_cells_alone(folder: Path, tmp_path: Path) -> None:
    whole = scstore.predict(folder / "new.zarr", folder / "named", keep=0.5)
    out = tmp_path / "doubtful.csv"
    counts = predict_to_file(folder / "new.zarr", folder / "named", out, keep=0.5, only_unassigned=True)
    assert counts.n_cells == 41
    assert list(table(out).index) == list(whole.index[whole["status"] != "ok"])


def test_cells_are_no_table(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        predict_to_file(folder / "new.zarr", folder / "named", tmp_path / "annotated.h5ad")


def test_text_is_text_in_excel(tmp_path: Path) -> None:
    frame = pd.DataFrame({"label": ["=1+1", "http://x.y", 'a"b<&>'], "confidence": [0.5, np.nan, 1.0]})
    with open_table(tmp_path / "t.xlsx") as writer:
        writer.write(frame)
    assert read_xlsx(tmp_path / "t.xlsx") == [
        ["label", "confidence"],
        ["=1+1", "0.5"],
        ["http://x.y", ""],
        ['a"b<&>', "1"],
    ]


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


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_failure_on_the_way_leaves_nothing(suffix: str, folder: Path, tmp_path: Path) -> None:
    """RELIABILITY 43: crash while writing."""
    out = tmp_path / f"out{suffix}"
    frame = scstore.predict(folder / "new.zarr", folder / "named")
    out.write_text("old")

    def frames() -> Iterator[Any]:
        yield frame[:10]
        raise CellsError("row 11")

    with pytest.raises(CellsError):
        list(module.write_frames(frames(), out, module.LabelOptions(overwrite=True)))
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]
