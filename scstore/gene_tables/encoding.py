"""Gene tables made by the model that will read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scstore.errors import OptionError, ScstoreError
from scstore.genes.encoders import RandomEncoder, TextEncoder, encode_texts
from scstore.genes.table import GeneTable, load_gene_table, save_gene_table
from scstore.model.loading import ModelFiles, load_backbone, locate_model, pick_device
from scstore.progress import Reporter

__all__ = ["cached_table", "encode_table", "make_encoder"]

NO_ENCODER = {"kind": "none"}
"""Identity of the encoder of a table of symbols without vectors."""


def make_encoder(
    name: str, *, revision: str | None = None, device: str | None = None, dtype: str | None = None
) -> TextEncoder:
    """Load a text encoder by name: a Hugging Face model, or ``random:WIDTH``.

    Raises
    ------
    OptionError
        If the name is malformed.
    ModelError
        If the model cannot be loaded.
    """
    if name.startswith("random:"):
        width = name.removeprefix("random:")
        if not width.isdecimal() or not 1 <= int(width) <= 65536:
            msg = f"--encoder {name}: give the width of the vectors, such as random:384."
            raise OptionError(msg)
        return RandomEncoder(int(width))
    return _huggingface(locate_model(name, revision=revision), device=device, dtype=dtype)


def _huggingface(files: ModelFiles, *, device: str | None, dtype: str | None) -> TextEncoder:
    from scstore.model.text_encoder import HuggingFaceEncoder  # needs torch, which the other encoders do not

    where, precision = pick_device(device, dtype)
    return HuggingFaceEncoder(load_backbone(files, device=where, dtype=precision))


def encode_table(
    obs: pd.DataFrame, template: str, encoder: TextEncoder, *, progress: Reporter | None = None
) -> GeneTable:
    """A gene table from described genes.

    Parameters
    ----------
    obs, template
        From :mod:`scstore.genes.descriptions`.
    encoder
        What encodes the texts.
    progress
        Told after every batch.
    """
    vectors = encode_texts(encoder, list(obs["text"]), progress=progress)
    return GeneTable(obs, vectors, encoder.identity, template)


def cached_table(
    path: Path,
    described: tuple[pd.DataFrame, str],
    files: ModelFiles | None,
    *,
    device: str | None,
    dtype: str | None,
    progress: Reporter,
) -> GeneTable:
    """The gene table beside a store: read where it is there and the same, else made by the model and written.

    Parameters
    ----------
    path
        Where the table is cached.
    described
        The genes it must hold, and the template.
    files
        The model that encodes them; ``None`` where their vectors are not wanted.
    device, dtype
        As for extraction.
    progress
        Told about the work.
    """
    obs, template = described
    if path.exists():
        try:
            table = load_gene_table(path)
        except ScstoreError as error:
            progress.warn(f"{error} It is made anew.")
        else:
            if table.obs.equals(obs) and _encoded_by(table.encoder, files) and table.template == template:
                if files is not None:
                    progress.note(f"gene vectors: {path} ({len(table):,} symbols, encoded before)")
                return table
    if files is None:
        vectors = np.zeros((len(obs), 0), dtype=np.float32)
        save_gene_table(GeneTable(obs, vectors, NO_ENCODER, template), path, overwrite=True)
        return load_gene_table(path)
    encoder = _huggingface(files, device=device, dtype=dtype)
    table = encode_table(obs, template, encoder, progress=progress)
    save_gene_table(table, path, overwrite=True)
    progress.note(f"gene vectors: {len(table):,} symbols encoded by {files.name}, kept in {path}")
    return load_gene_table(path)


def _encoded_by(identity: Mapping[str, Any], files: ModelFiles | None) -> bool:
    return dict(identity) == NO_ENCODER if files is None else identity.get("digest") == files.digest
