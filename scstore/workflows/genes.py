"""``scstore genes build``: gene texts into a table of gene vectors."""

from __future__ import annotations

import os
from pathlib import Path

from scstore import fsio
from scstore.cells.formats import open_cells
from scstore.cells.matching import guess_organism
from scstore.errors import OptionError
from scstore.genes.descriptions import describe_by_symbol, read_descriptions
from scstore.genes.table import GeneTable, save_gene_table
from scstore.progress import Reporter
from scstore.workflows.models import encode_table, make_encoder

__all__ = ["build_genes"]


def build_genes(
    output: str | os.PathLike[str],
    *,
    text: str | os.PathLike[str] | None = None,
    cells: str | os.PathLike[str] | None = None,
    template: str | None = None,
    organism: str | None = None,
    encoder: str = "minilm",
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    progress: Reporter | None = None,
) -> GeneTable:
    """Describe genes in words, encode the words, and write the gene table.

    Parameters
    ----------
    output
        The table, an ``.h5ad`` of genes × dimensions.
    text
        A TSV or JSON file of gene texts.
    cells
        Instead: an input of cells whose gene symbols are the texts.
    template
        How a gene's text is put together from the columns of ``text``.
    organism
        ``human`` or ``mouse``, where the file does not say; guessed from the symbols by default.
    encoder
        A Hugging Face model by name or folder, ``minilm``, or ``random:WIDTH`` for the control that knows nothing.
    revision, device, dtype
        Of the encoder.
    overwrite
        Replace an existing table.
    progress
        Told what happens.

    Returns
    -------
    GeneTable
        As written.

    Raises
    ------
    OptionError
        If not exactly one of ``text`` and ``cells`` is given.
    GenesError
        If the texts cannot be read.
    """
    if (text is None) == (cells is None):
        msg = "Give either --text FILE (gene texts) or --symbols-of CELLS (the symbols are the texts)."
        raise OptionError(msg)
    fsio.check_output(output, overwrite=overwrite)
    progress = progress or Reporter()
    if text is not None:
        obs, used = read_descriptions(text, template=template, organism=organism or "")
    else:
        assert cells is not None  # noqa: S101  # checked above, for the type checker
        if template is not None:
            msg = "--template goes with --text; the symbols of cells are encoded as they are."
            raise OptionError(msg)
        with open_cells(cells, scratch=Path(output).parent) as opened:
            var = opened.var(next(iter(opened.slots)))
        names = list(dict.fromkeys(str(name) for name in var.get("symbol", var.index)))
        obs, used = describe_by_symbol(names, organism=organism or guess_organism(names) or "")
    by_symbol = int((obs["text_source"] == "symbol").sum())
    progress.note(f"genes: {len(obs):,}, of which {by_symbol:,} are described by their symbol alone")
    table = encode_table(
        obs, used, make_encoder(encoder, revision=revision, device=device, dtype=dtype), progress=progress
    )
    save_gene_table(table, output, overwrite=overwrite)
    return table
