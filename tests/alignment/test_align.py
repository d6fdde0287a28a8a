from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from support import Notes, extract, make_cells
from typer.testing import CliRunner

import scstore
from scstore import fsio
from scstore.alignment.projector_training import ReadoutHeads, load_training, save_training
from scstore.cli import app
from scstore.errors import (
    DamagedError,
    FeatureSpaceError,
    LabelsError,
    LockedError,
    NumericsError,
    OptionError,
    OutputError,
)
from scstore.model.projector import ProjectorFile, load_projector
from scstore.store.ledger import SEEN_BY_PROJECTOR

FILES = ("projector.json", "projector.safetensors")


def align(cells: Any, out: Path, model: Path, **options: Any) -> ProjectorFile:
    return scstore.align(cells, out, label="cell_type", model=str(model), **{"epochs": 2, **options})


class StoppedAfter(Notes):
    """Ends the run once so many epochs are done, as a kill would."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def note(self, message: str) -> None:
        super().note(message)
        if message.startswith(f"epoch {self.epoch}:"):
            raise KeyboardInterrupt


def shallow(n_cells: int, *, seed: int, depth: float) -> anndata.AnnData:
    """The synthetic cells as a shallower sequencing run would see them: types are harder to tell."""
    cells = make_cells(n_cells, seed=seed)
    cells.X.data = np.random.default_rng(seed).binomial(cells.X.data.astype(int), depth).astype(np.float32)
    cells.X.eliminate_zeros()
    cells.obs_names = [f"seed {seed}, cell {i}" for i in range(n_cells)]
    return cells


def test_trained_readouts_separate_types_better(llama: Path, tmp_path: Path) -> None:
    """New cells, a linear classifier of `last`: trained against untrained."""
    cells, new = (shallow(120, seed=seed, depth=0.17) for seed in (1, 2))
    trained = align(cells, tmp_path / "p", llama, epochs=6, pool=("last",))
    first, best = trained.training["curve"][0], trained.training["curve"][trained.training["best_epoch"]]
    assert best["held_out_loss"] < first["held_out_loss"]
    assert trained.training["curve"][-1]["train_loss"] < trained.training["curve"][1]["train_loss"]

    def accuracy(projector: str) -> float:
        options = {"genes": str(tmp_path / "p.genes.h5ad"), "projector": projector, "pool": ("last",)}
        old_rows, new_rows = (
            extract(some, tmp_path / f"{i}.zarr", llama, overwrite=True, **options).view("readout_last_l3")[:]
            for i, some in enumerate((cells, new))
        )
        mean, scale = old_rows.mean(0), old_rows.std(0) + 1e-6
        head = LogisticRegression(C=0.1, max_iter=500).fit((old_rows - mean) / scale, cells.obs["cell_type"])
        return float(head.score((new_rows - mean) / scale, new.obs["cell_type"]))

    assert accuracy(str(tmp_path / "p")) > accuracy("aligned") + 0.02


def test_a_training_that_was_stopped_ends_in_the_same_bytes(
    cells: anndata.AnnData, llama: Path, tmp_path: Path
) -> None:
    options = {"epochs": 3, "patience": 0}
    align(cells, tmp_path / "whole", llama, **options)
    for epoch in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            align(cells, tmp_path / "stopped", llama, progress=StoppedAfter(epoch), **options)
        assert not (tmp_path / "stopped").exists()
    notes = Notes()
    align(cells, tmp_path / "stopped", llama, progress=notes, **options)
    assert "going on after epoch 2, step 0" in notes.said
    for file in FILES:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "stopped" / file).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "stopped", "stopped.genes.h5ad", "whole", "whole.genes.h5ad",
    ]  # fmt: skip


def test_a_training_stopped_within_an_epoch_too(
    cells: anndata.AnnData, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    align(cells, tmp_path / "whole", llama)
    monkeypatch.setattr("scstore.alignment.align.SAVE_EVERY", 1)
    kept = 0

    def stop(*words: Any, **named: Any) -> None:
        nonlocal kept
        save_training(*words, **named)
        kept += 1
        if kept == 6:  # before the first step, after each of three, at the end of the epoch, and one step on
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("scstore.alignment.projector_training.save_training", stop)
        with pytest.raises(KeyboardInterrupt):
            align(cells, tmp_path / "stopped", llama)
    found = load_training(tmp_path / "stopped.training")
    assert found is not None
    assert (found[1].epoch, found[1].step > 0) == (1, True)
    align(cells, tmp_path / "stopped", llama)
    for file in FILES:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "stopped" / file).read_bytes()


@pytest.fixture(scope="module")
def stopped_once(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(KeyboardInterrupt):
        align(make_cells(), folder / "p", llama, progress=StoppedAfter(1))
    return folder


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """A training that ended after its first epoch."""
    shutil.copytree(stopped_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "p"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"learning_rate": 0.5}, "recipe.learning_rate"),
        ({"seed": 3}, "seed"),
        ({"pool": ("last",)}, "pool"),
        ({"instruction": "gene"}, "fits.layout.instruction"),
        ({"dtype": "bfloat16"}, "run.dtype"),
    ],
)
def test_other_options_do_not_go_on(
    options: dict[str, Any], field: str, cells: anndata.AnnData, llama: Path, stopped: Path
) -> None:
    with pytest.raises(FeatureSpaceError, match=f"{re.escape(field)}: "):
        align(cells, stopped, llama, **options)


def test_a_training_is_begun_anew_on_request(cells: anndata.AnnData, llama: Path, stopped: Path) -> None:
    assert align(cells, stopped, llama, overwrite=True, seed=3).training["seed"] == 3


def test_other_cells_do_not_go_on(llama: Path, stopped: Path) -> None:
    with pytest.raises(FeatureSpaceError, match="the cells: another one"):
        align(make_cells(seed=5), stopped, llama)


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
def test_a_damaged_training_does_not_go_on(file: str, cells: anndata.AnnData, llama: Path, stopped: Path) -> None:
    (state,) = stopped.with_name("p.training").iterdir()
    content = (state / file).read_bytes()
    (state / file).write_bytes(content[:-2] + b"\x01\n")
    with pytest.raises(DamagedError, match=re.escape(file)):
        align(cells, stopped, llama)


def test_two_at_once_are_refused(cells: anndata.AnnData, llama: Path, tmp_path: Path) -> None:
    with fsio.lock(tmp_path / "p.lock"), pytest.raises(LockedError, match=r"p\.lock"):
        align(cells, tmp_path / "p", llama)


def test_cells_without_a_label_or_gene_are_left_out(llama: Path, tmp_path: Path) -> None:
    cells = make_cells(empty=7)
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(object)
    cells.obs.iloc[[3, 4], 0] = [None, ""]
    notes = Notes()
    trained = align(cells, tmp_path / "p", llama, progress=notes)
    assert set(cells.obs_names) - set(trained.seen) == {"cell3", "cell4", "cell7"}
    assert not set(trained.trained_on) & set(trained.held_out)
    assert sum(trained.training["classes"].values()) == 57
    assert any("3 left out" in said for said in notes.said)


@pytest.mark.parametrize(
    "change",
    [
        lambda obs: obs.assign(cell_type="one"),
        lambda obs: obs.assign(cell_type=None),
        lambda obs: obs.drop(columns="cell_type"),
        lambda obs: obs.assign(cell_type=[f"t{i}" for i in range(60)]),
    ],
    ids=["one label", "none", "no column", "too few cells"],
)
def test_labels_that_teach_nothing_are_refused(
    change: Callable[[Any], Any], cells: anndata.AnnData, llama: Path, tmp_path: Path
) -> None:
    cells.obs = change(cells.obs)
    with pytest.raises(LabelsError, match="cell_type"):
        align(cells, tmp_path / "p", llama)
    assert not (tmp_path / "p.training").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"recipe": "grandmother's"},
        {"epochs": 0},
        {"gene_dropout": 1.0},
        {"hold_out": 0.0},
        {"learning_rate": -1.0},
        {"seed": -1},
        {"pool": ("first",)},
        {"projector": "random"},
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, Any], cells: anndata.AnnData, llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError):
        align(cells, tmp_path / "p", llama, **options)


def test_the_papers_recipe(cells: anndata.AnnData, llama: Path, tmp_path: Path) -> None:
    trained = align(cells, tmp_path / "p", llama, recipe="papers", epochs=1)
    assert trained.shape == {"width_in": 32, "width_out": 32, "blocks": 4, "start": "none"}
    assert trained.fits["expression_scaling"] == "multiply"
    assert list(trained.training["curve"][0]["held_out"]) == ["last_l3"]
    assert trained.training["recipe"] == {
        "name": "papers", "start": "none", "blocks": 4, "epochs": 1, "learning_rate": 5e-5, "schedule": "linear",
        "warmup": 1000, "batch_size": 16, "gene_dropout": 0.0, "hold_out": 0.1, "patience": 0,
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_in_half_precision(dtype: str, cells: anndata.AnnData, llama: Path, tmp_path: Path) -> None:
    trained = align(cells, tmp_path / "p", llama, dtype=dtype, epochs=3)
    assert trained.training["curve"][-1]["held_out_loss"] < trained.training["curve"][0]["held_out_loss"]
    assert all(value.dtype == np.float32 for value in trained.arrays.values())


def test_a_loss_that_is_not_finite_says_what_to_do(
    cells: anndata.AnnData, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = ReadoutHeads.losses

    def overflows(heads: ReadoutHeads, pooled: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return losses(heads, pooled, codes) * (float("inf") if pooled.requires_grad else 1.0)

    monkeypatch.setattr(ReadoutHeads, "losses", overflows)
    with pytest.raises(NumericsError, match="epoch 1, step 1.*learning_rate="):
        align(cells, tmp_path / "p", llama)


@pytest.fixture(scope="module")
def trained_once(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "projectors"
    align(make_cells()[:30].copy(), folder / "p", llama, epochs=1)
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A projector for half of the cells."""
    shutil.copytree(trained_once, tmp_path / "projectors")
    return tmp_path / "projectors" / "p"


