"""Training a projector by cross-entropy through the frozen model.

Source: scInterpreter (arXiv 2402.12405), scReader (arXiv 2412.18156). Gradients reach the projector and the heads
alone. Everything random is drawn from (seed, epoch, step), so that a stopped run goes on as if it had not stopped.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scstore import fsio
from scstore.errors import FaultError, MissingExtraError, NumericsError, OutputError, show
from scstore.heads.scores import label_scores
from scstore.model.readout import Readout
from scstore.model.trained_projector import TrainedProjector, initialise
from scstore.progress import Reporter, Track
from scstore.sealed import FolderKind, read_sealed_folder, write_sealed_folder
from scstore.tokens.sequences import Frame, RankedCells, assemble, drop_genes, plan_batches, take_cells

try:
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy
    from torch.utils.checkpoint import checkpoint
except ImportError as error:
    raise MissingExtraError("Training a projector", "extract") from error


ITERATIONS = 100


class ReadoutHeads(nn.Module):
    """Classifiers of pooled hidden states: blocks × (Linear, SiLU), then Linear, for each layer and pooling."""

    def __init__(self, n_views: int, width: int, n_classes: int, *, blocks: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.is_linear = blocks == 0

        def head() -> nn.Sequential:
            hidden = [part for _ in range(blocks) for part in (nn.Linear(width, width), nn.SiLU())]
            return nn.Sequential(*hidden, nn.Linear(width, n_classes))

        self.views = nn.ModuleList(head() for _ in range(n_views))
        initialise(self.views, seed=seed)
        self.register_buffer("mean", torch.zeros(n_views, 1, width))
        self.register_buffer("scale", torch.ones(n_views, 1, width))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        rows = (pooled - self.mean) / self.scale  # type: ignore[operator]
        return torch.stack([head(view) for head, view in zip(self.views, rows, strict=True)])

    def losses(self, pooled: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        logits = self(pooled)
        each = cross_entropy(logits.flatten(0, 1), codes.repeat(len(logits)), reduction="none")
        return each.view(len(logits), -1).mean(dim=0)

    def penalty(self, n_cells: int) -> torch.Tensor:
        """Return what is added to the mean loss of linear heads, averaged over the views as that is."""
        squares = [(head[-1].weight ** 2).sum() for head in self.views]  # type: ignore[index]
        total: torch.Tensor = torch.stack(squares).mean() / (2 * n_cells)
        return total

    def fit(self, pooled: torch.Tensor, codes: torch.Tensor) -> None:
        """Standardise, and start at the optimum of linear heads for fixed hidden states, found by L-BFGS."""
        self.mean.copy_(pooled.mean(dim=1, keepdim=True))  # type: ignore[operator]
        scale = pooled.std(dim=1, keepdim=True).clamp_min(1e-6) * pooled.shape[2] ** 0.5
        self.scale.copy_(scale)  # type: ignore[operator]
        with torch.no_grad():
            for weights in self.views.parameters():
                weights.zero_()
        optimiser = torch.optim.LBFGS(self.views.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def objective() -> torch.Tensor:
            optimiser.zero_grad()
            loss = self.losses(pooled, codes).mean() + self.penalty(pooled.shape[1])
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimiser.step(objective)  # type: ignore[no-untyped-call]


KIND = FolderKind("training", "state.json", "state.safetensors", "scstore align --overwrite")
MEASURED = 20_000  # cells whose hidden states are kept, once, to standardise the heads and to find where they start
LARGEST_GRADIENT = 1.0  # norm of the projector's gradient above which it is scaled down


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str = "default"
    start: Literal["aligned", "none"] = "aligned"  # the closed form and a correction, zero at first; random weights
    blocks: int = 0  # (SiLU, Linear) behind the projector's first Linear, (Linear, SiLU) before the heads' last one
    epochs: int = 8
    learning_rate: float = 1e-2
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup: int = 10
    batch_size: int = 16
    gene_dropout: float = 0.4
    hold_out: float = 0.2
    patience: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "options"}


PAPERS = Recipe(
    name="papers", start="none", blocks=4, learning_rate=5e-5, schedule="linear", warmup=1000, gene_dropout=0.0,
    hold_out=0.1, patience=0, options={"expression_scaling": "multiply", "pool": ("last",)},
)  # fmt: skip
RECIPES = {
    "default": Recipe(),
    "papers": PAPERS,
    "papers-small": replace(PAPERS, name="papers-small", blocks=0, learning_rate=3e-3, warmup=10, batch_size=8),
}
"""``default`` did best in ``benchmarks/projector.py``; ``papers`` is the authors' code: Linear + 4 × (SiLU, Linear),
head of 4 × (Linear, SiLU) + Linear at the last position, gene vectors times expression. ``papers-small`` learns from a
few hundred cells, whose 8 epochs end before the papers' warm-up does."""


