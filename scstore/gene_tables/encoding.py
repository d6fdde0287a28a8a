"""Gene tables encoded by a model or by an endpoint; model code is imported only when something is encoded."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scstore import fsio
from scstore.errors import OptionError, ScstoreError
from scstore.genes.table import DescribedGenes, GeneTable, load_gene_table, save_gene_table
from scstore.genes.vectors import KeptVectors, RandomEncoder, TextEncoder, encode_texts
from scstore.model.loading import ModelFiles, load_backbone, locate_model, pick_device
from scstore.progress import Reporter

ENDPOINT = "openai:"  # begins the name of an encoder behind an endpoint
RANDOM = "random:"
NO_ENCODER = {"kind": "none"}  # identity of the encoder of a table without vectors
# Genes whose texts are encoded at least, in widths of a vector: whitening and projector are fitted on them.
SPREAD = 4
USUAL_WIDTH = 1536  # width taken where it shows only in the first vector: that of most endpoints


@contextmanager
def open_encoder(
    name: str, *, revision: str | None, device: str | None, dtype: str | None, progress: Reporter
) -> Iterator[tuple[TextEncoder, KeptVectors | None]]:
    if name.startswith(ENDPOINT):
        from scstore.gene_tables.endpoint import endpoint_encoder  # needs scstore[endpoint]

        with endpoint_encoder(name.removeprefix(ENDPOINT), progress) as encoder:
            yield encoder, KeptVectors(encoder.identity)
    elif name.startswith(RANDOM):
        width = name.removeprefix(RANDOM)
        if not width.isdecimal() or not 1 <= int(width) <= 65536:
            raise OptionError(f"encoder={name!r} needs the width of the vectors, such as random:384.")
        yield RandomEncoder(int(width)), None
    else:
        yield _huggingface(locate_model(name, revision=revision), device=device, dtype=dtype)


def _huggingface(files: ModelFiles, *, device: str | None, dtype: str | None) -> tuple[TextEncoder, KeptVectors]:
    from scstore.model.text_encoder import HuggingFaceEncoder

    where, precision = pick_device(device, dtype)
    encoder = HuggingFaceEncoder(load_backbone(files, device=where, dtype=precision))
    return encoder, KeptVectors({**encoder.identity, "dtype": str(precision)})


def encode_table(
    genes: DescribedGenes,
    encoder: TextEncoder,
    *,
    kept: KeptVectors | None = None,
    enter: NDArray[np.bool_] | None = None,
    progress: Reporter | None = None,
) -> GeneTable:
    """Return the table of described genes; with ``enter``, of these texts and as many others as whitening takes."""
    rows = np.arange(len(genes.obs))
    if enter is not None:  # others are drawn by their text: the same ones in all tables that have them
        drawn = {row: hashlib.sha256(genes.obs["text"].iloc[row].encode()).digest() for row in rows[~enter]}
        n_others = max(0, SPREAD * (encoder.width or USUAL_WIDTH) - int(enter.sum()))
        rows = np.sort(np.array([*rows[enter], *sorted(drawn, key=drawn.__getitem__)[:n_others]], dtype=np.int64))
    encoded = encode_texts(encoder, list(genes.obs["text"].iloc[rows]), kept=kept, progress=progress)
    vectors = np.zeros((len(genes.obs), encoded.shape[1]), dtype=np.float32)
    vectors[rows] = encoded
    identity = {name: vectors.shape[1] if name == "width" else value for name, value in encoder.identity.items()}
    return GeneTable(genes.obs, vectors, identity, genes.template)


def cached_table(
    path: Path,
    genes: DescribedGenes,
    files: ModelFiles | None,
    *,
    enter: NDArray[np.bool_] | None = None,
    device: str | None,
    dtype: str | None,
    progress: Reporter,
) -> GeneTable:
    """Read the table beside a store if it has these genes and vectors, else make it; without ``files`` it has none."""
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
            whole = files is None or table.encoded[slice(None) if enter is None else enter].all()
            if same_texts and whole and table.encoder.get("digest") == digest:
                if files is not None:
                    progress.note(f"gene vectors: {path} ({table.encoded.sum():,} symbols, encoded before)")
                return table
    if files is None:
        table = GeneTable(genes.obs, np.zeros((len(genes.obs), 0), dtype=np.float32), NO_ENCODER, genes.template)
    else:
        encoder, kept = _huggingface(files, device=device, dtype=dtype)
        table = encode_table(genes, encoder, kept=kept, enter=enter, progress=progress)
        progress.note(f"gene vectors: {table.encoded.sum():,} symbols encoded by {files.name}, kept in {path}")
    save_gene_table(table, path, overwrite=True)
    return load_gene_table(path)
