"""The tokens that stand around the genes of a cell.

The prompt is that of scInterpreter (arXiv 2402.12405): genes, then «what is the cell type of this given embedding?»,
then a token whose hidden state is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scstore.errors import OptionError
from scstore.model.loading import Backbone, ModelFiles
from scstore.tokens.sequences import Frame

if TYPE_CHECKING:
    import torch


INSTRUCTION = "what is the cell type of this given embedding?"


@dataclass(frozen=True)
class Layout:
    """Token ids before and after the genes, and the frame of their lengths."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    frame: Frame

    def embeddings(self, backbone: Backbone) -> torch.Tensor:
        """``(n_prefix + n_suffix, width)``: the model's embeddings of these tokens."""
        return backbone.token_embeddings[list(self.prefix + self.suffix)]


def make_layout(
    files: ModelFiles, tokenizer: Any, *, instruction: str = INSTRUCTION, readout_token: str | None = None
) -> Layout:
    """Tokenise what stands around the genes.

    Decoders read ``[BOS] genes instruction readout``, encoders ``[CLS] genes instruction [SEP]`` with the readout at
    ``[CLS]``. A decoder's readout token is by default its end-of-sequence token, at which causal attention has seen
    the whole sequence.
    """
    words = tuple(tokenizer(instruction, add_special_tokens=False)["input_ids"]) if instruction else ()
    if files.is_decoder:
        begin = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
        end = (_readout_id(files, tokenizer, readout_token),)
    else:
        if readout_token is not None:
            raise OptionError(f"readout_token={readout_token!r}: {files.name} is an encoder, read at its first token.")
        begin, end = (tokenizer.cls_token_id,), (tokenizer.sep_token_id,)
    return Layout(begin, words + end, Frame(len(begin), len(words + end), readout_at_end=files.is_decoder))


def _readout_id(files: ModelFiles, tokenizer: Any, token: str | None) -> int:
    if token is None:
        if tokenizer.eos_token_id is None:
            raise OptionError(f"{files.name} has no end-of-sequence token: name its readout token with readout_token=.")
        return int(tokenizer.eos_token_id)
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise OptionError(f"readout_token={token!r}: it is {len(ids)} tokens of {files.name}; give exactly one.")
    return int(ids[0])
