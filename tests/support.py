"""Real parts that tests build: small random models in Hugging Face layout, synthetic cells."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import scstore
from scstore import fsio
from scstore.errors import ScstoreWarning
from scstore.progress import Reporter

Run = Callable[..., subprocess.CompletedProcess[str]]
"""The command line in a process of its own: words, then `code=` and `env=`."""

ROOT = Path(__file__).parent.parent

# Before a script that is sent signals: a shell's background job, and so its children, ignores some of them.
DEFAULT_SIGNALS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
"""
WORDS = "what is the cell type of this given embedding ? gene protein blood a b c d e f".split()


def write_tokenizer(folder: Path, *, begin: str, end: str) -> int:
    """A word-level tokenizer that also spells unknown words; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = [chr(code) for code in range(33, 127)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(["<unk>", begin, end, *WORDS, *letters]))}
    merges: list[tuple[str, str]] = []
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "TokenizersBackend", "unk_token": "<unk>"}
    config |= {"bos_token": begin, "eos_token": end} if begin == "<s>" else {"cls_token": begin, "sep_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(vocabulary)


def write_model(folder: Path, kind: str = "llama", *, seed: int = 0, context: int = 128) -> Path:
    """A small random model of a family, saved as transformers saves the large ones."""
    pytest.importorskip("torch")
    import torch
    from transformers import (
        BertConfig,
        BertModel,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralModel,
        Qwen2Config,
        Qwen2Model,
        Qwen3Config,
        Qwen3Model,
    )  # fmt: skip

    folder.mkdir(parents=True)
    ends = {"begin": "[CLS]", "end": "[SEP]"} if kind == "bert" else {"begin": "<s>", "end": "</s>"}
    vocabulary = write_tokenizer(folder, **ends)
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": context,
    }
    grouped = {**shape, "num_key_value_heads": 2}
    torch.manual_seed(seed)
    model = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**grouped)),
        "mistral": lambda: MistralModel(MistralConfig(**grouped)),
        "qwen2": lambda: Qwen2Model(Qwen2Config(**grouped)),
        "qwen3": lambda: Qwen3Model(Qwen3Config(**grouped, head_dim=8)),
        "bert": lambda: BertModel(BertConfig(**shape)),
    }[kind]()
    with torch.no_grad():  # the default initialisation is so small that layers hardly differ
        for name, weights in model.named_parameters():
            if weights.ndim == 2:
                weights.mul_(5)
            elif "norm" not in name.lower():
                weights.add_(torch.randn_like(weights) * 0.1)
    model.save_pretrained(folder)
    return folder


def make_cells(n_cells: int = 60, n_genes: int = 40, *, seed: int = 0, empty: int | None = None) -> anndata.AnnData:
    """Counts of three cell types, each with genes of its own; `empty` names a cell without any count."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, n_cells)
    rates = np.full((3, n_genes), 0.4)
    for kind in range(3):
        rates[kind, kind * 5 : kind * 5 + 5] = 6.0
    counts = rng.poisson(rates[kinds]).astype(np.float32)
    counts[:, -1] += 1  # a housekeeping gene: no cell is empty by chance
    if empty is not None:
        counts[empty] = 0
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type {kind}" for kind in kinds]),
            "donor": [f"d{i % 2}" for i in range(n_cells)],
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    return anndata.AnnData(csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)]))


def make_evaluation_cells(n_cells: int = 126, *, seed: int = 0) -> anndata.AnnData:
    """`make_cells`, one cell empty, with 7 patients, 2 species, and labels of which one class is rare."""
    cells = make_cells(n_cells, seed=seed, empty=5)
    cells.obs["patient"] = [f"p{i % 7}" for i in range(n_cells)]
    cells.obs["species"] = ["human" if i % 3 else "mouse" for i in range(n_cells)]
    cells.obs["with_rare"] = cells.obs["cell_type"].astype(str).where(np.arange(n_cells) > 3, "rare")
    return cells


class Notes(Reporter):
    """Keeps what a workflow says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str, kind: type[ScstoreWarning] = ScstoreWarning) -> None:
        self.said.append(message)


def extract(cells: Any, out: Path, model: Path, **options: Any) -> scstore.Store:
    """Extract with a model in a folder."""
    return scstore.extract(cells, out, model=str(model), **options)


def make_store(cells: anndata.AnnData, out: Path, model: Path | str, **options: Any) -> scstore.Store:
    """The store that :func:`extract` makes, made once a run and copied after that.

    Where there is no torch it is taken from the folder ``SCSTORE_TEST_STORES``, which a run of the whole suite fills;
    a test whose store is not there is skipped.
    """
    folder = Path(os.environ["SCSTORE_TEST_STORES"])
    kept = folder / f"{out.stem}-{_key(cells, model, options)}"
    if not kept.is_dir():
        pytest.importorskip("torch", reason="the store of this test is made with torch, which is not installed")
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as made:
            extract(cells, Path(made) / "made" / out.name, Path(model), **options)
            with contextlib.suppress(OSError):  # another worker was first
                (Path(made) / "made").rename(kept)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(kept, out.parent, dirs_exist_ok=True)
    return scstore.open(out)


def _key(cells: anndata.AnnData, model: Path | str, options: dict[str, Any]) -> str:
    """Digest of everything that decides the store."""
    matrix = csr_matrix(cells.X)
    digest = hashlib.sha256()
    for array in (matrix.indptr, matrix.indices, matrix.data):
        digest.update(np.ascontiguousarray(array).tobytes())
    said: list[Any] = [cells.obs.to_csv(), list(map(str, cells.var_names)), Path(model).name]
    for name, value in sorted(options.items()):
        is_path = isinstance(value, str | Path) and Path(value).exists()
        said.append([name, fsio.digest_tree(value) if is_path else repr(value)])
    digest.update(json.dumps(said).encode())
    return digest.hexdigest()[:24]


def read_xlsx(path: Path) -> list[list[str]]:
    """Read the text of the cells of the only sheet, row by row; a formula gives itself with ``=`` before it."""
    space = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with zipfile.ZipFile(path) as parts:
        sheet = ElementTree.fromstring(parts.read("xl/worksheets/sheet1.xml"))  # noqa: S314  # our own file
    rows = []
    for row in sheet.iter(f"{space}row"):
        cells = {}
        for cell in row.iter(f"{space}c"):
            column = sum((ord(c) - 64) * 26**i for i, c in enumerate(reversed(cell.attrib["r"].rstrip("0123456789"))))
            formula = cell.find(f"{space}f")
            text = "".join(one.text or "" for one in cell.iter() if one.tag in (f"{space}v", f"{space}t"))
            cells[column - 1] = text if formula is None else f"formula {formula.text}"
        rows.append([cells.get(i, "") for i in range(max(cells) + 1)])
    return [[*row, *[""] * (len(rows[0]) - len(row))] for row in rows]
