from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from support import Notes, extract, make_evaluation_cells, write_model

import scstore
from scstore.errors import (
    CellsError,
    FeatureSpaceError,
    IncompleteStoreError,
    InputError,
    LabelsError,
    OptionError,
)
from scstore.evaluation.conclusion import main_row
from scstore.evaluation.design import choose_rows
from scstore.evaluation.evaluate import DRAWS, INNER_FOLDS
from scstore.evaluation.features import fold_means
from scstore.evaluation.result import Evaluation
from scstore.heads.fusion import FusedHead
from scstore.store.ledger import SEEN_BY_PANEL, record_path

READOUT = "readout_wmean_l3"
DEFAULT = "default"
NO_MODEL = "genept_random+X"


@pytest.fixture(scope="module")
def evaluation(evaluation_store: Path) -> Evaluation:
    return scstore.evaluate(evaluation_store, label="cell_type", folds=3)


def test_every_view_the_default_and_the_controls_are_in_one_table(evaluation: Evaluation) -> None:
    (regime,) = evaluation.regimes
    assert {row.name: row.uses for row in regime.scored.rows} == {
        READOUT: "model",
        "readout_last_l3": "model",
        "genept": "gene texts",
        DEFAULT: "model",
        "genept_random": "nothing",
        "X": "nothing",
        NO_MODEL: "nothing",
        "regression": "nothing",
    }
    headings, rows = regime.table()
    assert [row[0] for row in rows[-4:]] == ["- genept_random", "- X", f"- {NO_MODEL}", "- regression"]
    assert all(len(row) == len(headings) for row in rows)
    assert [row[0] for row in rows if row[-1] == "baseline"] == ["- regression"]
    assert "stratified 3-fold" in regime.title
    assert "125 cells scored" in regime.title  # the empty cell is not one
    means = evaluation.scores.query("row == @DEFAULT and metric == 'macro_f1'")["value"]
    assert len(means) == 3
    assert means.mean() > 0.9


def test_the_conclusion_comes_first_and_the_table_fits(evaluation: Evaluation) -> None:
    regime = evaluation.regimes[0]
    assert evaluation.conclusion.startswith("On your cells the language model ")
    assert evaluation.conclusion.endswith("125 cells.")
    assert evaluation.lines()[: len(repr(evaluation).splitlines()[:2])] == repr(evaluation).splitlines()[:2]
    assert all(len(line) <= 80 for line in evaluation.lines())
    assert len(regime.table()[0]) == 4
    assert len(regime.table(wide=True)[0]) == 8
    assert any(line.startswith("readout_wmean_l3 ") for line in repr(evaluation).splitlines())
    assert evaluation._repr_html_().count("<tr>") == len(regime.scored.rows)


def test_every_row_is_compared_with_the_regression(evaluation: Evaluation) -> None:
    regime = evaluation.regimes[0]
    against = [c for c in regime.comparisons if c.why == "no model"]
    assert len(against) == len(regime.scored.rows) - 1
    assert {c.baseline for c in against} == {"regression"}
    default = next(c.difference for c in against if c.row == DEFAULT)
    assert any(default.words in line for line in regime.says)
    assert {(c.row, c.baseline) for c in regime.comparisons if c.why == "default"} == {(DEFAULT, "X")}
    assert {(c.row, c.baseline) for c in regime.comparisons if c.why == "random vectors"} == {
        ("genept", "genept_random")
    }


def test_every_cell_is_predicted_once_by_every_row_from_cells_of_other_folds(evaluation: Evaluation) -> None:
    frame = evaluation.predictions
    assert list(frame.columns) == ["regime", "row", "run", "fold", "cell_id", "label", "predicted", "confidence"]
    assert (frame.groupby("row", observed=True)["cell_id"].nunique() == 125).all()
    assert len(frame) == 8 * 125
    one = frame[frame["row"] == DEFAULT]
    accuracy = evaluation.scores.query("row == @DEFAULT and metric == 'accuracy'")
    sizes = one.groupby("fold", observed=True).size().to_numpy()
    right = (one["label"].astype(str) == one["predicted"].astype(str)).mean()
    assert right == pytest.approx(np.average(accuracy["value"].astype(float), weights=sizes))
    assert one["confidence"].between(1 / 3, 1).all()


