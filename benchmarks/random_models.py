"""Llama shapes with random weights: on disk for the CPU, straight on the device for the large one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from scstore.model.loading import Backbone, ModelFiles
from scstore.model.prompt import Layout
from scstore.tokens.sequences import Frame

WORDS = ["what", "is", "the", "cell", "type", "of", "this", "given", "embedding", "?"]
INIT = 0.02
"""Standard deviation of the weights, as Llama's own initialisation has it."""


def llama_config(
    *, width: int, inner: int, layers: int, heads: int, vocabulary: int, context: int = 4096
) -> dict[str, Any]:
    """The contents of a ``config.json``."""
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "initializer_range": INIT,
    }


LLAMA_2_13B = llama_config(width=5120, inner=13824, layers=40, heads=40, vocabulary=32000)
TINY = llama_config(width=64, inner=176, layers=4, heads=4, vocabulary=256)


def write_llama(folder: Path, config: dict[str, Any], *, seed: int = 0) -> Path:
    """A random model with a word tokenizer, saved as transformers saves the large ones."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**{k: v for k, v in config.items() if k != "model_type"})).save_pretrained(folder)
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    # whole words, so that the instruction is about as long as with a real tokenizer
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "TokenizersBackend", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind), encoding="utf-8")
    return folder


def llama_on(device: torch.device, dtype: torch.dtype, config: dict[str, Any], *, seed: int = 0) -> Backbone:
    """A random model that never exists anywhere but on its device."""
    settings = LlamaConfig(
        **{k: v for k, v in config.items() if k != "model_type"}, attn_implementation="sdpa", dtype=dtype
    )
    with torch.device("meta"):
        model = LlamaModel(settings)
    model = model.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.fill_(1) if "norm" in name else weights.normal_(0, INIT, generator=generator)
    # its tables are buffers that no weight file holds, and `to_empty` left them unwritten
    with torch.device(device):
        model.rotary_emb = type(model.rotary_emb)(config=settings)
    model.requires_grad_(requires_grad=False)
    files = ModelFiles("random weights in a Llama shape", Path("nowhere"), "sha256:random", config)
    return Backbone(files=files, model=model.eval(), tokenizer=None, device=device, dtype=dtype)


def causal_lm(backbone: Backbone) -> LlamaForCausalLM:
    """The same weights under a language-modelling head, as AutoModelForCausalLM would give them."""
    inner: Any = backbone.model
    settings = LlamaConfig(**{k: v for k, v in backbone.files.config.items() if k != "model_type"})
    settings._attn_implementation = "sdpa"
    with torch.device("meta"):
        whole = LlamaForCausalLM(settings)
    whole.model = inner
    head = torch.nn.Linear(
        settings.hidden_size, settings.vocab_size, bias=False, device=backbone.device, dtype=backbone.dtype
    )
    whole.lm_head = head.requires_grad_(requires_grad=False)
    return whole.eval()


def token_layout() -> Layout:
    """Token ids of about the instruction's length: one before the genes, fourteen behind."""
    prefix, suffix = (1,), (*range(3, 16), 2)
    return Layout(prefix, suffix, Frame(len(prefix), len(suffix), readout_at_end=True))
