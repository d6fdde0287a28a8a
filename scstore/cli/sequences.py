"""Options of extract and align that say which cells become which sequences, and what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Companions",
    "Control",
    "Genes",
    "Instruction",
    "Layers",
    "MinMatch",
    "Model",
    "Organism",
    "PanelFile",
    "Preset",
    "ReadoutToken",
    "Spread",
    "TokensPerBatch",
    "TopGenes",
    "numbers",
    "words",
]

Preset = Annotated[
    str | None,
    typer.Option(help="default, scinterpreter, screader, genept-w or genept-s; options given here win."),
]
Companions = Annotated[
    str, typer.Option(help="Views without a readout: of genept, genept_random, genept_w, genept_s; or none.")
]
Control = Annotated[
    str | None,
    typer.Option(help="Make one thing meaningless: random-genes, random-llm or shuffled-order."),
]
Model = Annotated[
    str | None,
    typer.Option(help="minilm, a folder, or a hub name. By default meta-llama/Llama-2-13b-hf.", show_default=False),
]
Genes = Annotated[Path | None, typer.Option(help="Gene table. By default the symbols, encoded by the model.")]
PanelFile = Annotated[
    str, typer.Option(help="Panel file: the genes that may enter; all; or auto: 200, chosen here without labels.")
]
TopGenes = Annotated[int | None, typer.Option(help="Most expressed genes a cell: 2048, or what fits.")]
Layers = Annotated[
    str | None, typer.Option(help="Layers to read, such as 20,40; or -1, the last, the default (minilm: 1,6).")
]
Instruction = Annotated[str | None, typer.Option(help="Words beside the genes. The papers' by default.")]
ReadoutToken = Annotated[str | None, typer.Option(help="Of a decoder. Its end-of-sequence token.")]
Organism = Annotated[str | None, typer.Option(help="human or mouse. Guessed from the symbols.")]
MinMatch = Annotated[float, typer.Option(help="Fraction of genes that must match the gene table.", min=0, max=1)]
Spread = Annotated[bool, typer.Option("--spread", help="Spread a large model over all GPUs.")]
TokensPerBatch = Annotated[int | None, typer.Option(help="Padded positions of a batch.")]


def numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """Read a list such as ``1,6``."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers such as 1,6", param_hint=option) from None


def words(text: str) -> tuple[str, ...]:
    """Read a list such as ``wmean,last``; ``none`` is the empty one."""
    return () if text.strip() == "none" else tuple(part.strip() for part in text.split(","))
