from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support import write_model
from torch.utils.flop_counter import FlopCounterMode

from scstore.errors import ModelError
from scstore.model.loading import DEFAULT_MODEL, MINILM, load_backbone, locate_model
from scstore.model.shapes import (
    KNOWN_SHAPES,
    UTILISATION,
    cell_flop,
    device_of,
    kept_bytes,
    layer_parameters,
    model_shape,
    tokens_that_fit,
    weight_bytes,
)

SHAPE = {**KNOWN_SHAPES[MINILM], "num_hidden_layers": 2}


def test_the_default_model_has_thirteen_billion_weights() -> None:
    files = model_shape(DEFAULT_MODEL)
    assert (files.n_layers, files.width, files.context) == (40, 5120, 4096)
    assert weight_bytes(files.config, depth=40, itemsize=1) == pytest.approx(13e9, rel=0.02)


def test_the_embedded_model_is_as_its_package_has_it() -> None:
    pytest.importorskip("torch")
    config = locate_model(MINILM).config
    assert {name: config[name] for name in KNOWN_SHAPES[MINILM]} == KNOWN_SHAPES[MINILM]


def test_a_folder_needs_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    assert model_shape(str(tmp_path)).config == SHAPE


@pytest.mark.parametrize("content", ["{}", "not JSON", json.dumps({**SHAPE, "hidden_size": 0}), '{"auto_map": 1}'])
def test_a_config_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError):
        model_shape(str(tmp_path))


def test_a_model_of_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(SHAPE))
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text("abc")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert model_shape("some/model").n_layers == 2
    for name in ("some/other", "no such/one/at all", "./folder"):
        with pytest.raises(ModelError):
            model_shape(name)


def test_devices() -> None:
    assert device_of("h100")[:2] == pytest.approx((989e12 * UTILISATION, 80e9))
    assert device_of("cpu").memory is None


LLAMA_13B = {
    "model_type": "llama", "hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40,
    "num_hidden_layers": 40, "vocab_size": 32000,
}  # fmt: skip


def test_llama_2_13b_over_2048_genes() -> None:
    """317 million parameters a layer, 54 TFLOP a cell."""
    assert layer_parameters(LLAMA_13B) == pytest.approx(317e6, rel=0.01)
    assert cell_flop(LLAMA_13B, np.array([2063]), depth=40)[0] == pytest.approx(54.1e12, rel=0.01)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "bert"])
def test_it_is_what_torch_counts(kind: str, tmp_path: Path) -> None:
    """Of the linear layers; torch counts causal attention in full on the CPU."""
    folder = write_model(tmp_path / "m", kind)
    backbone = load_backbone(locate_model(str(folder)), device=torch.device("cpu"), dtype=torch.float32)
    config = json.loads((folder / "config.json").read_text())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.model(inputs_embeds=torch.zeros(1, 20, 32))
    counted = sum(value for name, value in counter.get_flop_counts()["Global"].items() if "mm" in str(name))
    linear = 3 * 2 * layer_parameters(config) * 20
    assert linear <= counted <= linear * 1.02  # rotary embeddings take a small product of their own


def test_the_weights_of_llama_2_13b_are_26_gb() -> None:
    assert weight_bytes(LLAMA_13B, depth=40, itemsize=2) == pytest.approx(26e9, rel=0.03)


@pytest.mark.parametrize(("free", "tokens"), [(141e9, 32768), (48e9, 32768), (30e9, 10240), (26e9, 1024), (0, 1024)])
def test_batches_shrink_with_the_memory(free: float, tokens: int) -> None:
    found = tokens_that_fit(LLAMA_13B, int(free), depth=40, itemsize=2, most=32768)
    assert found == pytest.approx(tokens, rel=0.25)
    assert found % 1024 == 0


def test_a_pass_with_its_way_back_takes_more_memory() -> None:
    """40 inputs of blocks of 5,120 half-precision numbers a position alone are 0.4 MB."""
    forward, both = (
        tokens_that_fit(LLAMA_13B, int(48e9), depth=40, itemsize=2, most=10**6, backward=backward)
        for backward in (False, True)
    )
    assert 1024 < both < forward / 2
    assert both * 40 * 5120 * 2 < 48e9 - weight_bytes(LLAMA_13B, depth=40, itemsize=2)


def test_what_a_pass_keeps_grows_with_depth_and_length() -> None:
    """Blocks of Llama-2-13b keep 8 rows of 5,120 and 4 of 13,824 numbers a position."""
    one = kept_bytes(LLAMA_13B, 1, depth=1, itemsize=2)
    assert one == 2 * (8 * 5120 + 4 * 13824)
    assert kept_bytes(LLAMA_13B, 100, depth=40, itemsize=2) == 4000 * one
