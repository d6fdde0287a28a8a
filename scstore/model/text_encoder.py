"""Texts encoded by a Hugging Face model: mean of the last hidden states over the text's own tokens."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from scstore.errors import FaultError
from scstore.model.loading import Backbone
from scstore.tokens.sequences import RankedCells, batch_unit, plan_batches, write_sentences


class HuggingFaceEncoder:
    """Mean-pooled last hidden states of a model, loaded to its full depth; texts are cut at ``max_tokens``."""

    def __init__(self, backbone: Backbone, *, max_tokens: int = 512) -> None:
        self.backbone = backbone
        self.max_tokens = min(max_tokens, backbone.files.context)

    @property
    def identity(self) -> dict[str, Any]:
        files = self.backbone.files
        about = {"kind": "huggingface", "model": files.name, "digest": files.digest}
        return {**about, "pooling": "mean", "max_tokens": self.max_tokens}

    @property
    def width(self) -> int:
        return self.backbone.files.width

    def batches(self, texts: Sequence[str]) -> Iterable[Sequence[str]]:
        return (texts[start : start + 64] for start in range(0, len(texts), 64))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        tokens = self.backbone.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        rows = [torch.tensor(row, dtype=torch.long) for row in tokens]
        ids = pad_sequence(rows, batch_first=True).to(self.backbone.device)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(self.backbone.device)
        extra = {"use_cache": False} if self.backbone.files.is_decoder else {}
        hidden = self.backbone.model(input_ids=ids, attention_mask=mask, **extra).last_hidden_state.float()
        weights = mask.unsqueeze(2).float()
        return np.asarray(((hidden * weights).sum(1) / weights.sum(1)).cpu())


class SentenceEncoder:
    """Embeds cells as sentences of gene symbols: the mean over a sentence's tokens, of length one (GenePT-s)."""

    def __init__(
        self, backbone: Backbone, symbols: Sequence[str], *, tokens_per_batch: int, places: NDArray[np.int64] | None
    ) -> None:
        self.encoder = HuggingFaceEncoder(backbone, max_tokens=backbone.files.context)
        self.symbols = symbols
        self.tokens_per_batch = tokens_per_batch
        self.places = places

    def rows(self, ranked: RankedCells, *, advance: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        sentences, lengths = write_sentences(
            ranked,
            self.symbols,
            tokenizer=self.encoder.backbone.tokenizer,
            max_tokens=self.encoder.max_tokens,
            places=self.places,
        )
        rows = np.zeros((len(ranked), self.encoder.backbone.files.width), dtype=np.float32)
        unit = batch_unit(self.encoder.max_tokens, self.tokens_per_batch)
        for cells in plan_batches(lengths, tokens=self.tokens_per_batch, unit=unit):
            hidden = self._encoded([sentences[cell] for cell in cells])
            rows[cells] = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
            if advance is not None:
                advance(len(cells))
        return rows

    def _encoded(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of some sentences; where the device's memory does not suffice, in two halves."""
        try:
            return self.encoder.encode(texts)
        except torch.OutOfMemoryError as error:
            if len(texts) == 1:
                raise FaultError("The device's memory does not hold a single sentence. Lower top_genes=.") from error
        torch.cuda.empty_cache()
        half = len(texts) // 2
        return np.concatenate([self._encoded(texts[:half]), self._encoded(texts[half:])])
