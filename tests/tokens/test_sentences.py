from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scstore.model.loading import load_tokenizer, locate_model
from scstore.tokens.sentences import write_sentences
from scstore.tokens.sequences import rank_genes

SYMBOLS = ["CD3E", "NKG7", "B2M"]  # 4, 4 and 3 tokens of a tokenizer that spells
ROWS = csr_matrix(np.array([[1, 2, 3], [0, 0, 0], [5, 0, 4]], dtype=np.float32))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_symbols_in_descending_expression(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = load_tokenizer(locate_model(str(request.getfixturevalue(kind))))
    texts, lengths = write_sentences(rank_genes(ROWS, top_genes=3), SYMBOLS, tokenizer=tokenizer, max_tokens=128)
    assert texts == ["B2M NKG7 CD3E", "", "CD3E B2M"]
    assert lengths.tolist() == [13, 0, 9]


@pytest.mark.parametrize(
    ("max_tokens", "text"), [(13, "B2M NKG7 CD3E"), (12, "B2M NKG7"), (9, "B2M NKG7"), (8, "B2M"), (3, "B2M")]
)
def test_only_whole_symbols_that_fit(llama: Path, max_tokens: int, text: str) -> None:
    tokenizer = load_tokenizer(locate_model(str(llama)))
    texts, _ = write_sentences(rank_genes(ROWS, top_genes=3), SYMBOLS, tokenizer=tokenizer, max_tokens=max_tokens)
    assert texts[0] == text


def test_another_order_is_of_the_same_symbols(llama: Path) -> None:
    tokenizer = load_tokenizer(locate_model(str(llama)))
    texts, _ = write_sentences(
        rank_genes(ROWS, top_genes=3), SYMBOLS, tokenizer=tokenizer, max_tokens=9, places=np.array([0, 1, 2])
    )
    assert texts == ["NKG7 B2M", "", "CD3E B2M"]