def test_a_store_names_its_projector_and_marks_the_cells_it_saw(
    cells: anndata.AnnData, llama: Path, trained: Path, tmp_path: Path
) -> None:
    store = extract(cells, tmp_path / "stores" / "s.zarr", llama, projector=str(trained))
    read = load_projector(trained)
    assert store.obs[SEEN_BY_PROJECTOR].tolist() == [True] * 30 + [False] * 30
    assert store.record is not None
    assert store.record["projector"] == {"digest": read.digest, "label": "cell_type", "recipe": "default"}
    space = store.record["views"]["readout_last_l3"]["space"]
    assert space["projector"] == {"kind": "trained", "digest": read.digest}
    assert store.record["options"]["projector"] == "../projectors/p"
    with pytest.raises(LabelsError, match="30 of 60.*test_on="):
        scstore.evaluate(store, label="cell_type", folds=2)
    scstore.evaluate(store, label="cell_type", folds=2, views=["genept"])  # which takes no projector
    plain = extract(cells, tmp_path / "stores" / "plain.zarr", llama)
    assert SEEN_BY_PROJECTOR not in plain.obs
    assert not np.allclose(plain.view("readout_last_l3")[:], store.view("readout_last_l3")[:])


def test_like_finds_the_projector_where_both_have_moved(
    cells: anndata.AnnData, llama: Path, trained: Path, tmp_path: Path
) -> None:
    extract(cells, tmp_path / "stores" / "s.zarr", llama, projector=str(trained))
    (tmp_path / "moved").mkdir()
    for name in ("stores", "projectors"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    new = make_cells(9, seed=3)
    new.obs_names = [f"new{i}" for i in range(9)]
    reference = tmp_path / "moved" / "stores" / "s.zarr"
    store = scstore.extract(new, tmp_path / "new.zarr", like=reference)
    assert not store.obs[SEEN_BY_PROJECTOR].any()
    views = [found.record["views"] for found in (store, scstore.open(reference)) if found.record is not None]
    assert views[0]["readout_last_l3"]["fingerprint"] == views[1]["readout_last_l3"]["fingerprint"]
    shutil.rmtree(tmp_path / "moved" / "projectors")
    with pytest.raises(FeatureSpaceError, match="projector"):
        scstore.extract(new, tmp_path / "again.zarr", like=reference)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"instruction": "gene"}, r"layout\.instruction"),
        ({"expression_scaling": "multiply"}, "expression_scaling"),
    ],
)
def test_a_projector_for_another_input_is_refused(
    options: dict[str, Any], field: str, cells: anndata.AnnData, llama: Path, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(FeatureSpaceError, match=field):
        extract(cells, tmp_path / "s.zarr", llama, projector=str(trained), **options)


def test_a_projector_of_another_model_or_encoder_is_refused(
    cells: anndata.AnnData, bert: Path, llama: Path, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(FeatureSpaceError, match="the model: another one"):
        extract(cells, tmp_path / "s.zarr", bert, projector=str(trained))
    scstore.build_genes(tmp_path / "random.h5ad", cells=cells, encoder="random:16")
    with pytest.raises(FeatureSpaceError, match=r"(?s)genes\.encoder.*genes\.width: 32 → 16"):
        extract(cells, tmp_path / "s.zarr", llama, projector=str(trained), genes=str(tmp_path / "random.h5ad"))


def test_use_beside_what_it_was_trained_for_is_said(
    cells: anndata.AnnData, llama: Path, trained: Path, tmp_path: Path
) -> None:
    scstore.panel(cells, tmp_path / "panel.h5ad", label="cell_type", n_genes=10)
    notes = Notes()
    options = {"projector": str(trained), "panel": str(tmp_path / "panel.h5ad"), "layers": (2, 3)}
    extract(cells, tmp_path / "s.zarr", llama, progress=notes, **options)
    said = "\n".join(notes.said)
    assert "trained on 24 cells for 'cell_type'" in said
    assert "trained with no panel" in said
    assert "trained for layers 3; what it does to 2 is unknown" in said


def test_an_output_that_is_there_is_kept(cells: anndata.AnnData, llama: Path, trained: Path) -> None:
    before = (trained / "projector.json").read_bytes()
    with pytest.raises(OutputError, match="p"):
        align(cells, trained, llama)
    assert (trained / "projector.json").read_bytes() == before


def test_the_command(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cells().write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, words, env={"COLUMNS": "200"}, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    words = ["align", "cells.h5ad", "--label", "cell_type", "-o", "projectors/p", "--model", str(llama)]
    said = run(*words, "--epochs", "1", "--pool", "last")
    assert "held-out loss" in said
    assert "next: scstore extract cells.h5ad -o STORE --projector projectors/p" in said
    found = json.loads(run("--json", *words, "--overwrite", "--recipe", "papers", "--epochs", "1"))
    assert [row["epoch"] for row in found["curve"]] == [0, 1]