@dataclass(frozen=True, eq=False)
class LabelledCells:
    """Cells to learn from, each with a label (a number of ``classes``) and a gene; rows to train on and to stop by."""

    ranked: RankedCells
    codes: NDArray[np.int64]
    classes: tuple[str, ...]
    training: NDArray[np.int64]
    held_out: NDArray[np.int64]
    ids: tuple[str, ...] = ()

    def ids_of(self, rows: NDArray[np.int64]) -> tuple[str, ...]:
        return tuple(sorted(self.ids[row] for row in rows))


@dataclass
class TrainingState:
    """Progress of a training: ``epoch`` epochs and ``step`` steps of the next."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0  # of the cells of these steps
    curve: list[dict[str, Any]] = field(default_factory=list)  # a row an epoch, the untrained projector first
    best_epoch: int = 0  # of the lowest held-out loss
    scaler: dict[str, float] = field(default_factory=dict)


def check_training_folder(folder: Path) -> None:
    """Raise ``OutputError`` if a folder that trainings are kept in, and deleted from, holds other things."""
    states = re.compile(r"[0-9]+-[0-9]+")
    for file in folder.iterdir() if os.path.lexists(folder) else ():
        if not states.fullmatch(file.name) and not file.name.startswith("."):
            raise OutputError(f"{folder} holds {show(file.name)}, and a training is kept there. Move it away.")


def save_training(
    folder: Path, state: TrainingState, arrays: Mapping[str, NDArray[Any]], *, settings: Mapping[str, Any]
) -> None:
    """Write a training's state, whole, and delete the one before; ``settings`` must be the same to go on."""
    target = folder / f"{state.epoch:05d}-{state.step:07d}"
    document = {"settings": dict(settings), "state": asdict(state)}
    write_sealed_folder(target, KIND, document, arrays, overwrite=True)
    for old in set(folder.iterdir()) - {target}:
        fsio.disk.delete(old)


def load_training(folder: Path) -> tuple[dict[str, Any], TrainingState, dict[str, NDArray[Any]]] | None:
    states = sorted(folder.glob("[0-9]*"))
    if not states:
        return None
    document, arrays = read_sealed_folder(states[-1], KIND)
    return document["settings"], TrainingState(**document["state"]), arrays


