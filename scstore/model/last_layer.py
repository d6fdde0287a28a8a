"""The last layer read, where only the readout token is wanted: keys and values of every position, the rest of one.

Queries, attention output and the MLP of the other positions would be thrown away; leaving them out saves about two
thirds of the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scstore.errors import MissingExtraError

try:
    import torch
    from torch import nn
    from torch.nn.functional import scaled_dot_product_attention
except ImportError as error:
    needs = "Running a language model"
    raise MissingExtraError(needs, "extract") from error

__all__ = ["can_trim", "trimmed_layer"]


def can_trim(block: nn.Module) -> bool:
    """Whether a block is built as the Llama family's are, with full attention."""
    attention = getattr(block, "self_attn", None)
    parts = ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim")
    return bool(
        all(hasattr(attention, part) for part in parts)
        and all(hasattr(block, part) for part in ("input_layernorm", "post_attention_layernorm", "mlp"))
        and getattr(attention, "sliding_window", None) is None
    )


def trimmed_layer(
    block: Any,
    hidden: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    at: torch.Tensor,
    rotate: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """One position of a decoder block's output.

    Parameters
    ----------
    block
        The transformer block.
    hidden
        ``(B, T, width)``: what goes into it.
    position_embeddings
        Cosines and sines of the rotary embedding, ``(1 or B, T, head_dim)`` each.
    at
        ``(B,)``: the position wanted of each sequence; it attends to those before it and itself.
    rotate
        The family's half-rotation.

    Returns
    -------
    ``(B, width)``
    """
    attention = block.self_attn
    batch, length, _ = hidden.shape
    rows = torch.arange(batch, device=hidden.device)
    normed = block.input_layernorm(hidden)

    def heads(projection: nn.Module, states: torch.Tensor, norm: str) -> torch.Tensor:
        split = projection(states).view(batch, states.shape[1], -1, attention.head_dim)
        normalised: torch.Tensor = getattr(attention, norm, nn.Identity())(split)
        return normalised.transpose(1, 2)

    def turned(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        return states * cos.unsqueeze(1) + rotate(states) * sin.unsqueeze(1)

    cos, sin = (table.expand(batch, -1, -1) for table in position_embeddings)
    query = heads(attention.q_proj, normed[rows, at].unsqueeze(1), "q_norm")
    query = turned(query, cos[rows, at].unsqueeze(1), sin[rows, at].unsqueeze(1))
    key = turned(heads(attention.k_proj, normed, "k_norm"), cos, sin)
    value = heads(attention.v_proj, normed, "v_norm")
    seen = torch.arange(length, device=hidden.device)[None, :] <= at[:, None]
    grouped = query.shape[1] != key.shape[1]
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None, None, :], enable_gqa=grouped)
    out = hidden[rows, at] + attention.o_proj(mixed.transpose(1, 2).reshape(batch, -1))
    result: torch.Tensor = out + block.mlp(block.post_attention_layernorm(out))
    return result
