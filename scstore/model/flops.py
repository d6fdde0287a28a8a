"""Arithmetic and memory of a forward pass, counted from a model's configuration (the contents of ``config.json``).

A linear layer of ``a × b`` weights costs ``2ab`` floating-point operations a token; attention between ``t`` tokens
costs ``4 · t² · heads · head_dim`` for its two products, half of it where attention is causal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def layer_parameters(config: Mapping[str, Any]) -> int:
    """Weights of the linear layers of one transformer block."""
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
