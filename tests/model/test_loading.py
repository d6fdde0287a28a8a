from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import write_model

from scstore.errors import DamagedError, ModelError
from scstore.model.loading import (
    DEFAULT_MODEL,
    MINILM,
    MINILM_DIGEST,
    load_backbone,
    locate_model,
    pick_device,
)

CPU = torch.device("cpu")


def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def test_a_folder_is_read_without_loading_it(llama: Path) -> None:
    files = locate_model(str(llama))
    assert (files.model_type, files.is_decoder, files.n_layers, files.width, files.context) == (
        "llama",
        True,
        3,
        32,
        128,
    )


def test_the_digest_names_weights_configuration_and_tokenizer(llama: Path, tmp_path: Path) -> None:
    folder = copy(llama, tmp_path)
    first = locate_model(str(folder)).digest
    assert first == locate_model(str(llama)).digest
    for name in ("config.json", "tokenizer.json"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept + b"\n")
        assert locate_model(str(folder)).digest != first
        (folder / name).write_bytes(kept)
    other = write_model(tmp_path / "other", seed=1)
    assert locate_model(str(other)).digest != first


def sharded(folder: Path, name: str = "model-2.safetensors") -> Path:
    """The folder with its weights in one file of any name, and an index that says so."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-2.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("inside", ["model-2.safetensors", "sub/model.safetensors"])
def test_the_digest_names_every_file_of_weights_that_is_loaded(llama: Path, tmp_path: Path, inside: str) -> None:
    """RELIABILITY 60."""
    folder = sharded(copy(llama, tmp_path), inside)
    (folder / inside).parent.mkdir(exist_ok=True)
    (folder / "model-2.safetensors").rename(folder / inside)
    first = locate_model(str(folder))
    assert load_backbone(first, device=CPU, dtype=torch.float32).files.digest == first.digest
    shutil.copy(write_model(tmp_path / "other", seed=1) / "model.safetensors", folder / inside)
    assert locate_model(str(folder)).digest != first.digest


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "merges.txt"])
def test_the_digest_names_all_that_decides_the_tokens(llama: Path, tmp_path: Path, name: str) -> None:
    folder = copy(llama, tmp_path)
    (folder / name).write_text("{}")
    first = locate_model(str(folder)).digest
    (folder / name).write_text('{"do_lower_case": true}')
    assert locate_model(str(folder)).digest != first


@pytest.mark.parametrize("way", ["above", "absolute", "link", "linked folder", "pickle", "missing", "linked weights"])
def test_weights_outside_the_folder_are_refused(llama: Path, tmp_path: Path, way: str) -> None:
    """RELIABILITY 60."""
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(llama / "model.safetensors", outside / "model-2.safetensors")
    names = {"above": "../outside/model-2.safetensors", "absolute": str(outside / "model-2.safetensors")}
    names |= {"linked folder": "sub/model-2.safetensors", "pickle": "model-2.bin", "missing": "model-3.safetensors"}
    folder = sharded(copy(llama, tmp_path), names.get(way, "model-2.safetensors"))
    if way == "link":
        (folder / "model-2.safetensors").unlink()
        (folder / "model-2.safetensors").symlink_to(outside / "model-2.safetensors")
    elif way == "linked folder":
        (folder / "sub").symlink_to(outside)
    elif way == "linked weights":
        (folder / "model.safetensors").symlink_to(outside / "model-2.safetensors")
    with pytest.raises(ModelError):
        locate_model(str(folder))


def test_a_snapshot_of_the_hub_is_read_through_its_links(llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 60: the hub keeps the bytes of its snapshots beside them."""
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0a1b"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in llama.iterdir():
        shutil.copy(file, blobs / f"hash-of-{file.name}")
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / f"hash-of-{file.name}")
    found = locate_model(str(snapshot))
    assert found.digest == locate_model(str(llama)).digest
    load_backbone(found, device=CPU, dtype=torch.float32)


def test_an_adapter_is_refused(llama: Path, tmp_path: Path) -> None:
    """Its base model would be read from wherever the adapter says."""
    folder = copy(llama, tmp_path)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere"}))
    with pytest.raises(ModelError):
        locate_model(str(folder))


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "bert"])
def test_every_supported_family_loads_frozen_and_whole(kind: str, tmp_path: Path) -> None:
    backbone = load_backbone(locate_model(str(write_model(tmp_path / "m", kind))), device=CPU, dtype=torch.float32)
    assert len(backbone.layers) == 3
    assert not any(weights.requires_grad for weights in backbone.model.parameters())
    assert not backbone.model.training
    assert backbone.token_embeddings.shape[1] == 32
    assert not any("lm_head" in name or "pooler" in name for name, _ in backbone.model.named_parameters())


