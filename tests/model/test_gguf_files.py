from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scstore.errors import DamagedError, ModelError
from scstore.model import gguf_files
from scstore.model.gguf_files import SMOLLM2_DIGEST
from scstore.model.loading import SMOLLM2, load_backbone, locate_model
from scstore.model.shapes import KNOWN_SHAPES, model_shape

CPU = torch.device("cpu")


def write_gguf(path: Path, *, kind: str = "llama", layers: int = 2) -> dict[str, np.ndarray]:
    """A random Llama packed as llama.cpp packs one, with rows of queries and keys in its order; the weights by name."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    tokens = ["<unk>", "<s>", "</s>", *map(chr, range(33, 127)), "Ġ", "ĠC"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ C"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), 32), "output_norm": (32,)}
    for i in range(layers):
        shapes |= {f"blk.{i}.attn_q": (32, 32), f"blk.{i}.attn_k": (16, 32), f"blk.{i}.attn_v": (16, 32)}
        shapes |= {f"blk.{i}.attn_output": (32, 32), f"blk.{i}.attn_norm": (32,), f"blk.{i}.ffn_norm": (32,)}
        shapes |= {f"blk.{i}.ffn_gate": (48, 32), f"blk.{i}.ffn_up": (48, 32), f"blk.{i}.ffn_down": (32, 48)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name, values in weights.items():
        heads = {"attn_q": 4, "attn_k": 2}.get(name.rpartition(".")[2])
        packed = values
        if heads:  # llama.cpp interleaves the two halves of each head's rotation
            packed = values.reshape(heads, 2, -1, 32).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(packed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def test_a_gguf_file_is_unpacked_once_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSTORE_CACHE", str(tmp_path / "cache"))
    weights = write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Nonsense"}')  # lies beside it by chance
    found = locate_model(str(tmp_path / "tiny.gguf"))
    assert (found.model_type, found.n_layers, found.width, found.context) == ("llama", 2, 32, 64)
    unpacked = load_file(found.folder / "model.safetensors")
    for name, own in (("blk.1.attn_q", "layers.1.self_attn.q_proj"), ("blk.0.attn_k", "layers.0.self_attn.k_proj")):
        np.testing.assert_array_equal(unpacked[f"{own}.weight"], weights[name].astype(np.float16))
    np.testing.assert_array_equal(unpacked["embed_tokens.weight"], weights["token_embd"].astype(np.float16))
    backbone = load_backbone(found, device=CPU, dtype=torch.float32)
    assert len(backbone.layers) == 2
    assert backbone.tokenizer("a", add_special_tokens=False)["input_ids"] == [3 + ord("a") - 33]

    monkeypatch.setattr("scstore.model.loading.unpack", pytest.fail)
    assert locate_model(str(tmp_path / "tiny.gguf")) == found
    shape = model_shape(str(tmp_path / "tiny.gguf")).config
    assert {name: found.config[name] for name in shape} == shape


def test_a_damaged_copy_is_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSTORE_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "tiny.gguf")
    found = locate_model(str(tmp_path / "tiny.gguf"))
    before = (found.folder / "model.safetensors").read_bytes()
    (found.folder / "model.safetensors").write_bytes(before[:-4] + b"\0\0\0\1")
    assert locate_model(str(tmp_path / "tiny.gguf")) == found
    assert (found.folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\3\0\0\0" + b"\xff" * 64])
def test_what_is_no_gguf_is_a_model_error(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSTORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "odd.gguf").write_bytes(content)
    for look in (locate_model, model_shape):
        with pytest.raises(ModelError):
            look(str(tmp_path / "odd.gguf"))
    with pytest.raises(ModelError):
        locate_model(str(tmp_path / "none.gguf"))
    assert not any((tmp_path / "cache").rglob("*.safetensors"))


def test_the_embedded_decoder_has_its_shape_and_knows_genes(smollm2: str) -> None:
    files = locate_model(smollm2)
    assert files.digest == SMOLLM2_DIGEST
    assert {name: files.config[name] for name in KNOWN_SHAPES[SMOLLM2]} == KNOWN_SHAPES[SMOLLM2]
    backbone = load_backbone(files, device=CPU, dtype=torch.float32)

    def likely(text: str) -> str:
        """The word that the whole model would write next; its input embeddings are its output ones, too."""
        ids = torch.tensor([backbone.tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            last = backbone.model(input_ids=ids).last_hidden_state[0, -1]
        return str(backbone.tokenizer.decode(int((backbone.token_embeddings @ last).argmax())))

    assert likely("The capital of France is") == " Paris"
    assert likely("CD3D and CD4 are genes of the immune") == " system"


def test_an_embedded_decoder_of_other_bytes_is_refused(smollm2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_files, "SMOLLM2_DIGEST", SMOLLM2_DIGEST[:-1] + "0")
    with pytest.raises(DamagedError):
        locate_model(smollm2)
