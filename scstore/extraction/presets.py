"""Presets of extraction: published recipes, and the one that did best here. `docs/presets.md` describes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Options that differ from the defaults, under a name: what they give, and where they come from."""

    summary: str
    options: Mapping[str, Any]
    source: str
    trains_projector: bool = False  # in the source


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "default": Preset(
            "the default options, and a panel of 200 genes chosen without labels",
            {"panel": "auto"},
            "the best label-free choice in the experiments made here",
        ),
        "scinterpreter": Preset(
            "2,048 genes, the papers' instruction, the readout token at the last layer",
            {"layers": (-1,), "pool": ("last",)},
            "scInterpreter (arXiv 2402.12405)",
            trains_projector=True,
        ),
        "screader": Preset(
            "scinterpreter, each gene's vector times its expression",
            {"layers": (-1,), "pool": ("last",), "expression_scaling": "multiply"},
            "scReader (arXiv 2412.18156) and its authors' code",
            trains_projector=True,
        ),
        "genept-w": Preset(
            "expression-weighted mean of the gene vectors; no language model reads the cells",
            {"pool": (), "companions": ("genept_w",)},
            "GenePT-w (Chen and Zou, bioRxiv 2023.10.16.562533)",
        ),
        "genept-s": Preset(
            "a text encoder's embedding of the cell's gene symbols in descending expression",
            {"pool": (), "companions": ("genept_s",)},
            "GenePT-s (Chen and Zou, bioRxiv 2023.10.16.562533)",
        ),
    }
)
