"""The views of a store, and the feature space of each."""

from __future__ import annotations

from typing import Any

from scstore.cells.expression import TARGET_SUM
from scstore.extraction.options import (
    CONTROL_SEED,
    CONTROLS,
    RANDOM_GENES,
    RANDOM_LLM,
    SHUFFLED_ORDER,
    ExtractOptions,
)
from scstore.extraction.sequence_plan import SequencePlan
from scstore.model.loading import ModelFiles
from scstore.model.projector_file import ProjectorFile
from scstore.spec import Space
from scstore.store.layout import ViewSpec

__all__ = ["projector_fits", "view_specs"]


def projector_fits(plan: SequencePlan) -> dict[str, Any]:
    """What a projector's training and an extraction with it must have in common."""
    readout = plan.needed_readout
    return {
        "model": {"digest": readout.files.digest, "width": readout.files.width},
        "genes": {"encoder": dict(plan.table.encoder), "width": plan.table.width},
        "layout": _layout(plan),
        "expression_scaling": _scaling(plan),
    }


def view_specs(plan: SequencePlan, options: ExtractOptions, projector: ProjectorFile | None) -> tuple[ViewSpec, ...]:
    """The views of a store with the feature space of each, the default view first."""
    width = plan.table.width
    matched: Space = {
        "genes": {"digest": plan.table.digest},
        "panel": {"digest": None if plan.genes.panel is None else plan.genes.panel.digest},
        "expression": {"target_sum": TARGET_SUM, "log1p": True},
    }
    tokens: Space = {**matched, "top_genes": plan.top_genes}
    vectors = "random" if options.control == RANDOM_GENES else "as encoded"
    companions: dict[str, tuple[int, Space]] = {
        "genept": (width, {"view": "genept", **tokens, "vectors": "whitened"}),
        "genept_random": (width, {"view": "genept", **tokens, "vectors": "random"}),
        "genept_w": (width, {"view": "genept", **matched, "vectors": vectors, **_control(options, RANDOM_GENES)}),
    }
    if plan.files is not None:
        encoder = {**_model(options, plan.files), "pooling": "mean", "max_tokens": plan.files.context}
        changed = _control(options, RANDOM_LLM, SHUFFLED_ORDER)
        companions["genept_s"] = (plan.files.width, {"view": "sentence", **tokens, "encoder": encoder, **changed})
    views = _readout_spaces(plan, options, projector, tokens) | {
        name: companions[name] for name in options.companion_views
    }
    return tuple(ViewSpec(name, width, options.store_dtype, space) for name, (width, space) in views.items())


def _readout_spaces(
    plan: SequencePlan, options: ExtractOptions, projector: ProjectorFile | None, tokens: Space
) -> dict[str, tuple[int, Space]]:
    if plan.readout is None:
        return {}
    files = plan.readout.files
    frozen: Space = {
        **tokens,
        "model": _model(options, files),
        "layout": _layout(plan),
        "projector": {"kind": options.projector, "seed": options.seed}
        if projector is None
        else {"kind": "trained", "digest": projector.digest},
        "expression_scaling": _scaling(plan),
        **_control(options, *CONTROLS),
    }
    return {
        f"readout_{pool}_l{layer}": (files.width, {**frozen, "view": "readout", "layer": layer, "pooling": pool})
        for layer in plan.readout.layers
        for pool in options.poolings
    }


def _layout(plan: SequencePlan) -> dict[str, Any]:
    """What stands around the genes."""
    layout = plan.needed_readout.layout
    return {
        "instruction": plan.options.instruction,
        "prefix": list(layout.prefix),
        "suffix": list(layout.suffix),
    }


def _scaling(plan: SequencePlan) -> str:
    return "multiply" if plan.options.multiplies else "none"


def _model(options: ExtractOptions, files: ModelFiles) -> dict[str, Any]:
    random = {"weights": "random"} if options.control == RANDOM_LLM else {}
    return {"digest": files.digest, **random}


def _control(options: ExtractOptions, *changing: str) -> dict[str, Any]:
    """The control's part of the space of a view that these controls change; empty where it is none of them."""
    if options.control not in changing:
        return {}
    return {"control": {"kind": options.control, "seed": CONTROL_SEED}}
