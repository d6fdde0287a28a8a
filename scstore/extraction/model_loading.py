"""The model of an extraction's plan, loaded and ready to read cells."""

from __future__ import annotations

from scstore.errors import OptionError
from scstore.extraction.plan import ExtractionPlan
from scstore.model.loading import Backbone, load_backbone, pick_device
from scstore.model.projector import project
from scstore.model.readout import Readout
from scstore.model.sentence_encoder import SentenceEncoder
from scstore.progress import Reporter

__all__ = ["load_model", "load_readout", "load_sentence_encoder"]


def load_model(plan: ExtractionPlan, progress: Reporter) -> Backbone:
    """Load the model of a plan as deep as it is read.

    Raises
    ------
    ModelError
        If the model's files are damaged, or the device lacks what the options ask for.
    """
    device, dtype = pick_device(plan.options.device, plan.options.dtype)
    layers = plan.settled.layers
    backbone = load_backbone(
        plan.settled.files,
        device=device,
        dtype=dtype,
        depth=max(layers),
        spread=plan.options.spread,
        random_seed=plan.random_seed,
    )
    settled = plan.settled
    where = f"on {device} in {str(dtype).removeprefix('torch.')}"
    weights = "" if plan.random_seed is None else " with random weights"
    progress.note(
        f"model: {settled.files.name}{weights}, layers {', '.join(map(str, layers))} of {settled.files.n_layers}, "
        f"{where}; at most {settled.top_genes:,} genes a cell ({settled.top_genes_because})"
    )
    return backbone


def load_readout(plan: ExtractionPlan, progress: Reporter) -> Readout:
    """Load the model of a plan, and project the gene vectors for it.

    Raises
    ------
    ModelError
        If the model's files are damaged, or the device lacks what the options ask for.
    OptionError
        If the gene vectors do not fit the projector.
    """
    backbone = load_model(plan, progress)
    if plan.projector is None:
        inputs = project(
            plan.table.vectors, backbone.token_embeddings, kind=str(plan.options.projector), seed=plan.options.seed
        )[plan.match.genes]
    else:
        inputs = plan.projector.build().project(plan.table.vectors[plan.match.genes])
    return Readout(
        backbone,
        plan.settled.layout,
        inputs,
        layers=plan.settled.layers,
        multiply=plan.options.multiplies,
    )


def load_sentence_encoder(plan: ExtractionPlan, readout: Readout | None, progress: Reporter) -> SentenceEncoder:
    """The encoder of a plan's sentences: the readout's model where that is whole, else loaded.

    Raises
    ------
    ModelError
        If the model's files are damaged, or the device lacks what the options ask for.
    OptionError
        If no view is made from sentences.
    """
    if plan.files is None:
        msg = "--companions: genept_s is not among them, so there are no sentences to encode."
        raise OptionError(msg)
    device, dtype = pick_device(plan.options.device, plan.options.dtype)
    whole = max(plan.readout.layers) == plan.files.n_layers if plan.readout is not None else False
    if readout is not None and whole and not plan.options.spread:
        backbone = readout.backbone
    else:
        backbone = load_backbone(plan.files, device=device, dtype=dtype, random_seed=plan.random_seed)
    weights = "" if plan.random_seed is None else " with random weights"
    progress.note(
        f"sentences: at most {plan.top_genes:,} symbols a cell, as many as {plan.files.context:,} tokens hold, encoded "
        f"by {plan.files.name}{weights} on {device} in {str(dtype).removeprefix('torch.')}"
    )
    return SentenceEncoder(backbone, plan.symbols, tokens_per_batch=plan.tokens_per_batch, places=plan.places)
