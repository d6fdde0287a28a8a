"""Cells embedded as sentences of gene symbols by a text encoder: GenePT-s."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from scstore.errors import FaultError, MissingExtraError
from scstore.model.loading import Backbone
from scstore.model.text_encoder import HuggingFaceEncoder
from scstore.tokens.batches import plan_batches
from scstore.tokens.ranking import RankedCells
from scstore.tokens.sentences import write_sentences

try:
    import torch
except ImportError as error:
    needs = "Encoding sentences with a model"
    raise MissingExtraError(needs, "extract") from error

__all__ = ["SentenceEncoder"]


class SentenceEncoder:
    """Embeds cells as sentences: mean of the last hidden states over the sentence's tokens, L2-normalised.

    The vectors of ``text-embedding-ada-002``, which GenePT-s was made with, have length one as well.

    Parameters
    ----------
    backbone
        The encoder, loaded to its full depth.
    symbols
        ``(n_genes,)`` of the columns of the expression matrix.
    tokens_per_batch
        Padded positions of a batch.
    places
        ``(n_genes,)``: another order of the symbols, see :func:`scstore.tokens.sentences.write_sentences`.
    """

    def __init__(
        self,
        backbone: Backbone,
        symbols: Sequence[str],
        *,
        tokens_per_batch: int,
        places: NDArray[np.int64] | None = None,
    ) -> None:
        self.encoder = HuggingFaceEncoder(backbone, max_tokens=backbone.files.context)
        self.symbols = symbols
        self.tokens_per_batch = tokens_per_batch
        self.places = places

    def rows(
        self, ranked: RankedCells, *, advance: Callable[[int], None] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Embed a run of cells, those of similar length together.

        Parameters
        ----------
        ranked
            Their genes in descending expression.
        advance
            Told how many cells each batch had.

        Returns
        -------
        rows, lengths
            ``(n_cells, width) float32`` of length one, zeros for cells without genes; ``(n_cells,)`` their tokens.

        Raises
        ------
        FaultError
            If a single sentence does not fit the device's memory.
        """
        sentences = write_sentences(
            ranked,
            self.symbols,
            tokenizer=self.encoder.backbone.tokenizer,
            max_tokens=self.encoder.max_tokens,
            places=self.places,
        )
        rows = np.zeros((len(ranked), self.encoder.backbone.files.width), dtype=np.float32)
        for cells in plan_batches(sentences.lengths, tokens=self.tokens_per_batch):
            hidden = self._encoded([sentences.texts[cell] for cell in cells])
            rows[cells] = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
            if advance is not None:
                advance(len(cells))
        return rows, sentences.lengths

    def _encoded(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of some sentences; where the device's memory does not suffice, in two halves."""
        try:
            return self.encoder.encode(texts)
        except torch.OutOfMemoryError as error:
            if len(texts) == 1:
                msg = "The device's memory does not hold a single sentence. Use fewer genes (--top-genes)."
                raise FaultError(msg) from error
        torch.cuda.empty_cache()
        half = len(texts) // 2
        return np.concatenate([self._encoded(texts[:half]), self._encoded(texts[half:])])
