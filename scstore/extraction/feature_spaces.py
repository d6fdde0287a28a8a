"""The views of a store, and the feature space that each lives in."""

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
from scstore.extraction.resolve import SettledLayout
from scstore.model.loading import ModelFiles
from scstore.spec import Space
from scstore.store.layout import StorePlan, ViewSpec, default_shard_rows

__all__ = ["layout_space", "store_plan", "view_specs"]


def layout_space(options: ExtractOptions, settled: SettledLayout) -> dict[str, Any]:
    """What stands around the genes, as a feature space names it."""
    return {
        "instruction": options.instruction,
        "prefix": list(settled.layout.prefix),
        "suffix": list(settled.layout.suffix),
    }


def view_specs(
    options: ExtractOptions,
    settled: SettledLayout | None,
    *,
    files: ModelFiles | None,
    top_genes: int,
    genes_digest: str,
    genes_width: int,
    panel_digest: str | None,
    projector_digest: str | None,
) -> tuple[ViewSpec, ...]:
    """The views of a store with the feature space of each, the default view first.

    Parameters
    ----------
    options
        The user's.
    settled
        What depends on the model that reads the genes; ``None`` without readouts.
    files
        The model that reads the cells in any way; ``None`` where none does.
    top_genes
        Genes of a cell that are ranked.
    genes_digest, genes_width
        Of the gene table.
    panel_digest, projector_digest
        Of the panel and the trained projector, where there are any.
    """
    matched: Space = {
        "genes": {"digest": genes_digest},
        "panel": {"digest": panel_digest},
        "expression": {"target_sum": TARGET_SUM, "log1p": True},
    }
    tokens: Space = {**matched, "top_genes": top_genes}
    specs = []
    if settled is not None:
        frozen: Space = {
            **tokens,
            "model": _model(options, settled.files),
            "layout": layout_space(options, settled),
            "projector": {"kind": options.projector, "seed": options.seed}
            if projector_digest is None
            else {"kind": "trained", "digest": projector_digest},
            "expression_scaling": "multiply" if options.multiplies else "none",
            **_control(options, *CONTROLS),
        }
        specs = [
            ViewSpec(
                f"readout_{pool}_l{layer}",
                settled.files.width,
                options.store_dtype,
                {**frozen, "view": "readout", "layer": layer, "pooling": pool},
            )
            for layer in settled.layers
            for pool in options.poolings
        ]
    companions: dict[str, tuple[int, Space]] = {
        "genept": (genes_width, {"view": "genept", **tokens, "vectors": "whitened"}),
        "genept_random": (genes_width, {"view": "genept", **tokens, "vectors": "random"}),
    }
    made = "random" if options.control == RANDOM_GENES else "as encoded"
    weighted: Space = {"view": "genept", **matched, "vectors": made, **_control(options, RANDOM_GENES)}
    companions["genept_w"] = (genes_width, weighted)
    if files is not None:
        encoder = {**_model(options, files), "pooling": "mean", "max_tokens": files.context}
        sentence: Space = {"view": "sentence", **tokens, "encoder": encoder}
        companions["genept_s"] = (files.width, {**sentence, **_control(options, RANDOM_LLM, SHUFFLED_ORDER)})
    for name in options.companion_views:
        width, space = companions[name]
        specs.append(ViewSpec(name, width, options.store_dtype, space))
    return tuple(specs)


def _model(options: ExtractOptions, files: ModelFiles) -> dict[str, Any]:
    random = {"weights": "random"} if options.control == RANDOM_LLM else {}
    return {"digest": files.digest, **random}


def _control(options: ExtractOptions, *changing: str) -> dict[str, Any]:
    """The control's part of the space of a view that these controls change; empty where it is none of them."""
    if options.control not in changing:
        return {}
    return {"control": {"kind": options.control, "seed": CONTROL_SEED}}


def store_plan(options: ExtractOptions, views: tuple[ViewSpec, ...], *, n_obs: int) -> StorePlan:
    """The fixed shape of the store."""
    default = default_shard_rows(n_obs, [(view.width, view.dtype) for view in views])
    return StorePlan(n_obs, min(options.shard_rows or default, n_obs), views)
