from __future__ import annotations

import pytest
import torch

from scstore.model.loading import load_backbone, locate_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_architecture_with_other_weights(kind: str, request: pytest.FixtureRequest) -> None:
    files = locate_model(str(request.getfixturevalue(kind)))
    real = load_backbone(files, device=CPU, dtype=torch.float32)
    random = load_backbone(files, device=CPU, dtype=torch.float32, random_seed=0)
    shapes = [{name: p.shape for name, p in one.model.named_parameters()} for one in (real, random)]
    assert shapes[0] == shapes[1]
    for name, drawn in random.model.named_parameters():
        if drawn.ndim == 2 and drawn.numel() > 500:
            assert drawn.std().item() == pytest.approx(0.02, rel=0.1), name  # transformers' initializer_range
            assert not torch.equal(drawn, real.model.get_parameter(name))
    assert not random.model.training
    assert not any(p.requires_grad for p in random.model.parameters())


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_weights_depend_on_the_seed_alone(kind: str, request: pytest.FixtureRequest) -> None:
    """Not on the depth that is loaded, the precision, or what was drawn before."""
    files = locate_model(str(request.getfixturevalue(kind)))
    whole = load_backbone(files, device=CPU, dtype=torch.float32, random_seed=0)
    before = torch.random.get_rng_state()
    shallow = load_backbone(files, device=CPU, dtype=torch.float32, depth=1, random_seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    half = load_backbone(files, device=CPU, dtype=torch.bfloat16, random_seed=0)
    other = load_backbone(files, device=CPU, dtype=torch.float32, random_seed=1)
    for name, weights in shallow.model.named_parameters():
        assert torch.equal(weights, whole.model.get_parameter(name))
    for name, weights in half.model.named_parameters():
        assert torch.equal(weights, whole.model.get_parameter(name).bfloat16())
    assert not torch.equal(other.token_embeddings, whole.token_embeddings)