def test_a_seed_gives_the_same_numbers_from_memory_and_from_disk(
    evaluation_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"label": "cell_type", "views": ["genept", "X"], "folds": 2}
    kept, other = scstore.evaluate(evaluation_store, **how), scstore.evaluate(evaluation_store, **how, seed=1)
    monkeypatch.setattr("scstore.evaluation.features.CACHE_BYTES", 0)
    streamed = scstore.evaluate(evaluation_store, **how)
    first, second, third = (json.dumps(one.as_json()) for one in (kept, streamed, other))
    assert first == second != third
    pd.testing.assert_frame_equal(kept.predictions, streamed.predictions)


def test_groups_are_held_out_whole(evaluation_store: Path) -> None:
    views = ["genept", "X"]
    found = scstore.evaluate(evaluation_store, label="cell_type", group="patient", folds=3, repeats=2, views=views)
    patient = scstore.open(evaluation_store).obs["patient"]
    frame = found.predictions.assign(patient=patient.loc[found.predictions["cell_id"]].to_numpy())
    assert (frame.groupby(["run", "patient"], observed=True)["fold"].nunique() == 1).all()
    assert set(frame["run"]) == {0, 1}
    assert found.regimes[0].comparisons[0].difference.n_groups == 7
    alone = scstore.evaluate(evaluation_store, label="cell_type", group="patient", folds=9, repeats=2, views=views)
    assert list(alone.regimes[0].scored.scores["fold"].unique()) == [f"p{i}" for i in range(7)]
    assert "one patient at a time (7)" in alone.regimes[0].title
    assert any("one way to split" in note for note in alone.regimes[0].notes)


def test_the_default_is_the_head_that_fit_makes(evaluation_store: Path) -> None:
    """With groups, what earns its place is decided on whole held-out groups of the training cells."""
    store = scstore.open(evaluation_store)
    mouse = (store.obs["species"] == "mouse").to_numpy()
    views = ["default", "regression"]
    how: dict[str, Any] = {"label": "cell_type", "test_on": ["species=mouse"], "group": "patient"}
    found = scstore.evaluate(store, views=views, **how)
    cells = store.usable_rows(allow_partial=False)
    train, test = cells[~mouse[cells]], cells[mouse[cells]]
    names, genes = store.default_views, [str(name) for name in store.expression_genes.index]
    head = FusedHead(n_folds=INNER_FOLDS).fit(
        {name: store.view(name)[train] for name in names},
        store.obs["cell_type"].astype(str).to_numpy()[train],
        gene_names=genes,
        groups=store.obs["patient"].astype(str).to_numpy()[train],
        optional=[name for name in names if name != "X"],
    )
    given: dict[str, Any] = {name: store.view(name)[test] for name in head.views_}
    given["X"] = given["X"][:, [genes.index(gene) for gene in head.genes_ or ()]]
    confidence = found.predictions.query("row == 'default'")["confidence"]
    np.testing.assert_array_equal(confidence, head.predict_proba(given).max(axis=1).astype(np.float32))
    (note,) = [note for note in found.regimes[0].notes if note.startswith("default")]
    assert all(f"{name} in {int(name in head.views_)}" in note for name in names)


def test_a_control_has_a_default_where_the_table_has_one(evaluation_store: Path) -> None:
    store = scstore.open(evaluation_store)
    rows = choose_rows(store, views=["default"], controls={"same": [store]})
    assert [row.name for row in rows] == ["default", f"same: {READOUT}", "same: default"]
    assert rows[0].optional == rows[2].optional == (READOUT, "genept")
    assert [row.uses for row in rows] == ["model", "control", "control"]


def test_fewer_than_five_groups_have_no_interval(evaluation_store: Path) -> None:
    how: dict[str, Any] = {"label": "cell_type", "views": ["readout", "X", "regression"]}
    found = scstore.evaluate(evaluation_store, group="species", **how)
    (c, *_) = found.as_json()["regimes"][0]["comparisons"]
    assert (c["difference"]["low"], c["difference"]["high"], c["difference"]["n_groups"]) == (None, None, 2)
    assert c["baseline"] == "regression"
    assert "2 group(s)" in found.regimes[0].says[-1]
    headings, rows = found.regimes[0].table()
    assert not any("[" in text for text in (found.regimes[0].says[-1], headings[-1], rows[0][-1]))
    more = scstore.evaluate(evaluation_store, group="patient", **how)
    assert "[" in more.regimes[0].says[-1]


