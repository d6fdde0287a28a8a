"""A training as it is kept on disk between two steps: JSON and safetensors, each replaced atomically."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from numpy.typing import NDArray
from safetensors.numpy import save

from scstore import fsio
from scstore.errors import DamagedError
from scstore.spec import seal, unseal
from scstore.untrusted.weights import read_weights

__all__ = ["TrainingState", "load_training", "save_training"]

STATE = "state.json"


@dataclass
class TrainingState:
    """Where a training is.

    Attributes
    ----------
    epoch, step
        Epochs done, and steps done of the next.
    loss_sum
        Over the cells of those steps.
    curve
        A row an epoch, the untrained projector first: ``epoch``, ``train_loss``, ``held_out_loss``, and
        ``held_out``: figures of the held-out cells by readout.
    best_epoch
        The epoch of lowest held-out loss.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0


def save_training(
    folder: Path, state: TrainingState, arrays: Mapping[str, NDArray[Any]], *, settings: Mapping[str, Any]
) -> None:
    """Keep a training; a kill leaves the one before or this one, whole.

    Parameters
    ----------
    folder
        Made where it is not there.
    state, arrays
        From :class:`scstore.alignment.training.Alignment`.
    settings
        What must be the same for the training to go on, as JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"state-{state.epoch:05d}-{state.step:07d}.safetensors"
    weights = save(dict(sorted(arrays.items())))
    fsio.write_bytes(folder / name, weights)
    document = {"settings": dict(settings), "state": asdict(state), "file": name, "weights": fsio.digest_bytes(weights)}
    fsio.write_json(folder / STATE, seal(document))
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_training(folder: Path) -> tuple[dict[str, Any], TrainingState, dict[str, NDArray[Any]]] | None:
    """The settings, state and arrays that were kept last; ``None`` where there are none.

    Raises
    ------
    DamagedError
        If a file is not as it was written.
    """
    file = folder / STATE
    if not file.is_file():
        return None
    document = unseal(fsio.read_json(file))
    if document is None:
        _refuse(file, "its digest does not match its content")
    weights = folder / document["file"]
    if not weights.is_file():
        _refuse(weights, "the file is missing")
    arrays = read_weights(weights, digest=document["weights"])
    return document["settings"], TrainingState(**document["state"]), arrays


def _refuse(file: Path, why: str) -> NoReturn:
    msg = f"{file}: {why}. Run the command again with --overwrite to train from the beginning."
    raise DamagedError(msg)
