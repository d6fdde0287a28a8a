"""Arithmetic of a forward pass, counted from a model's configuration.

A linear layer of ``a × b`` weights costs ``2ab`` floating-point operations a token; attention between ``t`` tokens
costs ``4 · t² · heads · head_dim`` for its two products, half of it where attention is causal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cell_flop", "layer_parameters"]


def layer_parameters(config: Mapping[str, Any]) -> int:
    """Weights of the linear layers of one transformer block.

    Parameters
    ----------
    config
        Contents of ``config.json`` of a Llama-like or BERT-like model.
    """
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or width // heads)
    key_values = int(config.get("num_key_value_heads") or heads)
    attention = width * head_dim * (2 * heads + 2 * key_values)
    gates = 2 if config["model_type"] == "bert" else 3  # Llama's MLP has a gate beside its two projections
    return attention + gates * width * inner


def cell_flop(config: Mapping[str, Any], lengths: NDArray[np.int64], *, depth: int) -> NDArray[np.float64]:
    """Operations of each cell's pass through the first layers.

    Parameters
    ----------
    config
        Contents of ``config.json``.
    lengths
        ``(n_cells,) int64``: positions of each cell, padding not counted.
    depth
        Layers run.

    Returns
    -------
    ``(n_cells,) float64``
    """
    tokens = np.asarray(lengths, dtype=np.float64)
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    causal = 1.0 if config["model_type"] == "bert" else 0.5
    attention = 4 * causal * heads * head_dim * tokens**2
    return depth * (2 * layer_parameters(config) * tokens + attention)
