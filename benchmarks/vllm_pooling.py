"""The same shape under vLLM's pooling runner with prompt embeddings, where vLLM is installed.

Written to vLLM's documentation and not yet run: no machine of this project had vLLM. A failure is reported, not raised.
"""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import torch

CELLS = 512


def measure_vllm(bench: Any) -> None:
    """Cells a second of vLLM's `last` pooling, which is all that it pools."""
    figures = bench.found.figures
    if importlib.util.find_spec("vllm") is None:
        figures["vllm"] = "not installed"
        print("vllm's pooling runner: not installed")
        return
    if not bench.clock.has("vllm's pooling runner", 120):
        return
    try:
        figures["vllm"] = _run(bench)
    except Exception as error:  # noqa: BLE001  # whatever a foreign engine raises must not cost the other figures
        figures["vllm"] = f"failed: {type(error).__name__}: {str(error)[:300]}"
    print(f"vllm's pooling runner: {figures['vllm']}")


def _run(bench: Any) -> dict[str, Any]:
    from vllm import LLM

    folder = Path(bench.scratch) / "vllm-shape"
    folder.mkdir()
    config = bench.sizes.config | {"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    engine = LLM(
        model=str(folder),
        load_format="dummy",  # random weights
        runner="pooling",
        enable_prompt_embeds=True,
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=config["max_position_embeddings"],
    )
    regime = bench.regimes[0]
    ranked = regime.rank(bench.cells[:CELLS])
    vectors = torch.from_numpy(bench.gene_inputs).to(torch.bfloat16)
    around = torch.zeros(bench.layout.frame.overhead, vectors.shape[1], dtype=torch.bfloat16)
    prompts = [
        {"prompt_embeds": torch.cat([vectors[torch.from_numpy(ranked.genes[a:b])], around])}
        for a, b in zip(ranked.offsets[:-1], ranked.offsets[1:], strict=True)
    ]
    engine.embed(prompts[:32], use_tqdm=False)
    begun = time.perf_counter()
    engine.embed(prompts, use_tqdm=False)
    spent = time.perf_counter() - begun
    ours = bench.own.get(regime.name)
    rate = len(prompts) / spent
    return {
        "regime": regime.name,
        "cells_per_second": rate,
        "scstore_is_times_as_fast": None if ours is None else ours.cells / ours.seconds / rate,
    }
