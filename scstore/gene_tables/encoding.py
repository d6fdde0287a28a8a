"""Gene tables encoded by a model or by an endpoint; model code is imported only when something is encoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scstore import fsio
from scstore.errors import OptionError, ScstoreError
from scstore.genes.table import GeneTable, load_gene_table, save_gene_table
from scstore.genes.texts import DescribedGenes
from scstore.genes.vectors import RandomEncoder, TextEncoder, encode_texts
from scstore.progress import Reporter

if TYPE_CHECKING:
    from scstore.model.loading import ModelFiles


# Begins the name of an encoder behind an endpoint.
ENDPOINT = "openai:"

RANDOM = "random:"
# Identity of the encoder of a table without vectors.
NO_ENCODER = {"kind": "none"}


@contextmanager
def open_encoder(
    name: str,
    genes: DescribedGenes,
    output: Path,
    *,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    progress: Reporter,
) -> Iterator[TextEncoder]:
    """Open an encoder by name, for a table that is saved at ``output`` before the block ends."""
    if name.startswith(ENDPOINT):
        from scstore.gene_tables.endpoint import endpoint_encoder  # needs scstore[endpoint]

        with endpoint_encoder(name.removeprefix(ENDPOINT), output, list(genes.obs["text"]), progress) as encoder:
            yield encoder
    elif name.startswith(RANDOM):
        width = name.removeprefix(RANDOM)
        if not width.isdecimal() or not 1 <= int(width) <= 65536:
            raise OptionError(f"encoder={name!r} needs the width of the vectors, such as random:384.")
        yield RandomEncoder(int(width))
    else:
        from scstore.model.loading import locate_model

        yield _huggingface(locate_model(name, revision=revision), device=device, dtype=dtype)


def _huggingface(files: ModelFiles, *, device: str | None, dtype: str | None) -> TextEncoder:
    from scstore.model.loading import load_backbone, pick_device
    from scstore.model.text_encoder import HuggingFaceEncoder

    where, precision = pick_device(device, dtype)
    return HuggingFaceEncoder(load_backbone(files, device=where, dtype=precision))


def encode_table(genes: DescribedGenes, encoder: TextEncoder, *, progress: Reporter | None = None) -> GeneTable:
    """Return the gene table of described genes."""
    vectors = encode_texts(encoder, list(genes.obs["text"]), progress=progress)
    return GeneTable(genes.obs, vectors, encoder.identity, genes.template)


def cached_table(
    path: Path,
    genes: DescribedGenes,
    files: ModelFiles | None,
    *,
    device: str | None,
    dtype: str | None,
    progress: Reporter,
) -> GeneTable:
    """Read the gene table beside a store if it has these genes and vectors, else make it and write it.

    Without ``files`` (the model that encodes) the table has no vectors.
    """
    if path.exists():
        try:
            table = load_gene_table(path)
        except ScstoreError as error:
            aside = path.with_name(f"{path.name}.damaged")
            fsio.disk.rename(path, aside)
            progress.warn(f"{error} It is made anew, and the old one is kept as {aside.name}.")
        else:
            digest = None if files is None else files.digest
            same_texts = table.obs.equals(genes.obs) and table.template == genes.template
            if same_texts and table.encoder.get("digest") == digest:
                if files is not None:
                    progress.note(f"gene vectors: {path} ({len(table):,} symbols, encoded before)")
                return table
    if files is None:
        table = GeneTable(genes.obs, np.zeros((len(genes.obs), 0), dtype=np.float32), NO_ENCODER, genes.template)
    else:
        table = encode_table(genes, _huggingface(files, device=device, dtype=dtype), progress=progress)
        progress.note(f"gene vectors: {len(table):,} symbols encoded by {files.name}, kept in {path}")
    save_gene_table(table, path, overwrite=True)
    return load_gene_table(path)
