from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import make_evaluation_cells

import scstore
from scstore.errors import MissingExtraError, OutputError
from scstore.evaluation.result import Evaluation
from scstore.reporting import evaluation_files
from scstore.reporting.evaluation_files import save_evaluation


@pytest.fixture(scope="module")
def evaluation(evaluation_store: Path) -> Evaluation:
    views = ["readout", "default", "genept", "X", "genept_random+X", "regression"]
    return scstore.evaluate(evaluation_store, label="cell_type", views=views, folds=2, few_shot=[3])


@pytest.fixture(scope="module")
def folder(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_evaluation(evaluation, tmp_path_factory.mktemp("saved") / "evaluation")


def test_every_file_can_be_read(evaluation: Evaluation, folder: Path) -> None:
    names = {"evaluation.json", "evaluation.csv", "evaluation.txt", "predictions.parquet"}
    names |= {f"{figure}.{suffix}" for figure in ("metrics", "confusion", "umap") for suffix in ("svg", "png")}
    assert {file.name for file in folder.iterdir()} == names
    numbers = json.loads((folder / "evaluation.json").read_text())
    assert numbers == json.loads(json.dumps(evaluation.as_json()))
    assert [regime["name"] for regime in numbers["regimes"]] == ["folds", "few-shot 3"]
    first = numbers["regimes"][0]["rows"][0]
    scores = pd.read_csv(folder / "evaluation.csv")
    assert set(scores["metric"]) >= {"accuracy", "macro_f1", "auroc", "ece"}
    mine = scores.query("regime == 'folds' and row == @first['name'] and metric == 'macro_f1'")["value"]
    assert mine.mean() == pytest.approx(first["metrics"]["macro_f1"]["mean"])
    assert mine.std() == pytest.approx(first["metrics"]["macro_f1"]["sd"])
    assert set(first["by_class"]) == {"type 0", "type 1", "type 2"}
    assert sum(of["support"] for of in first["by_class"].values()) == 125
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert set(predictions["regime"]) == {"folds", "few-shot 3"}


def test_the_tables_are_those_that_are_printed(evaluation: Evaluation, folder: Path) -> None:
    text = (folder / "evaluation.txt").read_text()
    assert text.splitlines() == evaluation.lines(wide=True)
    assert sum(line.startswith("readout_wmean_l3 ") for line in text.splitlines()) >= 2  # folds, few-shot
    assert text.startswith("On your cells the language model")
    assert "- genept_random+X" in text


def test_the_figures_are_text_and_the_same_every_time(evaluation: Evaluation, folder: Path, tmp_path: Path) -> None:
    again = save_evaluation(evaluation, tmp_path / "again")
    for file in folder.iterdir():
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (file, again / file.name)]
        assert digests[0] == digests[1], file.name
    for name in ("metrics", "confusion", "umap"):
        svg = (folder / f"{name}.svg").read_text()
        assert "<text" in svg
        assert "<dc:date>" not in svg
    assert "default head" in (folder / "metrics.svg").read_text()
    assert evaluation.conclusion[:30] in (folder / "metrics.svg").read_text()
    assert "logistic regression on expression" in (folder / "confusion.svg").read_text()
    umap = (folder / "umap.svg").read_text()
    for title in ("GenePT-w", "language model (weighted mean, layer 3)", "type 2"):
        assert title in umap
    assert "random" not in umap  # nobody asked for it


def test_an_existing_folder_is_kept_and_only_an_evaluation_is_replaced(evaluation: Evaluation, tmp_path: Path) -> None:
    save_evaluation(evaluation, tmp_path / "e", figures=False)
    assert not (tmp_path / "e" / "metrics.svg").exists()
    with pytest.raises(OutputError):
        save_evaluation(evaluation, tmp_path / "e", figures=False)
    save_evaluation(evaluation, tmp_path / "e", figures=False, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(OutputError, match="mine"):
        save_evaluation(evaluation, tmp_path / "mine", figures=False, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_missing_packages_are_named_before_anything_is_drawn(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtraError, match=r"figures=False.*scstore\[plot\]"):
        save_evaluation(evaluation, tmp_path / "e")
    save_evaluation(evaluation, tmp_path / "e", figures=False)


def test_labels_with_markup_are_plain_text(tmp_path: Path) -> None:
    """RELIABILITY 45."""
    cells = make_evaluation_cells(60)
    cells.obs["odd"] = cells.obs["cell_type"].map(
        {"type 0": "<script>alert(1)</script>", "type 1": "a|b [x](y) $a$", "type 2": "=cmd()"}
    )
    rng = np.random.default_rng(0)
    cells.obsm["X_a"] = np.eye(3)[cells.obs["cell_type"].cat.codes] + rng.normal(0, 0.1, (60, 3))
    cells.write_h5ad(tmp_path / "c.h5ad")
    found = scstore.evaluate(tmp_path / "c.h5ad", label="odd", folds=2, min_cells=2)
    assert not (save_evaluation(found, tmp_path / "none") / "umap.svg").exists()  # no view was asked for
    found = scstore.evaluate(tmp_path / "c.h5ad", label="odd", folds=2, min_cells=2, views=["X_a", "X"])
    folder = save_evaluation(found, tmp_path / "e")
    assert "a|b [x](y) $a$" in (folder / "confusion.svg").read_text()
    for name in ("confusion", "umap"):
        assert "<script>" not in (folder / f"{name}.svg").read_text()


def test_only_so_many_cells_are_laid_out(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_files, "UMAP_CELLS", 40)
    chosen = evaluation_files._cells_to_lay_out(evaluation)
    assert 36 <= len(chosen) <= 40
    assert set(evaluation.cells.codes[chosen]) == {0, 1, 2}
