"""Presets of extraction: published recipes, and the one that did best here, each under one name.

``docs/presets.md`` says the same for a reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from scstore.errors import OptionError
from scstore.model.sequence_frame import INSTRUCTION

__all__ = ["PRESETS", "Preset", "apply_preset", "check_preset"]


@dataclass(frozen=True)
class Preset:
    """A named set of options of ``scstore extract``.

    Attributes
    ----------
    summary
        What it gives, in a few words.
    options
        Values by the names of :class:`scstore.ExtractOptions`; options not named here keep their defaults.
    source
        Where it comes from.
    not_covered
        What of the source it does not do.
    untrained
        What is said where no trained projector is given, though the source trains one; empty where it does not.
    """

    summary: str
    options: Mapping[str, Any]
    source: str
    not_covered: str
    untrained: str = ""


_PAPERS: Mapping[str, Any] = MappingProxyType(
    {
        "panel": None,
        "top_genes": None,
        "instruction": INSTRUCTION,
        "readout_token": None,
        "layers": (-1,),
        "pool": ("last",),
    }
)

_UNTRAINED = (
    "the papers train the projector: scstore align --recipe papers, then --projector FOLDER. Here `{projector}` stands "
    "in for it, without labels."
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "default": Preset(
            summary="the default options, and a panel of 200 genes chosen without labels",
            options=MappingProxyType({"panel": "auto"}),
            source="the best label-free choice in the experiments made here",
            not_covered="a panel fitted for labels (scstore panel --label) is better where there are labels",
        ),
        "scinterpreter": Preset(
            summary="2,048 genes, the papers' instruction, the readout token at the last layer",
            options=MappingProxyType({**_PAPERS, "expression_scaling": "none"}),
            source="scInterpreter (arXiv 2402.12405)",
            not_covered=(
                "its gene vectors (text-embedding-ada-002 of NCBI texts: scstore genes build) and its trained "
                "projector (scstore align --recipe papers)"
            ),
            untrained=_UNTRAINED,
        ),
        "screader": Preset(
            summary="scinterpreter, each gene's vector times its expression",
            options=MappingProxyType({**_PAPERS, "expression_scaling": "multiply"}),
            source="scReader (arXiv 2412.18156) and its authors' code",
            not_covered=(
                "its gene vectors (language-model texts for genes without a summary, the species' mean vector for "
                "genes without any) and its trained projector (scstore align --recipe papers)"
            ),
            untrained=_UNTRAINED,
        ),
        "genept-w": Preset(
            summary="expression-weighted mean of the gene vectors; no language model reads the cells",
            options=MappingProxyType({"panel": None, "pool": (), "companions": ("genept_w",)}),
            source="GenePT-w (Chen and Zou, bioRxiv 2023.10.16.562533)",
            not_covered="its gene vectors, which the authors publish (scstore genes build --vectors FILE)",
        ),
        "genept-s": Preset(
            summary="a text encoder's embedding of the cell's gene symbols in descending expression",
            options=MappingProxyType(
                {"panel": None, "pool": (), "companions": ("genept_s",)},
            ),
            source="GenePT-s (Chen and Zou, bioRxiv 2023.10.16.562533)",
            not_covered="its encoder, text-embedding-ada-002: sentences are encoded by a model that runs here",
        ),
    }
)


def check_preset(name: str | None) -> None:
    """Refuse a preset that does not exist.

    Raises
    ------
    OptionError
        Naming those that do.
    """
    if name is not None and name not in PRESETS:
        msg = f"--preset {name}: not one of {', '.join(PRESETS)}."
        raise OptionError(msg)


def apply_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """Complete options from their preset; what is given wins, ``None`` too.

    Parameters
    ----------
    given
        Options by the names of :class:`scstore.ExtractOptions`, ``preset`` among them where one is wanted.

    Returns
    -------
    dict
        The same, with the preset's values for what was not given.

    Raises
    ------
    OptionError
        If there is no such preset.
    """
    name = given.get("preset")
    check_preset(name)
    return dict(given) if name is None else {**PRESETS[name].options, **given}
