"""Cells as sentences: the symbols of their genes in descending expression, separated by spaces.

Source: GenePT-s (Chen and Zou, bioRxiv 2023.10.16.562533).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.tokens.sequences import RankedCells


def write_sentences(
    ranked: RankedCells,
    symbols: Sequence[str],
    *,
    tokenizer: Any,
    max_tokens: int,
    places: NDArray[np.int64] | None = None,
) -> tuple[list[str], NDArray[np.int64]]:
    """Write sentences of whole symbols, empty without genes, cut and then sorted by ``places``; count their tokens."""
    texts = [""] * len(ranked)
    lengths = np.zeros(len(ranked), dtype=np.int64)
    for cell, (start, stop) in enumerate(pairwise(ranked.offsets)):
        genes = ranked.genes[start : min(stop, start + max_tokens)]  # a symbol is one token or more
        if not len(genes):
            continue
        words = [symbols[gene] for gene in genes]
        read = tokenizer(" ".join(words), truncation=True, max_length=max_tokens, return_offsets_mapping=True)
        reached = max(end for _, end in read["offset_mapping"])
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        whole = max(1, int(np.searchsorted(ends, reached, side="right")))
        if places is not None:
            words = [words[i] for i in np.argsort(places[genes[:whole]], kind="stable")]
        texts[cell] = " ".join(words[:whole])
        lengths[cell] = len(read["input_ids"])
    return texts, lengths
