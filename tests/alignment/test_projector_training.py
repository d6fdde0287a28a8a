from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scstore.alignment.projector_training import RECIPES, LabelledCells, Recipe, Training, TrainingState, load_training
from scstore.model.loading import load_backbone, locate_model
from scstore.model.projector import aligned_map, project
from scstore.model.prompt import make_layout
from scstore.model.readout import Readout
from scstore.model.trained_projector import TrainedProjector
from scstore.progress import Reporter
from scstore.tokens.sequences import RankedCells

N_GENES, WIDTH_IN = 30, 24


@pytest.fixture(params=["llama", "bert"])
def model(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((N_GENES, WIDTH_IN)) @ rng.standard_normal((WIDTH_IN, WIDTH_IN))).astype(np.float32)


def two_kinds(n: int = 40) -> LabelledCells:
    """Cells of two kinds, 8 genes each, mostly from the kind's own half."""
    rng = np.random.default_rng(1)
    codes = np.arange(n) % 2
    likely = np.where(np.arange(N_GENES)[None, :] < N_GENES // 2, 1 - codes[:, None], codes[:, None]) * 3 + 1.0
    genes = np.concatenate([rng.choice(N_GENES, 8, replace=False, p=row / row.sum()) for row in likely])
    values = np.sort(rng.gamma(2, 1, (n, 8)) + 0.1, axis=1)[:, ::-1].reshape(-1).astype(np.float32)
    ranked = RankedCells(np.arange(n + 1, dtype=np.int64) * 8, genes.astype(np.int64), values)
    return LabelledCells(ranked, codes.astype(np.int64), ("a", "b"), np.arange(n - 10), np.arange(n - 10, n))


def begin(model: Path, vectors: np.ndarray, recipe: Recipe, **options: Any) -> Training:
    files = locate_model(str(model))
    backbone = load_backbone(files, device=torch.device("cpu"), dtype=torch.float32)
    layout = make_layout(files, backbone.tokenizer)
    readout = Readout(backbone, layout, np.zeros((0, 32), dtype=np.float32), layers=(2, 3))
    start = aligned_map(vectors, backbone.token_embeddings) if recipe.start == "aligned" else None
    projector = TrainedProjector(WIDTH_IN, 32, blocks=recipe.blocks, start=start)
    return Training(
        readout,
        projector,
        vectors,
        two_kinds(),
        recipe,
        frame=layout.frame,
        poolings=("last", "wmean"),
        **{"tokens_per_batch": 4096, **options},
    )


def train(alignment: Training) -> Training:
    alignment.begin(Reporter())
    alignment.run(Reporter(), save=lambda: None, save_every=100)
    return alignment


@pytest.mark.parametrize("width", [16, 24, 40])
@pytest.mark.parametrize("blocks", [0, 2])
def test_it_starts_at_the_aligned_projector(width: int, blocks: int, vectors: np.ndarray) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(300, width) @ torch.randn(width, width) * 0.3 + 0.1
    start = aligned_map(vectors, tokens, seed=3)
    projector = TrainedProjector(WIDTH_IN, width, blocks=blocks, start=start)
    expected = project(vectors, tokens, seed=3)
    np.testing.assert_allclose(projector.project(vectors), expected, rtol=1e-4, atol=1e-5)


def test_without_a_start_it_is_seeded_and_on_the_vectors_as_they_are(vectors: np.ndarray) -> None:
    first, again, other = (TrainedProjector(WIDTH_IN, 16, blocks=1, seed=seed).project(vectors) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    layers = list(TrainedProjector(WIDTH_IN, 16, blocks=1, seed=1).layers)
    by_hand = layers[1](torch.nn.functional.silu(layers[0](torch.from_numpy(vectors)))).detach().numpy()
    np.testing.assert_allclose(first, by_hand, rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_projector_and_leave_the_model_alone(model: Path, vectors: np.ndarray) -> None:
    alignment = begin(model, vectors, Recipe(epochs=1))
    before = {name: value.clone() for name, value in alignment.readout.backbone.model.state_dict().items()}
    alignment.begin(Reporter())
    assert not any(weights.any() for layer in alignment.projector.layers for weights in layer.parameters())
    alignment.run(Reporter(), save=lambda: None, save_every=100)
    assert all(weights.grad is not None and weights.grad.any() for weights in alignment.projector.layers.parameters())
    for name, value in alignment.readout.backbone.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(
        weights.grad is None and not weights.requires_grad for weights in alignment.readout.backbone.model.parameters()
    )
    assert not any(module.training for module in alignment.readout.backbone.model.modules())  # no dropout


def test_training_lowers_the_loss(model: Path, vectors: np.ndarray) -> None:
    curve = train(begin(model, vectors, Recipe(epochs=6, gene_dropout=0.0))).state.curve
    losses = [row["train_loss"] for row in curve[1:]]
    assert losses[-1] < 0.9 * losses[0]
    assert min(row["held_out_loss"] for row in curve[1:]) < curve[0]["held_out_loss"]
    assert set(curve[0]["held_out"]) == {"last_l2", "wmean_l2", "last_l3", "wmean_l3"}


def test_the_papers_recipe_learns_too(model: Path, vectors: np.ndarray) -> None:
    recipe = replace(RECIPES["papers"], learning_rate=3e-3, warmup=2, epochs=6)
    curve = train(begin(model, vectors, recipe)).state.curve
    assert curve[-1]["train_loss"] < curve[1]["train_loss"]


@pytest.mark.parametrize(("kind", "changed"), [("llama", {"recompute": True}), ("bert", {"tokens_per_batch": 40})])
def test_how_a_step_is_computed_does_not_change_it(
    kind: str, changed: dict[str, Any], vectors: np.ndarray, request: pytest.FixtureRequest
) -> None:
    """Blocks computed again on the way back; a step made of several passes."""
    recipe, model = Recipe(epochs=1), request.getfixturevalue(kind)
    plain, other = train(begin(model, vectors, recipe)), train(begin(model, vectors, recipe, **changed))
    for name, value in plain.projector.to_arrays().items():
        np.testing.assert_allclose(other.projector.to_arrays()[name], value, rtol=1e-3, atol=1e-4)
    assert plain.state.curve[-1]["train_loss"] == pytest.approx(other.state.curve[-1]["train_loss"], rel=1e-4)


def test_what_recomputes_really_does(llama: Path, vectors: np.ndarray) -> None:
    calls = {True: 0, False: 0}
    for recompute in calls:
        alignment = begin(llama, vectors, Recipe(epochs=1, batch_size=30), recompute=recompute)
        alignment.begin(Reporter())
        mlp: Any = alignment.readout.backbone.layers[0].mlp

        def count(*_: Any, recompute: bool = recompute) -> None:
            calls[recompute] += 1

        mlp.register_forward_pre_hook(count)
        alignment.run(Reporter(), save=lambda: None, save_every=100)
    assert calls == {False: 2, True: 3}  # the step, again on the way back, the held-out cells


def test_patience_ends_it_and_the_best_epoch_is_kept(llama: Path, vectors: np.ndarray) -> None:
    alignment = begin(llama, vectors, Recipe(epochs=40, learning_rate=5.0, warmup=0, patience=2, schedule="linear"))
    alignment.begin(Reporter())
    seen = [alignment.projector.to_arrays()]
    alignment.run(Reporter(), save=lambda: seen.append(alignment.projector.to_arrays()), save_every=10**6)
    losses = [row["held_out_loss"] for row in alignment.state.curve]
    best = int(np.argmin(losses))
    assert alignment.state.best_epoch == best
    assert len(losses) == best + 3 < 40
    for name, value in alignment.projector.to_arrays().items():
        np.testing.assert_array_equal(value, seen[best][name])
    assert any((value != seen[-1][name]).any() for name, value in seen[best].items())


def test_the_rate_rises_and_falls(llama: Path, vectors: np.ndarray) -> None:
    for schedule, middle in (("cosine", 0.5), ("linear", 0.5)):
        recipe = Recipe(epochs=10, warmup=4, schedule=schedule, learning_rate=0.1)
        alignment = begin(llama, vectors, recipe)
        assert alignment.steps_an_epoch == 2
        rates = [alignment._learning_rate(number) for number in range(20)]
        assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
        assert rates[4] == pytest.approx(0.1)
        assert rates[12] == pytest.approx(0.1 * middle)
        assert rates[4:] == sorted(rates[4:], reverse=True)
        assert 0 < rates[-1] < 0.01


def test_where_nothing_was_kept_there_is_nothing_to_go_on_with(tmp_path: Path) -> None:
    assert load_training(tmp_path / "nowhere") is None
    assert TrainingState().curve == []