def test_one_part_of_a_store_against_another(evaluation_store: Path) -> None:
    species = scstore.open(evaluation_store).obs["species"]
    found = scstore.evaluate(
        evaluation_store,
        label="cell_type",
        train_on=["species=human"],
        test_on=["species=mouse"],
        views=["X", "genept"],
    )
    assert set(species.loc[found.predictions["cell_id"]]) == {"mouse"}
    assert "trained on species=human" in found.regimes[0].title
    rest = scstore.evaluate(evaluation_store, label="cell_type", test_on=["patient=p1", "patient=p3"], views=["X"])
    assert set(scstore.open(evaluation_store).obs["patient"].loc[rest.predictions["cell_id"]]) == {"p1", "p3"}


@pytest.fixture(scope="module")
def other_stores(evaluation_store: Path, llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """New cells whose genes come in another order and not all; and both again through a model of other weights."""
    folder = tmp_path_factory.mktemp("others")
    new = make_evaluation_cells(60, seed=9)
    new.obs_names = [f"new{i}" for i in range(60)]
    new = new[:, np.r_[38:20:-1, 0:20, 39]].copy()
    scstore.extract(new, folder / "new.zarr", like=evaluation_store)
    model = write_model(folder / "random", seed=7)
    extract(make_evaluation_cells(), folder / "ref_random.zarr", model)
    scstore.extract(new, folder / "new_random.zarr", like=folder / "ref_random.zarr")
    return folder


def test_one_store_against_another_with_controls_of_both(evaluation_store: Path, other_stores: Path) -> None:
    found = scstore.evaluate(
        evaluation_store,
        label="cell_type",
        test_store=other_stores / "new.zarr",
        views=["readout", "X"],
        controls={"random model": [other_stores / "ref_random.zarr", other_stores / "new_random.zarr"]},
    )
    regime = found.regimes[0]
    names = [row.marked for row in regime.scored.rows]
    assert names == [READOUT, "- X", f"- random model: {READOUT}", f"- random model: {READOUT}+genept+X"]
    assert found.predictions["cell_id"].str.startswith("new").all()
    scores = found.scores.query("metric == 'accuracy'").set_index("row")["value"].astype(float)
    assert scores["X"] > 0.9  # the genes are matched by name
    assert any(c.why == "control" and c.row == READOUT for c in regime.comparisons)
    assert any(f"against {READOUT} of random model" in said for said in regime.says)
    truth = make_evaluation_cells(60, seed=9).obs["cell_type"].astype(str).to_numpy()
    one = found.predictions.query("row == 'X'")
    assert one["label"].tolist() == [truth[int(name[3:])] for name in one["cell_id"]]


def test_stores_of_two_feature_spaces_are_not_compared(evaluation_store: Path, other_stores: Path) -> None:
    with pytest.raises(FeatureSpaceError, match="the model: another one"):
        scstore.evaluate(
            evaluation_store, label="cell_type", test_store=other_stores / "new_random.zarr", views=["readout"]
        )


def test_a_control_is_matched_by_cell_id(
    evaluation_store: Path, other_stores: Path, llama: Path, tmp_path: Path
) -> None:
    turned = make_evaluation_cells()[::-1].copy()
    extract(turned, tmp_path / "turned.zarr", llama)
    found = scstore.evaluate(
        evaluation_store,
        label="cell_type",
        folds=2,
        views=["readout", "X"],
        controls={"turned": tmp_path / "turned.zarr"},
    )
    (own,) = [c for c in found.regimes[0].comparisons if c.why == "control"]
    assert own.difference.mean == pytest.approx(0, abs=0.02)  # the same rows, found in another order
    with pytest.raises(CellsError, match="new.zarr"):
        scstore.evaluate(evaluation_store, label="cell_type", controls={"new": other_stores / "new.zarr"})
    repeated = make_evaluation_cells()
    repeated.obsm["X_a"] = np.ones((126, 2))
    repeated.obs_names = ["cell0", *repeated.obs_names[:-1]]
    repeated.write_h5ad(tmp_path / "repeated.h5ad")
    with pytest.raises(CellsError, match="repeated.h5ad"):
        scstore.evaluate(evaluation_store, label="cell_type", controls={"r": tmp_path / "repeated.h5ad"})
    with pytest.raises(OptionError, match="controls='x'"):
        scstore.evaluate(
            evaluation_store,
            label="cell_type",
            test_store=other_stores / "new.zarr",
            controls={"x": other_stores / "ref_random.zarr"},
        )


def test_classes_with_few_cells_are_left_out_and_named(evaluation_store: Path) -> None:
    found = scstore.evaluate(evaluation_store, label="with_rare", views=["X"], folds=2)
    assert "rare" not in found.cells.classes
    assert any("rare 4" in note for note in found.regimes[0].notes)
    kept = scstore.evaluate(evaluation_store, label="with_rare", views=["X"], folds=2, min_cells=4)
    assert "rare" in kept.cells.classes
    with pytest.raises(LabelsError, match="min_cells"):
        scstore.evaluate(evaluation_store, label="cell_type", min_cells=1000)


def test_cells_of_a_class_that_nobody_trained_on_are_left_out_and_counted(evaluation_store: Path) -> None:
    found = scstore.evaluate(
        evaluation_store,
        label="with_rare",
        min_cells=1,
        views=["X"],
        test_on=["patient=p0", "patient=p1", "patient=p2", "patient=p3"],
    )
    assert found.regimes[0].scored.absent == {"rare": 4}
    assert any("rare 4" in note for note in found.regimes[0].notes)
    assert "rare" not in set(found.predictions["label"].astype(str))
    with pytest.raises(LabelsError, match="group="):
        scstore.evaluate(evaluation_store, label="with_rare", min_cells=1, views=["X"], group="with_rare")


def test_few_shot_trains_on_so_many_cells_a_class(evaluation_store: Path) -> None:
    found = scstore.evaluate(evaluation_store, label="cell_type", views=["X", "genept"], folds=2, few_shot=[2, 5])
    assert [regime.name for regime in found.regimes] == ["folds", "few-shot 2", "few-shot 5"]
    for regime, n in zip(found.regimes[1:], (2, 5), strict=True):
        folds = regime.scored.scores.query("row == 'X'")
        assert len(folds) == 2 * DRAWS
        assert set(folds["n_train"]) == {3 * n}
        assert "text about the genes" in regime.conclusion


def test_other_genes_on_either_side(evaluation_store: Path) -> None:
    found = scstore.evaluate(evaluation_store, label="cell_type", views=["X"], folds=2, hold_out_genes=0.5, repeats=3)
    regime = found.regimes[-1]
    assert regime.name == "disjoint genes"
    assert [row.name for row in regime.scored.rows] == ["genept", "genept_unwhitened", "genept_random"]
    assert any("expression" in note and "cannot run" in note for note in regime.notes)
    assert any("transductive" in note for note in regime.notes)
    assert (regime.scored.scores["row"] == "genept").sum() == 6
    chance = regime.scored.scores.query("row == 'genept_random'")["accuracy"].mean()
    assert chance < 0.7  # what tells the types apart in one half is not in the other
    assert "text about the genes" in regime.conclusion
    assert {c.baseline for c in regime.comparisons} == {"genept_random"}


def test_words_for_a_missing_label_leave_cells_out(evaluation_store: Path) -> None:
    found = scstore.evaluate(
        evaluation_store, label="cell_type", missing_labels=["Type 0"], views=["genept"], folds=2
    ).as_json()
    assert list(found["classes"]) == ["type 1", "type 2"]
    assert found["missing_labels"] == ["Type 0"]


@pytest.fixture(scope="module")
def seen_store(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose panel saw the labels of the human cells."""
    folder = tmp_path_factory.mktemp("seen")
    cells = make_evaluation_cells()
    cells[cells.obs["species"] == "human"].copy().write_h5ad(folder / "human.h5ad")
    scstore.panel(folder / "human.h5ad", folder / "panel.h5ad", label="cell_type", n_genes=15)
    extract(cells, folder / "ref.zarr", llama, panel=str(folder / "panel.h5ad"))
    assert SEEN_BY_PANEL in scstore.open(folder / "ref.zarr").obs
    return folder / "ref.zarr"


def test_what_the_panel_saw_is_chosen_again_or_left_out_of_the_conclusion(seen_store: Path) -> None:
    found = scstore.evaluate(seen_store, label="cell_type", folds=2)
    regime = found.regimes[0]
    seen = {row.name for row in regime.scored.rows if row.seen}
    assert seen == {READOUT, "readout_last_l3", DEFAULT}
    assert "genept+X" in [row.name for row in regime.scored.rows]
    assert any("genept, genept_random: genes chosen again" in note for note in regime.notes)
    assert main_row(regime.scored, "model") is None
    assert main_row(regime.scored, "gene texts") in ("genept", "genept+X")
    assert [row["name"] for row in found.as_json()["regimes"][0]["rows"] if row["seen"]] == [
        row.name for row in regime.scored.rows if row.seen
    ]
    scores = regime.scored.scores.groupby("row")["macro_f1"].mean()
    assert scores["genept"] > 0.8
    mouse = scstore.evaluate(seen_store, label="cell_type", test_on=["species=mouse"], views=["readout", "genept"])
    assert not any(row.seen for row in mouse.regimes[0].scored.rows)
    assert not any("chosen again" in note for note in mouse.regimes[0].notes)


def test_genes_that_are_chosen_again_on_the_panel_s_own_cells_are_the_panel_s(seen_store: Path) -> None:
    store = scstore.open(seen_store)
    again = fold_means(store, "genept")
    assert again is not None
    human = np.flatnonzero((store.obs["species"] == "human").to_numpy())
    codes = store.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)
    rows = again.rows(store.view("X"), human, codes[human])
    np.testing.assert_allclose(rows[slice(0, 126)], store.view("genept")[:], atol=1e-3)
    assert fold_means(store, READOUT) is None
    without_table = scstore.open(shutil.copytree(seen_store, seen_store.parent / "elsewhere" / "ref.zarr"))
    assert fold_means(without_table, "genept") is None


def test_any_file_with_embeddings(tmp_path: Path) -> None:
    cells = make_evaluation_cells()
    rng = np.random.default_rng(0)
    codes = cells.obs["cell_type"].cat.codes.to_numpy()
    cells.obsm["X_good"] = np.eye(3)[codes] + rng.normal(0, 0.2, (126, 3))
    cells.obsm["X_noise"] = rng.normal(0, 1, (126, 4))
    cells.obsm["X_umap"] = cells.obsm["X_good"][:, :2]
    cells.write_h5ad(tmp_path / "any.h5ad")
    found = scstore.evaluate(tmp_path / "any.h5ad", label="cell_type", folds=3)
    regime = found.regimes[0]
    uses = {"X_good": "embedding", "X_noise": "embedding", "X": "nothing", "regression": "nothing"}
    assert {row.name: row.uses for row in regime.scored.rows} == uses
    assert "X_good makes no difference" in regime.conclusion
    assert "model" not in regime.conclusion
    noise = next(c for c in regime.comparisons if c.row == "X_noise")
    assert noise.difference.high < 0
    assert "loss" in noise.difference.verdict
    anndata.AnnData(obs=cells.obs, obsm={"X_good": cells.obsm["X_good"]}).write_h5ad(tmp_path / "bare.h5ad")
    bare = scstore.evaluate(tmp_path / "bare.h5ad", label="cell_type", folds=2)
    assert "no row without the model" in bare.conclusion


@pytest.mark.parametrize("head", ["mlp", "knn"])
def test_other_heads(evaluation_store: Path, head: str) -> None:
    found = scstore.evaluate(evaluation_store, label="cell_type", folds=2, views=["X"], head=head)
    assert found.scores.query("metric == 'accuracy'")["value"].astype(float).mean() > 0.9


def test_the_prior_adjustment_is_that_of_fit_and_recorded(evaluation_store: Path) -> None:
    """A side that is trained on whole gives the numbers of a head that is fitted on it by itself."""
    store = scstore.open(evaluation_store)
    cells = store.usable_rows(allow_partial=False)
    mouse = (store.obs["species"] == "mouse").to_numpy()[cells]
    train, test = cells[~mouse], cells[mouse]
    views = f"{READOUT}+genept+X"
    found = scstore.evaluate(store, label="cell_type", views=[views], test_on=["species=mouse"], prior_adjustment=1.0)
    assert found.as_json()["prior_adjustment"] == 1
    genes = [str(name) for name in store.expression_genes.index]
    labels = store.obs["cell_type"].astype(str).to_numpy()
    confidences = []
    for amount in (1.0, 0.0):
        head = FusedHead(n_folds=INNER_FOLDS, prior_adjustment=amount)
        head.fit({name: store.view(name)[train] for name in views.split("+")}, labels[train], gene_names=genes)
        given: dict[str, Any] = {name: store.view(name)[test] for name in head.views_}
        given["X"] = given["X"][:, [genes.index(gene) for gene in head.genes_ or ()]]
        confidences.append(head.predict_proba(given).max(axis=1).astype(np.float32))
    assert found.predictions["predicted"].astype(str).tolist() == head.predict(given).tolist()
    np.testing.assert_array_equal(found.predictions["confidence"], confidences[0])
    assert not np.array_equal(*confidences)


def test_combinations_are_named_with_plus(evaluation_store: Path) -> None:
    found = scstore.evaluate(evaluation_store, label="cell_type", folds=2, views=["readout + X", "genept_random"])
    assert [row.name for row in found.regimes[0].scored.rows] == [f"{READOUT}+X", "genept_random"]
    with pytest.raises(InputError, match="scvi"):
        scstore.evaluate(evaluation_store, label="cell_type", views=["scvi"])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"head": "svm"}, "head='svm'"),
        ({"folds": 1}, "folds=1"),
        ({"repeats": 0}, "repeats=0"),
        ({"prior_adjustment": 1.5}, "prior_adjustment=1.5"),
        ({"min_cells": 0}, "min_cells=0"),
        ({"hold_out_genes": 1.0}, "hold_out_genes=1"),
        ({"few_shot": [2, 2]}, r"few_shot=\[2, 2\]"),
        ({"group": "patients"}, "group='patients'.*Did you mean patient"),
        ({"views": ["X", "X"]}, "views='X'"),
        ({"views": ["X+X"]}, r"views='X\+X'"),
        ({"train_on": ["species=human"], "test_on": ["patient=p1"]}, "train_on= and test_on="),
        ({"train_on": ["species=humans"]}, "train_on='species=humans'.*Did you mean human"),
        ({"test_on": ["tissue=blood"]}, "test_on='tissue'"),
        ({"test_on": ["species"]}, "COLUMN=VALUE"),
        ({"train_on": ["species=human", "species=mouse"]}, "test_on="),
    ],
)
def test_options_are_checked(evaluation_store: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        scstore.evaluate(evaluation_store, label="cell_type", **options)


def test_cells_without_a_group_are_named(tmp_path: Path) -> None:
    cells = make_evaluation_cells()
    cells.obs["donor"] = cells.obs["donor"].where(np.arange(126) != 7)
    cells.write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(LabelsError, match="cell7"):
        scstore.evaluate(tmp_path / "c.h5ad", label="cell_type", group="donor")


def test_an_unfinished_store_is_refused_unless_allowed(evaluation_store: Path, llama: Path, tmp_path: Path) -> None:
    extract(make_evaluation_cells(), tmp_path / "s.zarr", llama, shard_rows=63)
    record_path(tmp_path / "s.zarr", 1).unlink()
    with pytest.raises(IncompleteStoreError):
        scstore.evaluate(tmp_path / "s.zarr", label="cell_type")
    found = scstore.evaluate(tmp_path / "s.zarr", label="cell_type", views=["genept"], folds=2, allow_partial=True)
    assert len(found.cells) == 62
    with pytest.raises(InputError, match="controls='half'"):
        scstore.evaluate(evaluation_store, label="cell_type", controls={"half": tmp_path / "s.zarr"})


def test_it_reports_what_it_does(evaluation_store: Path) -> None:
    notes = Notes()
    scstore.evaluate(evaluation_store, label="cell_type", views=["genept"], folds=2, progress=notes)
    assert "stratified 2-fold" in notes.said[0]
