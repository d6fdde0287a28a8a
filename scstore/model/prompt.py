"""The tokens that stand around the genes of a cell, and those that genes are written with.

Around gene vectors the words are those of scInterpreter (arXiv 2402.12405): genes, then «what is the cell type of this
given embedding?», then a token whose hidden state is read. Symbols stand in a text: «Genes: CD3D, IL7R, The cell type
is», whose last token is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scstore.errors import ModelError, OptionError
from scstore.model.loading import Backbone, ModelFiles
from scstore.tokens.sequences import Frame, GeneSlots

if TYPE_CHECKING:
    import torch


INSTRUCTION = "what is the cell type of this given embedding?"
PROMPT, SEPARATOR, SYMBOLS_INSTRUCTION = "Genes:", ",", "The cell type is"  # around symbols


@dataclass(frozen=True)
class Layout:
    """Token ids before and after the genes, and the frame of their lengths."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    frame: Frame

    def embeddings(self, backbone: Backbone) -> "torch.Tensor":
        """``(n_prefix + n_suffix, width)``: the model's embeddings of these tokens."""
        return backbone.token_embeddings[list(self.prefix + self.suffix)]


def make_layout(
    files: ModelFiles,
    tokenizer: Any,
    *,
    instruction: str = INSTRUCTION,
    readout_token: str | None = None,
    prompt: str = "",
) -> Layout:
    """Tokenise what stands around the genes, before them a ``prompt``.

    Decoders read ``[BOS] prompt genes instruction readout``, encoders ``[CLS] prompt genes instruction [SEP]``, read at
    ``[CLS]``. A decoder's readout token is its end-of-sequence token; behind symbols it is the instruction's last.
    """
    before = _token_ids(tokenizer, prompt)
    words = tuple(_written_behind(files, tokenizer, prompt, [instruction])[0][0]) if instruction else ()
    end: tuple[int, ...] = ()
    if files.is_decoder:
        begin = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
        if readout_token is not None or not (prompt and words):
            end = (_readout_id(files, tokenizer, readout_token),)
    else:
        if readout_token is not None:
            raise OptionError(f"readout_token={readout_token!r}: {files.name} is an encoder, read at its first token.")
        begin, end = (tokenizer.cls_token_id,), (tokenizer.sep_token_id,)
    prefix, suffix = begin + before, words + end
    return Layout(prefix, suffix, Frame(len(prefix), len(suffix), readout_at_end=files.is_decoder))


def write_symbols(files: ModelFiles, tokenizer: Any, layout: Layout, symbols: Sequence[str]) -> GeneSlots:
    """Return the tokens of each symbol and the separator behind it, as they are behind the prompt."""
    found = _written_behind(files, tokenizer, PROMPT, [f"{symbol}{SEPARATOR}" for symbol in symbols])
    ends = [len(PROMPT) + 1 + len(symbol) for symbol in symbols]
    return GeneSlots(
        slots=np.array([token for ids, _ in found for token in ids], dtype=np.int64),
        offsets=np.cumsum([0, *(len(ids) for ids, _ in found)]),
        read=np.array([np.searchsorted(starts, end) - 1 for (_, starts), end in zip(found, ends, strict=True)]),
        around=np.array(layout.prefix + layout.suffix, dtype=np.int64),
    )


def _token_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()


def _written_behind(
    files: ModelFiles, tokenizer: Any, prompt: str, texts: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    """Return the tokens of each text behind the prompt and a space, and where in that text each token begins."""
    before = list(_token_ids(tokenizer, prompt))
    space = " " if prompt else ""
    read = tokenizer(
        [f"{prompt}{space}{text}" for text in texts], add_special_tokens=False, return_offsets_mapping=True
    )
    if any(ids[: len(before)] != before for ids in read["input_ids"]):
        raise ModelError(f"{files.name}: its tokenizer joins words, so that symbols have no tokens of their own.")
    spans = read["offset_mapping"]
    return [
        (ids[len(before) :], [start for start, _ in of_text[len(before) :]])
        for ids, of_text in zip(read["input_ids"], spans, strict=True)
    ]


def _readout_id(files: ModelFiles, tokenizer: Any, token: str | None) -> int:
    if token is None:
        if tokenizer.eos_token_id is None:
            raise OptionError(f"{files.name} has no end-of-sequence token: name its readout token with readout_token=.")
        return int(tokenizer.eos_token_id)
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise OptionError(f"readout_token={token!r}: it is {len(ids)} tokens of {files.name}; give exactly one.")
    return int(ids[0])
