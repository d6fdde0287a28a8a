from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scstore.errors import FaultError
from scstore.model.loading import load_backbone, locate_model
from scstore.model.text_encoder import HuggingFaceEncoder, SentenceEncoder
from scstore.tokens.sequences import rank_genes

TEXTS = ["CD3D", "a gene of the blood", "what is this protein ?"]


@pytest.fixture(params=["llama", "bert"])
def encoder(request: pytest.FixtureRequest) -> HuggingFaceEncoder:
    folder: Path = request.getfixturevalue(request.param)
    files = locate_model(str(folder))
    return HuggingFaceEncoder(load_backbone(files, device=torch.device("cpu"), dtype=torch.float32), max_tokens=64)


def test_it_is_the_mean_of_the_last_hidden_states(encoder: HuggingFaceEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        tokens = torch.tensor([encoder.backbone.tokenizer(text)["input_ids"]])
        hidden = encoder.backbone.model(input_ids=tokens).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden.mean(0).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_long_texts_are_cut(encoder: HuggingFaceEncoder) -> None:
    long = "protein " * 100
    assert np.isfinite(encoder.encode([long, "a"])).all()
    assert encoder.identity["max_tokens"] == 64


def test_the_identity_names_the_weights(encoder: HuggingFaceEncoder) -> None:
    assert encoder.identity["digest"] == encoder.backbone.files.digest


SYMBOLS = [f"GENE{i}" for i in range(12)]
ROWS = csr_matrix(np.random.default_rng(0).poisson(0.6, (9, 12)).astype(np.float32))


def sentences(folder: Path, *, tokens: int = 4096) -> SentenceEncoder:
    backbone = load_backbone(locate_model(str(folder)), device=torch.device("cpu"), dtype=torch.float32)
    return SentenceEncoder(backbone, SYMBOLS, tokens_per_batch=tokens, places=None)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_cell_alone_or_among_others(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    ranked = rank_genes(ROWS, top_genes=12)
    whole = sentences(folder).rows(ranked)
    cut = sentences(folder, tokens=1).rows(ranked)
    np.testing.assert_allclose(cut, whole, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(whole[ranked.lengths > 0], axis=1), 1, rtol=1e-5)


def test_a_batch_too_large_is_halved_and_one_cell_too_large_is_said(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sentences(llama)
    ranked = rank_genes(ROWS, top_genes=12)
    expected = made.rows(ranked)
    real, room = made.encoder.encode, 2

    def scarce(texts: list[str]) -> np.ndarray:
        if len(texts) > room:
            raise torch.OutOfMemoryError
        return real(texts)

    monkeypatch.setattr(made.encoder, "encode", scarce)
    np.testing.assert_allclose(made.rows(ranked), expected, atol=1e-5)
    room = 0
    with pytest.raises(FaultError, match="top_genes="):
        made.rows(ranked)
