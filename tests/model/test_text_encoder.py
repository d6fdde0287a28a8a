from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scstore.model.loading import load_backbone, locate_model
from scstore.model.text_encoder import HuggingFaceEncoder

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
