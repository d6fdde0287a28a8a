"""Gene texts encoded by a Hugging Face model: mean of the last hidden states over the text's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scstore.errors import MissingExtraError

try:
    import torch
except ImportError as error:
    needs = "Encoding texts with a model"
    raise MissingExtraError(needs, "extract") from error

if TYPE_CHECKING:
    from scstore.model.loading import Backbone

__all__ = ["HuggingFaceEncoder"]


class HuggingFaceEncoder:
    """Mean-pooled last hidden states of a model.

    Parameters
    ----------
    backbone
        The model, loaded to its full depth.
    max_tokens
        Longer texts are cut there; never more than the model's context.
    """

    def __init__(self, backbone: Backbone, *, max_tokens: int = 512) -> None:
        self.backbone = backbone
        self.max_tokens = min(max_tokens, backbone.files.context)

    @property
    def identity(self) -> dict[str, Any]:
        """Name, digest, pooling and cut."""
        return {
            "kind": "huggingface",
            "model": self.backbone.files.name,
            "digest": self.backbone.files.digest,
            "pooling": "mean",
            "max_tokens": self.max_tokens,
        }

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``(n_texts, width) float32``."""
        rows = self.backbone.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        ids, mask = ids.to(self.backbone.device), mask.to(self.backbone.device)
        extra = {"use_cache": False} if self.backbone.files.is_decoder else {}
        hidden = self.backbone.model(input_ids=ids, attention_mask=mask, **extra).last_hidden_state.float()
        weights = mask.unsqueeze(2).float()
        mean: NDArray[np.float32] = ((hidden * weights).sum(1) / weights.sum(1)).cpu().numpy()
        return mean
