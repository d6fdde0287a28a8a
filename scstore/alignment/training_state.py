"""A training between two steps, on disk: one sealed folder, replaced by the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from scstore import fsio
from scstore.sealed import FolderKind, read_sealed_folder, write_sealed_folder

__all__ = ["TrainingState", "load_training", "save_training"]

KIND = FolderKind("training", "state.json", "state.safetensors", "scstore align --overwrite")


@dataclass
class TrainingState:
    """Progress of a training: ``epoch`` epochs and ``step`` steps of the next, with the sum of their cells' losses.

    ``curve`` has a row an epoch, the untrained projector first: ``epoch``, ``train_loss``, ``held_out_loss`` and
    ``held_out``, the scores of the held-out cells by readout. ``best_epoch`` has the lowest held-out loss. ``scaler``
    is the state of the loss scale, for a model in float16.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    scaler: dict[str, float] = field(default_factory=dict)


def save_training(
    folder: Path, state: TrainingState, arrays: Mapping[str, NDArray[Any]], *, settings: Mapping[str, Any]
) -> None:
    """Write a training's state; a kill leaves the state before or this one, whole.

    ``settings`` must be the same for the training to go on.
    """
    target = folder / f"{state.epoch:05d}-{state.step:07d}"
    document = {"settings": dict(settings), "state": asdict(state)}
    write_sealed_folder(target, KIND, document, arrays, overwrite=True)
    for old in set(folder.iterdir()) - {target}:
        fsio.remove_tree(old)


def load_training(folder: Path) -> tuple[dict[str, Any], TrainingState, dict[str, NDArray[Any]]] | None:
    """Return the settings, state and arrays of the latest state; ``None`` if there is none.

    Raises
    ------
    DamagedError
        If a file differs from what was written.
    """
    states = sorted(folder.glob("[0-9]*"))
    if not states:
        return None
    document, arrays = read_sealed_folder(states[-1], KIND)
    return document["settings"], TrainingState(**document["state"]), arrays
