from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import write_model
from torch import nn

from scstore.errors import ModelError
from scstore.model.float8 import Float8Linear, check_float8, use_float8
from scstore.model.loading import load_backbone, locate_model


@pytest.mark.parametrize("bias", [True, False])
def test_the_product_is_close_to_the_exact_one(bias: bool) -> None:
    """Through torch's own scaled matrix product, which runs on the CPU too, only slowly."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias)
    inputs = torch.randn(2, 10, 64) * torch.logspace(-3, 3, 10)[:, None]
    exact = linear(inputs)
    rounded = Float8Linear(linear)(inputs)
    assert rounded.shape == exact.shape
    assert rounded.dtype == inputs.dtype
    error = (rounded - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert error.max() < 0.08


def test_rows_do_not_disturb_each_other() -> None:
    """One scale a row: a cell's product does not depend on its companions."""
    torch.manual_seed(0)
    layer = Float8Linear(nn.Linear(32, 16))
    inputs = torch.randn(5, 32)
    with_giant = torch.cat([inputs, inputs[:1] * 1e4])
    assert torch.equal(layer(with_giant)[:5], layer(inputs))


def test_zeros_stay_zeros() -> None:
    layer = Float8Linear(nn.Linear(32, 16, bias=False))
    assert not layer(torch.zeros(3, 32)).any()


def test_every_linear_layer_of_the_blocks_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    files = locate_model(str(write_model(tmp_path / "m")))
    backbone = load_backbone(files, device=torch.device("cpu"), dtype=torch.float32)
    before = backbone.token_embeddings.clone()
    assert use_float8(backbone.layers) == 3 * 7
    assert sum(isinstance(module, Float8Linear) for module in backbone.model.modules()) == 21
    assert torch.equal(backbone.token_embeddings, before)


def test_layers_of_odd_sizes_are_left_alone() -> None:
    blocks = nn.Sequential(nn.Linear(32, 10), nn.Linear(30, 16), nn.Linear(32, 16))
    assert use_float8(blocks) == 1
    assert isinstance(blocks[0], nn.Linear)


def test_hardware_without_float8_is_refused_plainly(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--precision float8.*H100"):
        check_float8(torch.device("cpu"))
    files = locate_model(str(write_model(tmp_path / "m")))
    with pytest.raises(ModelError, match="--precision float8"):
        load_backbone(files, device=torch.device("cpu"), dtype=torch.float32, float8=True)
