from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import make_cells, write_model
from torch._dynamo.utils import counters

import scstore
from scstore.errors import ModelError, OptionError, ScstoreWarning
from scstore.extraction.estimate import estimate
from scstore.model.gpu_layers import Float8Linear, compile_layers
from scstore.model.loading import Backbone, load_backbone, locate_model, pick_device
from scstore.progress import Reporter

CPU = torch.device("cpu")


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Backbone:
    return load_backbone(locate_model(str(folder)), device=CPU, dtype=dtype)


def states(backbone: Backbone, inputs: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        given = {"use_cache": False} if backbone.files.is_decoder else {}
        inputs = inputs.to(backbone.dtype, copy=True)  # made in inference mode, as a readout's are
        return backbone.model(inputs_embeds=inputs, **given).last_hidden_state.float()


@pytest.mark.parametrize("scales_inside", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_float8_layer_multiplies_row_by_row(bias: bool, scales_inside: bool) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 48, bias=bias).requires_grad_(requires_grad=False)
    layer, hidden = Float8Linear(linear), torch.randn(2, 5, 64).bfloat16()
    layer.scales_inside = scales_inside
    with torch.inference_mode():
        exact, found = linear(hidden.float()), layer(hidden)
        assert found.dtype == torch.bfloat16
        assert (found - exact).norm() / exact.norm() < 0.05
        hidden[1, 4] *= 1e4  # one large activation leaves the others as they were
        assert torch.equal(layer(hidden)[0], found[0])
        assert torch.equal(layer(hidden)[1, :4], found[1, :4])
        assert not layer(torch.zeros(1, 1, 64).bfloat16()).isnan().any()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "bert"])
def test_float8_models_stay_close_and_take_a_byte_a_weight(kind: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / kind, kind)
    full, small = load(folder), load(folder, torch.float8_e4m3fn)
    inputs = 0.1 * torch.randn(3, 17, 32, generator=torch.Generator().manual_seed(1))
    near = torch.nn.functional.cosine_similarity(states(full, inputs), states(small, inputs), dim=2)
    assert near.min() > 0.97
    assert small.dtype == torch.bfloat16
    linear = [m for layer in small.layers for m in layer.modules() if isinstance(m, Float8Linear)]
    assert len(linear) == sum(isinstance(m, torch.nn.Linear) for layer in full.layers for m in layer.modules())
    assert {m.weight.dtype for m in linear} == {torch.float8_e4m3fn}


def test_compiled_layers_read_the_same(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One piece of code for all layers and all batches but those of one cell."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, compiled = load(llama), load(llama)
    torch._dynamo.reset()
    counters.clear()
    compile_layers(compiled.model, compiled.layers, Reporter())
    for cells, positions in ((1, 50), (7, 20), (16, 100)):
        inputs = torch.randn(cells, positions, 32, generator=torch.Generator().manual_seed(cells))
        torch.testing.assert_close(states(compiled, inputs), states(plain, inputs))
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


def test_layers_that_cannot_be_compiled_run_as_they_are(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        def forward(*_: Any, **__: Any) -> Any:
            raise RuntimeError("no compiler")

        return forward

    monkeypatch.setattr(torch, "compile", refuses)
    backbone, inputs = load(llama), torch.ones(2, 9, 32)
    before = states(backbone, inputs)
    with pytest.warns(ScstoreWarning):
        compile_layers(backbone.model, backbone.layers, Reporter())
    assert torch.equal(states(backbone, inputs), before)


def test_float8_is_a_feature_space_of_its_own(llama: Path, tmp_path: Path) -> None:
    cells = make_cells(20)
    options = {"model": str(llama), "pool": ("wmean",), "companions": ()}
    plain = scstore.extract(cells, tmp_path / "plain.zarr", **options)
    small = scstore.extract(cells, tmp_path / "small.zarr", dtype="float8", **options)
    name = small.default_view
    rows, others = (np.asarray(store.view(name)[:], dtype=np.float32) for store in (small, plain))
    near = (rows * others).sum(axis=1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(others, axis=1)
    assert 0.98 < near.min() < 1
    assert small.view(name).fingerprint != plain.view(name).fingerprint
    alike = scstore.extract(cells[:7].copy(), tmp_path / "alike.zarr", like=small)
    assert alike.record["options"]["dtype"] == "float8"
    assert alike.view(name).fingerprint == small.view(name).fingerprint
    np.testing.assert_allclose(alike.view(name)[:], rows[:7], rtol=0.02, atol=0.02)
    for like, dtype in ((small, "bfloat16"), (plain, "float8")):
        with pytest.raises(OptionError):
            scstore.extract(cells, tmp_path / "x.zarr", like=like, dtype=dtype)


def test_float8_is_refused_where_it_cannot_be(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = make_cells(20)
    with pytest.warns(ScstoreWarning, match="last"):
        scstore.extract(cells, tmp_path / "warned.zarr", model=str(llama), dtype="float8")
    with pytest.raises(OptionError):
        scstore.extract(cells, tmp_path / "s.zarr", model=str(llama), dtype="float8", spread=True)
    with pytest.raises(OptionError):
        scstore.align(cells, tmp_path / "p", label="cell_type", model=str(llama), dtype="float8")
    with pytest.raises(OptionError):
        estimate(cells, tmp_path / "s.zarr", model=str(llama), dtype="float8", gpu="a100")
    old = torch.device("cuda")
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an A100")
    assert pick_device("cuda", "bfloat16") == (old, torch.bfloat16)
    for device in ("cuda", "mps"):
        with pytest.raises(ModelError):
            pick_device(device, "float8")


def test_a_float8_model_takes_half_the_memory_and_less_time(llama: Path, tmp_path: Path) -> None:
    cells = make_cells(20)
    given = {"model": "meta-llama/Llama-2-13b-hf", "gpu": "h100"}
    whole, small = (estimate(cells, tmp_path / "s.zarr", dtype=dtype, **given) for dtype in (None, "float8"))
    layers = 40 * (4 * 5120**2 + 3 * 5120 * 13824)
    assert whole.weight_bytes - small.weight_bytes == layers
    assert whole.gpu_hours / small.gpu_hours == pytest.approx(1.6)
    assert "rtx4090" in small.fitting
    assert "rtx4090" not in whole.fitting
