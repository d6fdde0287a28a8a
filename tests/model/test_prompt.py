from __future__ import annotations

from pathlib import Path

import pytest

from scstore.errors import OptionError
from scstore.model.loading import load_tokenizer, locate_model
from scstore.model.prompt import INSTRUCTION, make_layout


@pytest.fixture
def decoder(llama: Path):
    files = locate_model(str(llama))
    return files, load_tokenizer(files)


@pytest.fixture
def encoder(bert: Path):
    files = locate_model(str(bert))
    return files, load_tokenizer(files)


def test_a_decoder_reads_genes_then_the_instruction_then_the_readout_token(decoder) -> None:
    files, tokenizer = decoder
    words = tokenizer(INSTRUCTION, add_special_tokens=False)["input_ids"]
    layout = make_layout(files, tokenizer)
    assert layout.prefix == (tokenizer.bos_token_id,)
    assert layout.suffix == (*words, tokenizer.eos_token_id)
    assert layout.frame.readout_at_end
    assert layout.frame.overhead == len(words) + 2


def test_an_encoder_is_read_at_its_class_token(encoder) -> None:
    files, tokenizer = encoder
    layout = make_layout(files, tokenizer)
    assert layout.prefix == (tokenizer.cls_token_id,)
    assert layout.suffix[-1] == tokenizer.sep_token_id
    assert not layout.frame.readout_at_end


def test_no_instruction(decoder) -> None:
    layout = make_layout(*decoder, instruction="")
    assert (len(layout.prefix), len(layout.suffix)) == (1, 1)


def test_the_readout_token_is_exactly_one(decoder, encoder) -> None:
    files, tokenizer = decoder
    assert make_layout(files, tokenizer, readout_token="?").suffix[-1] == tokenizer.convert_tokens_to_ids("?")
    with pytest.raises(OptionError):
        make_layout(files, tokenizer, readout_token="zz zz")
    with pytest.raises(OptionError):
        make_layout(*encoder, readout_token="?")
