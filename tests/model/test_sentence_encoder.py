from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scstore.errors import FaultError
from scstore.model.loading import load_backbone, locate_model
from scstore.model.text_encoder import SentenceEncoder
from scstore.tokens.ranking import rank_genes

SYMBOLS = [f"GENE{i}" for i in range(12)]
ROWS = csr_matrix(np.random.default_rng(0).poisson(0.6, (9, 12)).astype(np.float32))


def encoder(folder: Path, *, tokens: int = 4096) -> SentenceEncoder:
    backbone = load_backbone(locate_model(str(folder)), device=torch.device("cpu"), dtype=torch.float32)
    return SentenceEncoder(backbone, SYMBOLS, tokens_per_batch=tokens)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_cell_alone_or_among_others(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    whole, lengths = encoder(folder).rows(rank_genes(ROWS, top_genes=12))
    cut, _ = encoder(folder, tokens=1).rows(rank_genes(ROWS, top_genes=12))
    np.testing.assert_allclose(cut, whole, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(whole[lengths > 0], axis=1), 1, rtol=1e-5)


def test_a_batch_too_large_is_halved_and_one_cell_too_large_is_said(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = encoder(llama)
    ranked = rank_genes(ROWS, top_genes=12)
    expected, _ = made.rows(ranked)
    real, room = made.encoder.encode, 2

    def scarce(texts: list[str]) -> np.ndarray:
        if len(texts) > room:
            raise torch.OutOfMemoryError
        return real(texts)

    monkeypatch.setattr(made.encoder, "encode", scarce)
    np.testing.assert_allclose(made.rows(ranked)[0], expected, atol=1e-5)
    room = 0
    with pytest.raises(FaultError, match="--top-genes"):
        made.rows(ranked)
