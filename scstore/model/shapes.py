"""Shapes of models and speeds of devices, and what they make of a forward pass: for estimates, with neither at hand.

A linear layer of ``a × b`` weights costs ``2ab`` floating-point operations a token; attention between ``t`` tokens
costs ``4 · t² · heads · head_dim`` for its two products, half of it where attention is causal.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scstore.errors import ModelError, OptionError
from scstore.model.gguf_files import packed_config
from scstore.model.loading import DEFAULT_MODEL, FLOAT8, MINILM, SMOLLM2, ModelFiles, checked_config, is_packed
from scstore.options import Option

# What an estimate takes of ``config.json``, of models that are named and not fetched yet.
KNOWN_SHAPES: Mapping[str, dict[str, Any]] = {
    DEFAULT_MODEL: {
        "model_type": "llama", "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
        "num_attention_heads": 40, "vocab_size": 32000, "max_position_embeddings": 4096,
    },
    MINILM: {
        "model_type": "bert", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6,
        "num_attention_heads": 12, "vocab_size": 30522, "max_position_embeddings": 512,
    },
    SMOLLM2: {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
    },
}  # fmt: skip
DeviceKind = Literal["h100", "h200", "b200", "a100", "a100-40gb", "a40", "l40s", "l4", "a10", "rtx4090", "cpu"]
Gpu = Annotated[
    DeviceKind | None,
    Option("With --dry-run: the GPU to plan for, or cpu (two cores). By default h100; embedded models: cpu."),
]
# Share of the peak that a pass is taken to reach, and how much faster float8 is: benchmarks/extract_gpu.py on an H200.
UTILISATION, FLOAT8_SPEED = 0.58, 1.6


class Device(NamedTuple):
    """Operations a second that a pass is taken to reach, memory in bytes if limited, and what the first rests on."""

    speed: float
    memory: float | None
    rests_on: str


def device_of(kind: DeviceKind, *, is_float8: bool = False) -> Device:
    """Return a device by name: GPUs by their makers' dense bfloat16 peak, two cores of a CPU as measured."""
    if kind == "cpu":
        return Device(0.13e12, None, "0.13 TFLOP/s, measured on two cores (benchmarks/extract_cpu.py)")
    if is_float8 and kind in BEFORE_FLOAT8:
        raise OptionError(f"dtype={FLOAT8!r}: an {kind} cannot. Leave it out, or name another GPU.")
    peak, memory = GPUS[kind]
    how = f"{UTILISATION:.0%} of its {peak:,} TFLOP/s in bfloat16, the share that an H200 reached"
    faster = FLOAT8_SPEED if is_float8 else 1
    return Device(faster * UTILISATION * peak * 1e12, memory * 1e9, how + is_float8 * f", and {faster} times in float8")


# Peak in TFLOP/s, memory in GB.
GPUS: Mapping[str, tuple[int, int]] = {
    "h100": (989, 80), "h200": (989, 141), "b200": (2250, 180), "a100": (312, 80), "a100-40gb": (312, 40),
    "a40": (150, 48), "l40s": (362, 48), "l4": (121, 24), "a10": (125, 24), "rtx4090": (165, 24),
}  # fmt: skip
BEFORE_FLOAT8 = ("a100", "a100-40gb", "a40", "a10")


def model_shape(name: str, *, revision: str | None = None) -> ModelFiles:
    """Find a model's shape in its folder, its GGUF file or the hub's cache, or take what is known; fetch nothing."""
    if name in KNOWN_SHAPES:
        return ModelFiles(name, Path(name), "", dict(KNOWN_SHAPES[name]))
    if is_packed(name):
        return ModelFiles(name, Path(name), "", packed_config(Path(name)))
    file: Path | None = Path(name) / "config.json" if Path(name).is_dir() else None
    if file is None and importlib.util.find_spec("huggingface_hub") is not None:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(name, "config.json", revision=revision)
        except HFValidationError:
            cached = None
        file = Path(cached) if isinstance(cached, str) else None
    if file is None:
        raise ModelError(
            f"{name}: its shape is not known here. Name a folder with its config.json, or fetch that file alone where "
            f"there is a network: hf download {name} config.json."
        )
    return ModelFiles(name, file.parent, "", checked_config(name, file.parent, weights=False))


def layer_parameters(config: Mapping[str, Any]) -> int:
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or width // heads)
    key_values = int(config.get("num_key_value_heads") or heads)
    attention = width * head_dim * (2 * heads + 2 * key_values)
    gates = 2 if config["model_type"] == "bert" else 3  # Llama's MLP has a gate beside its two projections
    return attention + gates * width * inner


def cell_flop(config: Mapping[str, Any], lengths: NDArray[np.int64], *, depth: int) -> NDArray[np.float64]:
    """Operations of each cell's pass through the first ``depth`` layers; ``lengths`` are positions without padding."""
    tokens = np.asarray(lengths, dtype=np.float64)
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    causal = 1.0 if config["model_type"] == "bert" else 0.5
    attention = 4 * causal * heads * head_dim * tokens**2
    return depth * (2 * layer_parameters(config) * tokens + attention)


def weight_bytes(config: Mapping[str, Any], *, depth: int, itemsize: int) -> int:
    """Bytes of the weights of the first ``depth`` layers and the token embeddings, ``itemsize`` bytes a weight."""
    embeddings = int(config["vocab_size"]) * int(config["hidden_size"])
    return itemsize * depth * layer_parameters(config) + max(2, itemsize) * embeddings


def kept_bytes(config: Mapping[str, Any], tokens: int, *, depth: int, itemsize: int) -> int:
    """Bytes that a pass over so many positions keeps for its way back, where nothing is computed again."""
    # what goes into every linear layer, norm and activation of a block
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    return tokens * depth * itemsize * (8 * width + 4 * inner)


def pass_bytes(config: Mapping[str, Any], tokens: int, *, depth: int, itemsize: int, backward: bool = False) -> int:
    """Bytes alive at once in a pass, or in one that also goes back, block by block, beside the weights."""
    itemsize = max(2, itemsize)  # float8 is that of weights, and of one operand at a time
    # the residual stream and its norm, queries, keys, values, the MLP's gate, projection and product, and the float32
    # copy that is pooled
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    per_token = itemsize * (6 * width + 3 * inner) + 4 * width
    return tokens * (2 * per_token + itemsize * depth * width if backward else per_token)


def tokens_that_fit(
    config: Mapping[str, Any], free: int, *, depth: int, itemsize: int, most: int, backward: bool = False
) -> int:
    """Positions of a batch that fits ``free`` bytes beside the weights: a multiple of 1,024 up to ``most``."""
    per_token = pass_bytes(config, 1, depth=depth, itemsize=itemsize, backward=backward)
    room = max(0, free - weight_bytes(config, depth=depth, itemsize=itemsize)) // 2
    return int(max(1024, min(most, room // per_token) // 1024 * 1024))
