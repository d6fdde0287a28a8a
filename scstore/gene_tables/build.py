"""``scstore genes build``: gene texts into a table of gene vectors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scstore import fsio
from scstore.cells.opening import open_cells
from scstore.errors import OptionError
from scstore.gene_tables.encoding import encode_table, make_encoder
from scstore.genes.descriptions import read_descriptions
from scstore.genes.matching import match_genes
from scstore.genes.ncbi import NCBI_TEMPLATE, TAXA, coverage, describe_by_ncbi, read_gene_info, read_summaries
from scstore.genes.orthologs import describe_cells, other_organism, read_orthologs
from scstore.genes.published import read_published
from scstore.genes.species import guess_organism
from scstore.genes.table import GeneTable, save_gene_table
from scstore.progress import Reporter

__all__ = ["build_genes"]

ENDPOINT = "openai:"
DEFAULT_ENCODER = "minilm"
File = str | os.PathLike[str]


def build_genes(
    output: File,
    *,
    text: File | None = None,
    cells: File | None = None,
    gene_info: File | None = None,
    gene_summary: File | None = None,
    orthologs: File | None = None,
    ortholog_gene_info: File | None = None,
    vectors: File | None = None,
    only_genes_of: File | Sequence[File] | None = None,
    template: str | None = None,
    organism: str | None = None,
    encoder: str | None = None,
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
    gene_info, gene_summary
        Instead: NCBI's files of genes and their summaries, as they come.
    orthologs, ortholog_gene_info
        With ``gene_info``: pairs of human and mouse genes (:func:`scstore.genes.orthologs.read_orthologs`) and the
        other organism's ``gene_info``: its summaries stand in for those that are missing.
    vectors
        Instead: published vectors, as :func:`scstore.genes.published.read_published` reads them; ``gene_info`` then
        fills in Ensembl ids and synonyms, and nothing is encoded.
    only_genes_of
        With ``text`` or ``gene_info``: inputs of cells whose genes alone are described and encoded. What
        is fitted on the whole table (whitening, the ``aligned`` projector) is then fitted on these.
    template
        How a gene's text is put together from the columns of ``text``, or from NCBI's
        :data:`~scstore.genes.ncbi.FIELDS`.
    organism
        ``human`` or ``mouse``; needed with ``gene_info``, else guessed from the symbols.
    encoder
        A Hugging Face model by name or folder, ``minilm`` (the default), ``openai:MODEL`` for an OpenAI-compatible
        endpoint, or ``random:WIDTH`` for the control that knows nothing.
    revision, device, dtype
        Of a Hugging Face model.
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
        If not exactly one source is given, or options do not go together.
    GenesError
        If the texts cannot be read, or too few genes of the cells are among them.
    NetworkError
        If the endpoint does not answer. What came of it is kept; the same call goes on.
    """
    progress = progress or Reporter()
    sources = {"--text": text, "--gene-info": gene_info, "--symbols-of": cells}
    _check_source(sources, vectors)
    companions: dict[str, object] = {
        "--gene-summary": gene_summary,
        "--orthologs": orthologs,
        "--ortholog-gene-info": ortholog_gene_info,
    }
    chosen = _as_files(only_genes_of)
    only: dict[str, object] = {"--only-genes-of": chosen[0] if chosen else None}
    how: dict[str, object] = {
        "--template": template,
        "--encoder": encoder,
        "--revision": revision,
        "--device": device,
        "--dtype": dtype,
    }
    if vectors is not None:
        _refuse(companions | how | only, "--vectors FILE holds finished vectors: nothing is described or encoded")
    if gene_info is None:
        _refuse(companions, "that goes with --gene-info FILE")
    if cells is not None:
        _refuse(only, "--symbols-of CELLS takes the genes of these cells, and no others")
    if cells is not None and template is not None:
        msg = "--template goes with --text or --gene-info; the symbols of cells are encoded as they are."
        raise OptionError(msg)
    if (orthologs is None) != (ortholog_gene_info is None):
        msg = "--orthologs and --ortholog-gene-info go together: the pairs, and the other organism's gene_info."
        raise OptionError(msg)
    if gene_info is not None and organism not in TAXA:
        msg = f"--gene-info needs --organism {' or '.join(TAXA)}: which genes to take."
        raise OptionError(msg)
    name = encoder or DEFAULT_ENCODER
    if name.startswith(ENDPOINT):
        _refuse({key: how[key] for key in ("--revision", "--device", "--dtype")}, "an endpoint decides that itself")
    fsio.check_output(output, overwrite=overwrite)
    if vectors is not None:
        table = _from_published(vectors, gene_info, organism)
        progress.note(f"genes: {len(table):,}, published vectors {table.width} wide")
        save_gene_table(table, output, overwrite=overwrite)
        return table
    if text is not None:
        obs, used = read_descriptions(text, template=template, organism=organism or "")
    elif cells is not None:
        obs, used = _from_symbols(cells, Path(output).parent, organism)
    else:
        files = _NcbiFiles(gene_info, gene_summary, orthologs, ortholog_gene_info)
        obs, used = _from_ncbi(files, organism=str(organism), template=template)
    if chosen:
        whole = len(obs)
        obs = _only_genes_of(chosen, obs, Path(output).parent)
        progress.note(f"genes: of {whole:,} the {len(obs):,} that are genes of {', '.join(map(str, chosen))}")
    progress.note(f"genes: {len(obs):,}, their texts rest on: {coverage(obs)}")
    if name.startswith(ENDPOINT):
        from scstore.gene_tables.endpoint_table import encode_at_endpoint  # needs scstore[endpoint]

        model = name.removeprefix(ENDPOINT)
        return encode_at_endpoint(obs, used, model, output, overwrite=overwrite, progress=progress)
    made = make_encoder(name, revision=revision, device=device, dtype=dtype)
    table = encode_table(obs, used, made, progress=progress)
    save_gene_table(table, output, overwrite=overwrite)
    return table