class Training:
    def __init__(
        self,
        readout: Readout,
        projector: TrainedProjector,
        vectors: NDArray[np.float32],
        cells: LabelledCells,
        recipe: Recipe,
        *,
        frame: Frame,
        poolings: tuple[str, ...],
        tokens_per_batch: int,
        seed: int = 0,
        recompute: bool = False,
    ) -> None:
        self.readout, self.cells, self.recipe, self.seed = readout, cells, recipe, seed
        self.frame, self.poolings, self.tokens_per_batch = frame, poolings, tokens_per_batch
        backbone = readout.backbone
        self.device = backbone.input_device
        self.projector = projector.to(self.device)
        n_views = len(readout.layers) * len(poolings)
        self.heads = ReadoutHeads(
            n_views, backbone.files.width, len(cells.classes), blocks=recipe.blocks, seed=seed + 1
        ).to(self.device)
        self._genes = self.projector.prepare(vectors)
        self._codes = torch.from_numpy(cells.codes).to(self.device)
        self._weights = [*self.projector.layers.parameters(), *self.heads.views.parameters()]
        self.optimiser = torch.optim.Adam(self._weights, lr=recipe.learning_rate)
        for weights in self._weights:  # as Adam's first step would make it: a state has all its arrays from the start
            moments = {name: torch.zeros_like(weights) for name in ("exp_avg", "exp_avg_sq")}
            self.optimiser.state[weights] = {"step": torch.tensor(0.0), **moments}
        # half-precision gradients of the model underflow unless the loss is scaled up; bfloat16 has float32's range
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=backbone.dtype == torch.float16)
        self.state = TrainingState()
        self._best = self._learned()
        if recompute:  # keep only hidden states between blocks, and compute those inside again on the way back
            for block in backbone.layers:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    @property
    def steps_an_epoch(self) -> int:
        return math.ceil(len(self.cells.training) / self.recipe.batch_size)

    @property
    def is_over(self) -> bool:
        state, patience = self.state, self.recipe.patience
        waited = len(state.curve) - 1 - state.best_epoch
        return state.epoch >= self.recipe.epochs or (patience > 0 and bool(state.curve) and waited >= patience)

    def begin(self, progress: Reporter) -> None:
        """Find where linear heads start, on the untrained readouts, and score the held-out cells."""
        if self.heads.is_linear:
            rng = np.random.default_rng((self.seed, 0))
            some = np.sort(rng.permutation(self.cells.training)[:MEASURED])
            with progress.track("measuring the untrained readouts", len(some), "cells") as track:
                pooled = self._features(some, track)
            self.heads.fit(pooled, self._codes_of(some))
        self._end_epoch(None)

    def run(self, progress: Reporter, *, save: Callable[[], None], save_every: int) -> None:
        """Train to the end; ``save`` is called after every epoch and every ``save_every`` steps."""
        while not self.is_over:
            self._epoch(progress, save, save_every)
            save()
            epoch, train, held_out = (self.state.curve[-1][key] for key in ("epoch", "train_loss", "held_out_loss"))
            progress.note(f"epoch {epoch}: train loss {train:.3f}, held-out loss {held_out:.3f}")
        self.projector.layers.load_state_dict(self._best)

    def _epoch(self, progress: Reporter, save: Callable[[], None], save_every: int) -> None:
        state, n_steps = self.state, self.steps_an_epoch
        order = np.random.default_rng((self.seed, 1, state.epoch)).permutation(self.cells.training)
        batches = np.array_split(order, n_steps)
        with progress.track(f"epoch {state.epoch + 1} of {self.recipe.epochs}", len(order), "cells") as track:
            track.resume_at(sum(map(len, batches[: state.step])))
            while state.step < n_steps:
                cells = batches[state.step]
                state.loss_sum += self._step(cells) * len(cells)
                state.step += 1
                track.advance(len(cells))
                if state.step % save_every == 0 and state.step < n_steps:
                    save()
        loss = state.loss_sum / len(order)
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        self._end_epoch(loss)

    def _step(self, cells: NDArray[np.int64]) -> float:
        """Take one step of the optimiser, and return the mean loss of its cells before it."""
        state = self.state
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate(state.epoch * self.steps_an_epoch + state.step)
        self.optimiser.zero_grad()
        try:
            loss = self._backward(cells)
        except torch.OutOfMemoryError as error:
            cure = "Give overwrite=True and a smaller tokens_per_batch=, top_genes= or panel=, or fewer layers=."
            n = self.tokens_per_batch
            raise FaultError(f"The device's memory does not hold {n:,} positions with gradients. {cure}") from error
        self._check_finite(loss, f"epoch {state.epoch + 1}, step {state.step + 1}: the loss")
        if self.heads.is_linear:
            self.scaler.scale(self.heads.penalty(len(self.cells.training))).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.projector.parameters(), LARGEST_GRADIENT)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss

    def _backward(self, cells: NDArray[np.int64]) -> float:
        """Add up the gradients of some cells' mean loss, in as many passes as they need."""
        state, rate = self.state, self.recipe.gene_dropout
        ranked = take_cells(self.cells.ranked, cells)
        if rate:
            ranked = drop_genes(ranked, rate=rate, rng=np.random.default_rng((self.seed, 2, state.epoch, state.step)))
        total = 0.0
        for rows in plan_batches(ranked.lengths + self.frame.overhead, tokens=self.tokens_per_batch):
            loss = self.heads.losses(self._pooled(ranked, rows), self._codes_of(cells[rows])).sum() / len(cells)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _learning_rate(self, number: int) -> float:
        recipe, total = self.recipe, self.recipe.epochs * self.steps_an_epoch
        if number < recipe.warmup:
            return recipe.learning_rate * (number + 1) / recipe.warmup
        left = 1 - (number - recipe.warmup) / max(1, total - recipe.warmup)
        return recipe.learning_rate * (left if recipe.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2)

    def _codes_of(self, rows: NDArray[np.int64]) -> torch.Tensor:
        return self._codes[torch.from_numpy(rows).to(self.device)]

    def _pooled(self, ranked: RankedCells, rows: NDArray[np.int64]) -> torch.Tensor:
        """``(n_views, B, width) float32`` of some cells; only the genes that occur in them are projected."""
        part = take_cells(ranked, rows)
        genes, places = np.unique(part.genes, return_inverse=True)
        part = replace(part, genes=places.astype(np.int64))
        batch = assemble(part, np.arange(len(rows)), frame=self.frame, poolings=self.poolings)
        projected = self.projector(self._genes[torch.from_numpy(genes).to(self.device)])
        frame_inputs = self.readout.frame_inputs
        table = torch.cat([frame_inputs, projected.to(frame_inputs.dtype)])
        return self.readout.pooled(batch, table).flatten(0, 1).to(self.device)

    @torch.no_grad()
    def _features(self, rows: NDArray[np.int64], track: Track | None = None) -> torch.Tensor:
        """Return ``(n_views, n, width) float32`` of some cells, with all their genes."""
        ranked = take_cells(self.cells.ranked, rows)
        shape = (len(self.heads.views), len(rows), self.readout.backbone.files.width)
        features = torch.zeros(shape, device=self.device)
        for some in plan_batches(ranked.lengths + self.frame.overhead, tokens=self.tokens_per_batch):
            features[:, torch.from_numpy(some).to(self.device)] = self._pooled(ranked, some)
            if track is not None:
                track.advance(len(some))
        return features

    @torch.no_grad()
    def _end_epoch(self, train_loss: float | None) -> None:
        """Score the held-out cells, add a row to the curve, and remember the best projector so far."""
        state, rows = self.state, self.cells.held_out
        pooled = self._features(rows)
        loss = float(self.heads.losses(pooled, self._codes_of(rows)).mean())
        self._check_finite(loss, f"epoch {state.epoch}: the held-out loss")
        truth = self.cells.codes[rows]
        found = self.heads(pooled).argmax(dim=2).cpu().numpy()
        names = [f"{pool}_l{layer}" for layer in self.readout.layers for pool in self.poolings]
        figures = {name: label_scores(truth, view) for name, view in zip(names, found, strict=True)}
        scores = {name: {key: own[key] for key in ("accuracy", "macro_f1")} for name, own in figures.items()}
        row = {"epoch": state.epoch, "train_loss": train_loss, "held_out_loss": loss, "held_out": scores}
        state.curve.append(row)
        if loss < min((row["held_out_loss"] for row in state.curve[:-1]), default=math.inf):
            state.best_epoch = state.epoch
            self._best = self._learned()

    def _check_finite(self, loss: float, what: str) -> None:
        if not math.isfinite(loss):
            raise NumericsError(f"{what} is not finite. Use a smaller learning_rate=, or dtype='float32'.")

    def _learned(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.projector.layers.state_dict().items()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        parts = {"projector": self.projector.state_dict(), "heads": self.heads.state_dict(), "best": self._best}
        parts |= {f"adam.{i}": self.optimiser.state[weights] for i, weights in enumerate(self._weights)}
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return copies of all tensors, flat, to be saved with ``state``."""
        self.state.scaler = self.scaler.state_dict()
        return {name: value.detach().cpu().numpy().reshape(-1).copy() for name, value in self._tensors().items()}

    @torch.no_grad()
    def restore(self, state: TrainingState, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.state = state
        for name, value in self._tensors().items():
            value.copy_(torch.from_numpy(np.array(arrays[name])).view_as(value))
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
