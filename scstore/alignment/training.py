"""Training a projector by cross-entropy through the frozen model.

Source: scInterpreter (arXiv 2402.12405), scReader (arXiv 2412.18156). Gradients reach the projector and the heads
alone. Everything random is drawn from (seed, epoch, step), so that a run that was stopped goes on as if it had not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.alignment.readout_heads import ReadoutHeads
from scstore.alignment.recipes import Recipe
from scstore.alignment.training_state import TrainingState
from scstore.errors import FaultError, MissingExtraError, NumericsError
from scstore.model.readout import Readout
from scstore.model.trained_projector import TrainedProjector
from scstore.progress import Reporter, Track
from scstore.tokens.batches import Frame, assemble, plan_batches
from scstore.tokens.ranking import RankedCells, drop_genes, take_cells

try:
    import torch
    from torch.utils.checkpoint import checkpoint
except ImportError as error:
    needs = "Training a projector"
    raise MissingExtraError(needs, "extract") from error

__all__ = ["Alignment", "LabelledCells"]

MEASURED = 20_000
"""Cells whose hidden states are kept, once, to standardise the heads and to find where they start."""


@dataclass(frozen=True)
class LabelledCells:
    """Cells to learn from; none is without a gene.

    Attributes
    ----------
    ranked
        Their genes, as rows of the gene vectors.
    codes
        ``(n_cells,) int64`` label numbers.
    classes
        The labels.
    training, held_out
        Rows to learn from, and rows to stop by.
    """

    ranked: RankedCells
    codes: NDArray[np.int64]
    classes: tuple[str, ...]
    training: NDArray[np.int64]
    held_out: NDArray[np.int64]


class Alignment:
    """One training, from its first step or from a state that was saved.

    Parameters
    ----------
    readout
        The frozen model and what is read from it.
    projector
        What is trained.
    vectors
        ``(n_genes, d) float32``: gene vectors that the cells' genes are rows of.
    cells
        To learn from.
    recipe
        How.
    frame, poolings
        What stands around the genes, and the readouts trained on.
    score
        Figures by name of true label numbers and found ones, ``(n,)`` each, for the learning curve.
    tokens_per_batch
        Padded positions that go through the model at once; a step of more is made of several passes.
    seed
        Of the heads' first weights, the order of the cells and the genes left out.
    recompute
        Keep the hidden states between blocks alone and compute those inside again on the way back.
    """

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
        score: Callable[[NDArray[np.int64], NDArray[np.int64]], dict[str, float]],
        tokens_per_batch: int,
        seed: int = 0,
        recompute: bool = False,
    ) -> None:
        self.readout, self.cells, self.recipe, self.seed = readout, cells, recipe, seed
        self.frame, self.poolings, self.score = frame, poolings, score
        self.tokens_per_batch, self.recompute = tokens_per_batch, recompute
        backbone = readout.backbone
        self.device = backbone.input_device
        n_views = len(readout.layers) * len(poolings)
        self.projector = projector.to(self.device)
        self.heads = ReadoutHeads(
            n_views,
            backbone.files.width,
            len(cells.classes),
            blocks=recipe.head_blocks,
            penalty=recipe.head_penalty,
            seed=seed + 1,
        ).to(self.device)
        self._genes = self.projector.prepare(vectors)
        self._codes = torch.from_numpy(cells.codes).to(self.device)
        biases = [*(layer.bias for layer in self.projector.layers), *self.heads.views.parameters()]
        matrices = [layer.weight for layer in self.projector.layers]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": biases, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
        )
        # half-precision gradients of the model underflow unless the loss is scaled up; bfloat16 has float32's range
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=backbone.dtype == torch.float16)
        self.state = TrainingState()
        self._best = self._learned()

    @property
    def steps_an_epoch(self) -> int:
        """Steps of one pass over the training cells."""
        return math.ceil(len(self.cells.training) / self.recipe.batch_size)

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or the held-out loss has stopped falling."""
        state, patience = self.state, self.recipe.patience
        waited = len(state.curve) - 1 - state.best_epoch
        return state.epoch >= self.recipe.epochs or (patience > 0 and bool(state.curve) and waited >= patience)

    def begin(self, progress: Reporter) -> None:
        """Measure the untrained readouts, set the heads up on them, and score the held-out cells."""
        recipe, rows = self.recipe, self.cells.training
        if recipe.head_penalty:
            rng = np.random.default_rng((self.seed, 0))
            some = np.sort(rng.permutation(rows)[:MEASURED])
            with progress.track("measuring the untrained readouts", len(some), "cells") as track:
                pooled = self._features(some, track)
            self.heads.standardise(pooled)
            self.heads.fit(pooled, self._codes[torch.from_numpy(some).to(self.device)])
        self._end_epoch(math.nan)

    def run(self, progress: Reporter, *, save: Callable[[], None], save_every: int) -> None:
        """Train to the end.

        Parameters
        ----------
        progress
            Told of every step and epoch.
        save
            Called after every epoch and every so many steps, when :meth:`arrays` and ``state`` may be kept.
        save_every
            Steps between two calls.

        Raises
        ------
        NumericsError
            If the loss is not finite.
        FaultError
            If the device's memory does not hold a pass.
        """
        while not self.is_over:
            self._epoch(progress, save, save_every)
            save()
            progress.note(describe_epoch(self.state.curve[-1]))
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
        """One step of the optimiser; the mean loss of its cells before it."""
        state, recipe = self.state, self.recipe
        number = state.epoch * self.steps_an_epoch + state.step
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate(number)
        ranked = take_cells(self.cells.ranked, cells)
        if recipe.gene_dropout:
            rng = np.random.default_rng((self.seed, 2, state.epoch, state.step))
            ranked = drop_genes(ranked, rate=recipe.gene_dropout, rng=rng)
        self.optimiser.zero_grad()
        total = 0.0
        try:
            with self._recomputing():
                for rows in plan_batches(ranked.lengths + self.frame.overhead, tokens=self.tokens_per_batch):
                    codes = self._codes[torch.from_numpy(cells[rows]).to(self.device)]
                    loss = self.heads.losses(self._pooled(ranked, rows), codes).sum() / len(cells)
                    self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                    total += float(loss.detach())
        except torch.OutOfMemoryError as error:
            msg = (
                f"The device's memory does not hold {self.tokens_per_batch:,} positions with their gradients. Run the "
                "command again with a smaller --tokens-per-batch (and --overwrite), fewer genes (--top-genes, --panel) "
                "or fewer --layers."
            )
            raise FaultError(msg) from error
        if not math.isfinite(total):
            msg = (
                f"epoch {state.epoch + 1}, step {state.step + 1}: the loss is not finite. Use a smaller "
                "--learning-rate, or --dtype bfloat16 or float32."
            )
            raise NumericsError(msg)
        if (penalty := self.heads.penalty_over(len(self.cells.training))) is not None:
            self.scaler.scale(penalty).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.projector.parameters(), recipe.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return total

    def _learning_rate(self, number: int) -> float:
        recipe, total = self.recipe, self.recipe.epochs * self.steps_an_epoch
        if number < recipe.warmup:
            return recipe.learning_rate * (number + 1) / recipe.warmup
        left = 1 - (number - recipe.warmup) / max(1, total - recipe.warmup)
        return recipe.learning_rate * (left if recipe.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2)

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
        """``(n_views, n, width) float32`` of some cells, nothing left out."""
        ranked = take_cells(self.cells.ranked, rows)
        shape = (len(self.heads.views), len(rows), self.readout.backbone.files.width)
        features = torch.zeros(shape, device=self.device)
        for some in plan_batches(ranked.lengths + self.frame.overhead, tokens=self.tokens_per_batch):
            features[:, torch.from_numpy(some).to(self.device)] = self._pooled(ranked, some)
            if track is not None:
                track.advance(len(some))
        return features

    @torch.no_grad()
    def _end_epoch(self, train_loss: float) -> None:
        """Score the held-out cells, add a row to the curve, and remember the best projector so far."""
        state, rows = self.state, self.cells.held_out
        pooled = self._features(rows)
        codes = self._codes[torch.from_numpy(rows).to(self.device)]
        loss = float(self.heads.losses(pooled, codes).mean())
        if not math.isfinite(loss):
            msg = (
                f"epoch {state.epoch}: the held-out loss is not finite. Use a smaller --learning-rate, or --dtype "
                "bfloat16 or float32."
            )
            raise NumericsError(msg)
        truth = self.cells.codes[rows]
        found = self.heads(pooled).argmax(dim=2).cpu().numpy()
        names = [f"{pool}_l{layer}" for layer in self.readout.layers for pool in self.poolings]
        state.curve.append(
            {
                "epoch": state.epoch,
                "train_loss": None if math.isnan(train_loss) else train_loss,
                "held_out_loss": loss,
                "held_out": {name: self.score(truth, view) for name, view in zip(names, found, strict=True)},
            }
        )
        if loss < min((row["held_out_loss"] for row in state.curve[:-1]), default=math.inf):
            state.best_epoch = state.epoch
            self._best = self._learned()

    def _learned(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.projector.layers.state_dict().items()}

    @contextmanager
    def _recomputing(self) -> Iterator[None]:
        blocks: Sequence[Any] = list(self.readout.backbone.layers) if self.recompute else []
        before = [block.__dict__.get("forward") for block in blocks]  # accelerate's, where a model is spread
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        try:
            yield
        finally:
            for block, own in zip(blocks, before, strict=True):
                if own is None:
                    del block.forward  # the class's own shows again
                else:
                    block.forward = own

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that ``state`` does not hold, to be saved with it."""
        tensors: dict[str, torch.Tensor] = {
            **{f"projector.{name}": value for name, value in self.projector.state_dict().items()},
            **{
                f"heads.{name}": value.flatten(0, -2)
                for name, value in self.heads.state_dict().items()
                if value.ndim > 1
            },
            **{f"heads.{name}": value for name, value in self.heads.state_dict().items() if value.ndim == 1},
            **{f"best.{name}": value for name, value in self._best.items()},
        }
        for number, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value.reshape(-1) for name, value in moments.items()}
        scale = self.scaler.state_dict()
        tensors |= {f"scaler.{name}": torch.tensor([float(value)]).double() for name, value in scale.items()}
        return {name: value.detach().cpu().numpy().copy() for name, value in tensors.items()}

    def restore(self, state: TrainingState, arrays: dict[str, NDArray[Any]]) -> None:
        """Go back to where :meth:`arrays` and ``state`` were taken."""

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {
                name.removeprefix(prefix): torch.from_numpy(np.array(value)).to(self.device)
                for name, value in arrays.items()
                if name.startswith(prefix)
            }

        self.state = state
        self.projector.load_state_dict(part("projector."))
        like = self.heads.state_dict()
        self.heads.load_state_dict({name: value.view_as(like[name]) for name, value in part("heads.").items()})
        self._best = part("best.")
        moments: dict[int, dict[str, torch.Tensor]] = {}
        parameters = [weights for group in self.optimiser.param_groups for weights in group["params"]]
        for name, value in part("adam.").items():
            number, key = name.split(".")
            shape = parameters[int(number)].shape if key != "step" else torch.Size([])
            moments.setdefault(int(number), {})[key] = value.view(shape)
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        if scale := {name: float(value[0]) for name, value in part("scaler.").items()}:
            self.scaler.load_state_dict({**scale, "growth_interval": int(scale["growth_interval"])})


def describe_epoch(row: dict[str, Any]) -> str:
    """One row of the learning curve in words."""
    return f"epoch {row['epoch']}: train loss {row['train_loss']:.3f}, held-out loss {row['held_out_loss']:.3f}"
