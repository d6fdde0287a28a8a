"""What the options leave open and the model decides, settled before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scstore.errors import OptionError
from scstore.extraction.options import ExtractOptions
from scstore.model.flops import tokens_that_fit
from scstore.model.loading import DEFAULT_MODEL, MINILM, ModelFiles, load_tokenizer, locate_model, pick_device
from scstore.model.sequence_frame import Layout, make_layout

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEFAULT_TOP_GENES",
    "SettledLayout",
    "check_default_model",
    "model_files",
    "run_record",
    "settle_layout",
    "settle_top_genes",
]

DEFAULT_TOP_GENES = 2048

TOKENS_PER_BATCH = {"cpu": 4096, "mps": 8192, "cuda": 32768}
"""Padded positions of a batch at the most; on a GPU fewer where its memory asks for it."""


def check_default_model() -> None:
    """Refuse to run the default model, 13 billion parameters, where there is no GPU.

    Raises
    ------
    OptionError
        With what it would take and what can be used instead.
    """
    import importlib.util

    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return
    msg = (
        f"No GPU here, and no --model was named: the default, {DEFAULT_MODEL}, has 13 billion parameters. It takes a "
        "GPU "
        f"with 32 GB or more, and 26 GB of weights. On this machine use the embedded model: --model {MINILM} (or name "
        "a "
        f"model: --model {DEFAULT_MODEL} --device cpu runs it here, at minutes a cell)."
    )
    raise OptionError(msg)


@dataclass(frozen=True)
class SettledLayout:
    """What depends on the model alone.

    Attributes
    ----------
    files
        The model, not loaded.
    layout
        Tokens around the genes.
    top_genes
        Genes a cell may have.
    top_genes_because
        What set that number, in words.
    layers
        Layers to read.
    """

    files: ModelFiles
    layout: Layout
    top_genes: int
    top_genes_because: str
    layers: tuple[int, ...]


def model_files(options: ExtractOptions) -> ModelFiles:
    """Find the model's files, the default's where none is named.

    Raises
    ------
    OptionError
        If the default model finds no GPU.
    ModelError
        If there is no such model.
    """
    if options.model is None:
        check_default_model()
    return locate_model(options.model or DEFAULT_MODEL, revision=options.revision)


def settle_layout(options: ExtractOptions, files: ModelFiles, *, n_panel: int | None) -> SettledLayout:
    """Choose what the options leave open and check it against the model.

    Raises
    ------
    OptionError
        If the genes and instruction do not fit the model's context, or a layer is not there.
    """
    layout = make_layout(
        files,
        load_tokenizer(files),
        instruction=options.instruction,
        readout_token=options.readout_token,
    )
    room = files.context - layout.frame.overhead
    if room < 1:
        msg = f"--instruction: it fills the {files.context} positions of {files.name}. Shorten it."
        raise OptionError(msg)
    if options.top_genes is not None and options.top_genes > room:
        msg = (
            f"--top-genes {options.top_genes}: {files.name} has {files.context} positions and the instruction takes "
            f"{layout.frame.overhead}. At most {room} genes fit."
        )
        raise OptionError(msg)
    top_genes, because = _smallest(options, room=room, n_panel=n_panel)
    named = tuple(options.layers or ()) or ((1, files.n_layers) if files.name == MINILM else (files.n_layers,))
    layers = tuple(files.n_layers if layer == -1 else layer for layer in named)
    if len(set(layers)) < len(layers) or not all(1 <= layer <= files.n_layers for layer in layers):
        msg = f"--layers {','.join(map(str, layers))}: {files.name} has layers 1 to {files.n_layers}; name each once."
        raise OptionError(msg)
    return SettledLayout(files, layout, top_genes, because, layers)


def _smallest(options: ExtractOptions, *, room: int | None, n_panel: int | None) -> tuple[int, str]:
    """The smallest of what limits the genes of a cell, and what set it; `room` is what a context holds, if one does."""
    limits = [(options.top_genes, "--top-genes")] if options.top_genes else [(DEFAULT_TOP_GENES, "the default")]
    if room is not None:
        limits.append((room, "what the model's context holds"))
    if n_panel is not None:
        limits.append((n_panel, "the panel"))
    return min(limits, key=lambda limit: limit[0])


def settle_top_genes(
    options: ExtractOptions,
    readout: SettledLayout | None,
    files: ModelFiles | None,
    *,
    n_matched: int,
    n_panel: int | None,
) -> int:
    """How many genes of a cell are ranked: as many as the model reads, or all where only weighted means are wanted."""
    if readout is not None:
        return readout.top_genes
    if options.companion_views == ("genept_w",):
        return n_matched
    room = None
    if files is not None:  # a symbol is one token or more
        room = files.context - int(load_tokenizer(files).num_special_tokens_to_add(pair=False))
    return _smallest(options, room=room, n_panel=n_panel)[0]


def run_record(options: ExtractOptions, files: ModelFiles, readout: SettledLayout | None) -> dict[str, Any]:
    """Where, in which precision and in which batches the model runs, for the store's record."""
    device, dtype = pick_device(options.device, options.dtype)
    whole = options.writes_sentences or readout is None
    depth = files.n_layers if whole or readout is None else max(readout.layers)
    return {
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "tokens_per_batch": options.tokens_per_batch or _tokens_per_batch(files, depth, device, dtype),
    }


def _tokens_per_batch(files: ModelFiles, depth: int, device: torch.device, dtype: torch.dtype) -> int:
    most = TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"])
    if device.type != "cuda":
        return most
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return tokens_that_fit(files.config, free, depth=depth, itemsize=dtype.itemsize, most=most)
