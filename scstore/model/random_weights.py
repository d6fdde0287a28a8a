"""A model's architecture without what it learnt: the control that tells knowledge from architecture."""

from __future__ import annotations

import hashlib
from typing import Any

from scstore.errors import MissingExtraError

try:
    import torch
except ImportError as error:
    needs = "Running a language model"
    raise MissingExtraError(needs, "extract") from error

__all__ = ["random_model"]


@torch.no_grad()
def random_model(config: Any, *, dtype: torch.dtype, seed: int, **options: Any) -> Any:
    """Build a model with every weight drawn by transformers' own initialisation, token embeddings too.

    Each module draws from a generator of its own, seeded by its name, in float32 and on the CPU: a layer has the same
    weights however many lie above it, in whichever precision and on whichever device it runs afterwards.

    Parameters
    ----------
    config
        The architecture, as transformers describes it.
    dtype
        Precision that the drawn weights are rounded to.
    seed
        Another seed gives other weights.
    **options
        For transformers' ``AutoModel.from_config``.

    Returns
    -------
    The model, on the CPU.
    """
    from transformers import AutoModel

    untyped: Any = AutoModel
    with torch.random.fork_rng(devices=[]):
        model = untyped.from_config(config, dtype=dtype, **options)
        for name, module in model.named_modules():
            own = list(module.parameters(recurse=False))
            if not own:
                continue
            for parameter in own:
                parameter.data = parameter.data.float()
            key = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
            torch.manual_seed(int.from_bytes(key[:8], "little") >> 1)
            model._init_weights(module)
            for parameter in own:
                parameter.data = parameter.data.to(dtype)
    return model
