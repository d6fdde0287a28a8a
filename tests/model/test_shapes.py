from __future__ import annotations

import json
from pathlib import Path

import pytest

from scstore.errors import ModelError
from scstore.model.flops import weight_bytes
from scstore.model.loading import DEFAULT_MODEL, MINILM, locate_model
from scstore.model.shapes import KNOWN_SHAPES, UTILISATION, device_of, model_shape

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