def test_layers_above_the_depth_are_not_loaded(llama: Path) -> None:
    backbone = load_backbone(locate_model(str(llama)), device=CPU, dtype=torch.float32, depth=2)
    assert len(backbone.layers) == 2
    assert backbone.files.n_layers == 3


def test_custom_code_is_refused_and_never_runs(llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 41: a model folder with custom code."""
    folder = copy(llama, tmp_path)
    canary = tmp_path / "canary"
    (folder / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling_evil.Evil"}}))
    with pytest.raises(ModelError):
        locate_model(str(folder))
    assert not canary.exists()


def test_pickled_weights_are_refused(llama: Path, tmp_path: Path) -> None:
    """RELIABILITY 41: only .bin weights."""
    folder = copy(llama, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError):
        locate_model(str(folder))


def test_missing_weights_are_not_made_up(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy(llama, tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        load_backbone(locate_model(str(folder)), device=CPU, dtype=torch.float32)


def test_truncated_weights_are_a_model_error(llama: Path, tmp_path: Path) -> None:
    folder = copy(llama, tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError):
        load_backbone(locate_model(str(folder)), device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"model_type": "gpt_bigcode"}, "not supported"), ({"num_hidden_layers": 0}, "num_hidden_layers is 0")],
)
def test_unsupported_configurations_are_named(
    llama: Path, tmp_path: Path, change: dict[str, object], word: str
) -> None:
    folder = copy(llama, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=word):
        locate_model(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "many"},
        {"hidden_size": True},
        {"intermediate_size": None},
        {"vocab_size": 10**12},
        {"num_attention_heads": [4]},
        {"head_dim": -1},
        {"rope_scaling": {"rope_type": "nonsense"}},
        {"rope_parameters": 7},
        {"hidden_act": "nonsense"},
        {"rms_norm_eps": "small"},
        {"num_attention_heads": 5},
        {"pad_token_id": "x"},
    ],
)
def test_an_odd_configuration_is_a_model_error(llama: Path, tmp_path: Path, change: dict[str, object]) -> None:
    """RELIABILITY 66: whatever transformers makes of it."""
    folder = copy(llama, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    for seed in (None, 0):
        with pytest.raises(ModelError, match="model"):
            load_backbone(locate_model(str(folder)), device=CPU, dtype=torch.float32, random_seed=seed)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "justaname"])
def test_a_missing_folder_is_named(name: str) -> None:
    with pytest.raises(ModelError):
        locate_model(name)


def test_a_hub_model_that_cannot_be_reached_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="minilm"):
        locate_model("someone/nothing")


def test_llama_2_13b_is_loaded_from_the_hub_cache(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that loads meta-llama/Llama-2-13b-hf, its cache filled with a small Llama."""
    repo = tmp_path / "models--meta-llama--Llama-2-13b-hf"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(llama, snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    files = locate_model(DEFAULT_MODEL)
    backbone = load_backbone(files, device=CPU, dtype=torch.bfloat16)
    assert (files.name, files.folder, len(backbone.layers)) == (DEFAULT_MODEL, snapshot, 3)


def test_the_embedded_model_is_the_original_release() -> None:
    files = locate_model(MINILM)
    assert (files.model_type, files.n_layers, files.width, files.context) == ("bert", 6, 384, 512)


def test_an_embedded_model_with_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scstore.model.loading.MINILM_DIGEST", MINILM_DIGEST[:-1] + "0")
    with pytest.raises(DamagedError):
        locate_model(MINILM)


def test_device_and_precision_are_checked() -> None:
    assert pick_device("cpu", None) == (CPU, torch.float32)
    assert pick_device("cpu", "bfloat16") == (CPU, torch.bfloat16)
    with pytest.raises(ModelError, match="dtype=.int8"):
        pick_device("cpu", "int8")
    with pytest.raises(ModelError, match="device=.nonsense"):
        pick_device("nonsense", None)


def test_the_trained_llama_of_260k_parameters_loads(shared: Path) -> None:
    files = locate_model(str(shared / "llama-stories260k"))
    backbone = load_backbone(files, device=CPU, dtype=torch.float32)
    assert (files.n_layers, files.width, len(backbone.layers)) == (5, 64, 5)


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
