"""Options of ``scstore align``, and the recipes that they adjust."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal, Self

from scstore.cells.labels import MISSING_LABELS, MissingLabels
from scstore.errors import OptionError
from scstore.extraction.options import SequenceOptions
from scstore.model.loading import FLOAT8
from scstore.options import Option


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


@dataclass(frozen=True, kw_only=True)
class AlignOptions(SequenceOptions):
    """Options of align. ``None`` leaves a number to the recipe."""

    label: Annotated[str, Option("Column of obs. Cells without a label are left out.")]
    missing_labels: MissingLabels = MISSING_LABELS
    recipe: Annotated[
        Literal["default", "papers", "papers-small"],
        Option(
            "default starts at the closed-form projector; papers is scInterpreter's and scReader's training; "
            "papers-small is the same with one linear layer, for a few hundred cells."
        ),
    ] = "default"
    epochs: Annotated[int | None, Option("Passes over the cells, at most. By default 8.", minimum=1)] = None
    learning_rate: Annotated[
        float | None,
        Option("Highest learning rate. By default 0.01 (papers: 5e-5).", minimum=1e-9, maximum=10, advanced=True),
    ] = None
    batch_size: Annotated[int | None, Option("Cells of a step. By default 16.", minimum=1, advanced=True)] = None
    gene_dropout: Annotated[
        float | None,
        Option("Chance of a gene to be left out. By default 0.4 (papers: 0).", minimum=0, maximum=0.9, advanced=True),
    ] = None
    hold_out: Annotated[
        float | None,
        Option("Part of the cells held out. By default 0.2 (papers: 0.1).", minimum=0.01, maximum=0.9, advanced=True),
    ] = None
    patience: Annotated[
        int | None,
        Option("Epochs without a lower held-out loss; 0 for any. By default 3 (papers: 0).", minimum=0, advanced=True),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype == FLOAT8:
            raise OptionError(f"dtype={FLOAT8!r}: gradients do not pass through it. Extract with it, once trained.")

    @property
    def training(self) -> Recipe:
        names = ("epochs", "learning_rate", "batch_size", "gene_dropout", "hold_out", "patience")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(RECIPES[self.recipe], **given)

    @property
    def completed(self) -> Self:
        """These options, with the recipe's in place of those that were not given."""
        chosen = RECIPES[self.recipe].options
        return replace(self, **{name: chosen[name] for name in chosen if getattr(self, name) is None})