@dataclass(frozen=True)
class _NcbiFiles:
    """What a description of one organism's genes is read from."""

    gene_info: File | None
    gene_summary: File | None
    orthologs: File | None
    ortholog_gene_info: File | None


def _check_source(sources: Mapping[str, File | None], vectors: File | None) -> None:
    """Exactly one source of genes; published vectors may have a ``gene_info`` beside them."""
    given = [option for option, value in sources.items() if value is not None]
    if vectors is None and len(given) != 1:
        msg = (
            "Give one of --text FILE (gene texts), --gene-info FILE (NCBI's descriptions), "
            "--symbols-of CELLS (the symbols are the texts) and --vectors FILE (published vectors)."
        )
        raise OptionError(msg)
    if vectors is not None and set(given) - {"--gene-info"}:
        msg = f"--vectors and {given[0]} are two sources of genes. Give one of them."
        raise OptionError(msg)


def _refuse(options: Mapping[str, object], because: str) -> None:
    for option, value in options.items():
        if value is not None:
            msg = f"{option} {value}: {because}. Leave it out."
            raise OptionError(msg)


def _as_files(given: File | Sequence[File] | None) -> list[File]:
    if given is None:
        return []
    return [given] if isinstance(given, str | os.PathLike) else list(given)


def _only_genes_of(inputs: Sequence[File], obs: pd.DataFrame, scratch: Path) -> pd.DataFrame:
    """The rows of a gene table that extraction would find for any of these inputs, in their order."""
    rows: list[int] = []
    for cells in inputs:
        with open_cells(cells, scratch=scratch) as opened:
            var, source = opened.var(next(iter(opened.slots))), opened.source
        rows += match_genes(var, obs, sum_duplicates=True, source=source).genes.tolist()
    return obs.iloc[np.unique(rows)]


def _from_symbols(cells: Any, scratch: Path, organism: str | None) -> tuple[pd.DataFrame, str]:
    with open_cells(cells, scratch=scratch) as opened:
        var = opened.var(next(iter(opened.slots)))
    return describe_cells(var, organism=organism)


def _from_published(vectors: File, gene_info: File | None, organism: str | None) -> GeneTable:
    known = None if gene_info is None else read_gene_info(gene_info, organism=str(organism))
    table = read_published(vectors, organism=organism or "", gene_info=known)
    if organism is None and (guess := guess_organism(table.obs["symbol"])):
        table = replace(table, obs=table.obs.assign(organism=guess))
    return table


def _from_ncbi(files: _NcbiFiles, *, organism: str, template: str | None) -> tuple[pd.DataFrame, str]:
    other = other_organism(organism)
    genes = {organism: read_gene_info(str(files.gene_info), organism=organism)}
    pairs = None
    if files.orthologs is not None and files.ortholog_gene_info is not None:
        genes[other] = read_gene_info(files.ortholog_gene_info, organism=other)
        pairs = read_orthologs(files.orthologs, gene_info=genes).symbols(organism)
    return describe_by_ncbi(
        genes[organism],
        {} if files.gene_summary is None else read_summaries(files.gene_summary),
        organism=organism,
        template=template or NCBI_TEMPLATE,
        orthologs=pairs,
        ortholog_genes=genes.get(other),
    )
