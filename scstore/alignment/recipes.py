"""How a projector is trained: what worked in small trials (benchmarks/projector.py) and what the papers did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scstore.errors import OptionError

__all__ = ["RECIPES", "Recipe", "make_recipe"]

SCHEDULES = ("cosine", "linear")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyper-parameters of a training.

    Attributes
    ----------
    name
        Which of :data:`RECIPES` it was made from.
    start
        ``aligned``: the closed form and a learned correction, zero at first; ``none``: random weights.
    blocks
        (SiLU, Linear) blocks behind the projector's first Linear.
    head_blocks
        (Linear, SiLU) blocks before the readout heads' last Linear.
    head_penalty
        Penalty ``|W|² / (2 · head_penalty · n_cells)`` of heads without blocks, which also start at its optimum for
        the untrained projector; 0 for heads that start at random and are not penalised.
    epochs
        Passes over the training cells, at the most.
    learning_rate, schedule, warmup
        Highest rate of Adam, its fall to zero (``cosine`` or ``linear``), and the steps in which it rises.
    batch_size
        Cells of a step.
    weight_decay
        Decoupled decay of the projector's learned matrices: with the start ``aligned``, back to it.
    gene_dropout
        Chance of each gene to be left out of a training sequence.
    clip
        Largest norm of the projector's gradient.
    hold_out
        Fraction of the cells, of each label, that are not trained on.
    patience
        Epochs without a lower held-out loss after which training ends; 0 for never. The best epoch is kept.
    options
        What it asks of the extraction's options, where the user says nothing.
    """

    name: str = "default"
    start: str = "aligned"
    blocks: int = 0
    head_blocks: int = 0
    head_penalty: float = 1.0
    epochs: int = 8
    learning_rate: float = 1e-2
    schedule: str = "cosine"
    warmup: int = 10
    batch_size: int = 16
    weight_decay: float = 0.0
    gene_dropout: float = 0.4
    clip: float = 1.0
    hold_out: float = 0.2
    patience: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What decides the training, without what it asks of the extraction."""
        return {name: value for name, value in vars(self).items() if name != "options"}


RECIPES = {
    "default": Recipe(),
    "papers": Recipe(
        name="papers",
        start="none",
        blocks=4,
        head_blocks=4,
        head_penalty=0.0,
        epochs=8,
        learning_rate=5e-5,
        schedule="linear",
        warmup=1000,
        weight_decay=0.0,
        gene_dropout=0.0,
        hold_out=0.1,
        patience=0,
        options={"expression_scaling": "multiply", "pool": ("last",)},
    ),
}
"""``papers``: the authors' code where it says so (Linear + 4 × (SiLU, Linear), head of 4 × (Linear, SiLU) + Linear at
the last position, gene vectors times expression, Adam 5e-5, batch 16, 8 epochs, 1,000 steps of warm-up)."""

LIMITS = {
    "blocks": (0, 16), "epochs": (1, 10_000), "learning_rate": (1e-9, 10.0), "warmup": (0, 10**6),
    "batch_size": (1, 10**6), "weight_decay": (0.0, 1e3), "gene_dropout": (0.0, 0.9), "hold_out": (0.01, 0.9),
    "patience": (0, 10_000),
}  # fmt: skip
"""Smallest and largest value of what a user may set."""


def make_recipe(name: str, overrides: Mapping[str, Any]) -> Recipe:
    """A recipe by name, with some of its numbers replaced.

    Parameters
    ----------
    name
        One of :data:`RECIPES`.
    overrides
        Values by field; ``None`` leaves the recipe's.

    Raises
    ------
    OptionError
        If there is no such recipe, or a value is out of its range.
    """
    if name not in RECIPES:
        msg = f"--recipe {name}: not one of {', '.join(RECIPES)}."
        raise OptionError(msg)
    given = {key: value for key, value in overrides.items() if value is not None}
    for key, value in given.items():
        low, high = LIMITS[key]
        if not low <= value <= high:
            msg = f"--{key.replace('_', '-')} {value}: give a number from {low:g} to {high:g}."
            raise OptionError(msg)
    return replace(RECIPES[name], **given)
