"""``scstore extract``: cells through a frozen language model into a store."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore import fsio
from scstore.cells.opening import open_cells
from scstore.errors import OutputError
from scstore.extraction.auto_panel import panel_of_store
from scstore.extraction.model_loading import load_readout, load_sentence_encoder
from scstore.extraction.options import AUTO_PANEL, Cells, ExtractOptions, Output, complete_options
from scstore.extraction.pipeline import Behind, ahead
from scstore.extraction.plan import ExtractionPlan, check_same_run, expression_blocks, make_plan
from scstore.extraction.processes import create_or_wait, this_process
from scstore.extraction.reading import read_cells
from scstore.options import with_options
from scstore.progress import Reporter
from scstore.store.layout import SCRATCH_EXPRESSION, STATUS, STATUS_EMPTY, STATUS_OK, check_columns
from scstore.store.ledger import check_shard, ids_digest
from scstore.store.locks import Part, part_lock
from scstore.store.reader import Store, open_store
from scstore.store.writer import build_store, commit_shard, write_scratch_expression
from scstore.tokens.genept import companion_vectors, weighted_means
from scstore.tokens.ranking import RankedCells, expressed_genes

__all__ = ["extract"]

N_GENES = "scstore_n_genes"
AHEAD = 2
"""Shards, or blocks of the input, that are read before they are asked for."""


@with_options(ExtractOptions)
def extract(cells: Cells, output: Output, options: ExtractOptions) -> Store:
    """Run cells through a frozen language model once and keep what its hidden states say about them.

    Killed anywhere, the same call goes on where it stopped and ends in the same store.

    Returns
    -------
    Store
        Open for reading; complete unless other processes are still at work on their parts.

    Raises
    ------
    CellsError
        If the cells cannot be used as they are.
    GenesError
        If too few genes match the gene table.
    OptionError
        If options do not go together, or the default model finds no GPU.
    FeatureSpaceError
        If ``output`` is a store of other cells or another feature space; the differing fields are listed.
    NumericsError
        If a hidden state is not finite.
    LockedError
        If another process extracts the same shards.

    Examples
    --------
    >>> store = scstore.extract("cells.h5ad", "stores/ref.zarr", model="minilm")  # doctest: +SKIP
    >>> store.views  # doctest: +SKIP
    ('readout_wmean_l1', 'readout_last_l1', 'readout_wmean_l6', 'readout_last_l6', 'genept', 'genept_random', 'X')
    """
    progress, overwrite = options.progress or Reporter(), options.overwrite
    process = this_process(None if options.shard is None else Part.parse(options.shard))
    settings = complete_options(options)
    settings = replace(settings, device=settings.device or process.device)
    target = Path(output)
    if target.exists() and not overwrite and not (target / "zarr.json").exists():
        msg = f"{target} exists and is no store. Choose another name, or pass --overwrite to replace it."
        raise OutputError(msg)
    fsio.check_output(target, overwrite=True)
    with (
        part_lock(target, process.part),
        open_cells(cells, scratch=target.parent, id_prefix_from=settings.id_prefix_from) as opened,
    ):

        def plan() -> ExtractionPlan:
            return make_plan(cells, opened, target, settings, progress)

        def create() -> ExtractionPlan:
            made = plan()
            _create(target, made, overwrite=overwrite, progress=progress)
            return made

        made = create_or_wait(target, process, create, overwrite=overwrite)
        if made is None:  # it was there, or another process has shaped it
            begun = open_store(target).record
            if settings.panel == AUTO_PANEL:
                settings = replace(settings, panel=str(panel_of_store(open_store(target))))
            if begun is not None:  # batches and precision go on as they were, unless the caller insists
                settings = replace(
                    settings,
                    dtype=settings.dtype or begun["run"]["dtype"],
                    tokens_per_batch=settings.tokens_per_batch or begun["run"]["tokens_per_batch"],
                )
            made = plan()
            check_same_run(target, made)
        _run(target, made, process.part, progress)
        store = open_store(target)
        if store.is_complete:
            fsio.remove_tree(target / SCRATCH_EXPRESSION)
    return store


def _create(target: Path, plan: ExtractionPlan, *, overwrite: bool, progress: Reporter) -> None:
    """Read every cell once: check it, normalise it, match its genes; and shape the store."""
    check_columns(plan.cells.obs.columns)
    lengths: list[NDArray[np.int64]] = []
    keep = plan.options.keep_expression
    var = plan.table.obs.iloc[plan.match.genes].drop(columns=["text", "text_source"])
    with build_store(target, overwrite=overwrite) as builder:
        with ThreadPoolExecutor(1, "scstore-read") as reader:
            blocks = ahead(expression_blocks(plan, progress, lengths), reader, depth=AHEAD)
            builder.write_expression(blocks, n_genes=len(var), keep=keep)
        obs = plan.cells.obs.copy()
        obs[N_GENES] = np.concatenate(lengths)
        obs[STATUS] = pd.Categorical(
            np.where(obs[N_GENES] > 0, STATUS_OK, STATUS_EMPTY), categories=[STATUS_OK, STATUS_EMPTY]
        )
        for column, ids in plan.trained_on.items():
            obs[column] = obs.index.astype(str).isin(ids)
        builder.write_frames(obs, var if keep else pd.DataFrame(index=var.index[:0]), plan.record)
        builder.create_views(plan.shape)
    if empty := int((obs[N_GENES] == 0).sum()):
        progress.warn(f"{empty:,} cells express none of the genes that may enter; they are kept and marked `empty`.")


def _run(target: Path, plan: ExtractionPlan, part: Part, progress: Reporter) -> None:
    """Extract every shard of a part that is not committed yet: reading ahead, the model, writing behind."""
    store = open_store(target)
    ids = [str(name) for name in store.obs.index]
    todo, done = _unfinished(target, plan, part, ids, progress)
    if not todo:
        return
    if not (plan.options.keep_expression or (target / SCRATCH_EXPRESSION).exists()):
        # the run had ended and its scratch was deleted; the input is the same, its digest says so
        write_scratch_expression(target, expression_blocks(plan, progress, []), n_genes=len(plan.match.genes))
    readout = load_readout(plan, progress) if plan.readout is not None else None
    sentences = load_sentence_encoder(plan, readout, progress) if plan.options.writes_sentences else None
    companions: dict[str, NDArray[np.float32]] = {}

    def read() -> Iterator[tuple[int, csr_matrix, RankedCells]]:
        for shard in todo:
            rows = store.expression_rows(*plan.shape.bounds(shard))
            yield shard, rows, plan.rank(rows)

    def write(shard: int, rows: csr_matrix, ranked: RankedCells, read: dict[str, NDArray[np.float32]]) -> None:
        if not companions:  # first needed here, beside the model's first cells and not before them
            companions.update(
                companion_vectors(
                    plan.table, plan.match.genes, admitted=plan.admitted, names=plan.options.companion_views
                )
            )
        views = {
            name: weighted_means(
                expressed_genes(rows, admitted=plan.admitted) if name == "genept_w" else ranked, vectors
            )
            for name, vectors in companions.items()
        }
        start, stop = plan.shape.bounds(shard)
        commit_shard(target, plan.shape, shard, views | read, ids=ids[start:stop])

    total = done + sum(stop - start for start, stop in map(plan.shape.bounds, todo))
    with (
        progress.track("extracting", total, "cells") as track,
        ThreadPoolExecutor(1, "scstore-read") as reader,
        Behind("scstore-write") as behind,
    ):
        track.resume_at(done)
        for shard, rows, ranked in ahead(read(), reader, depth=AHEAD):
            views, halved = read_cells(plan, ranked, readout, sentences, track)
            if halved:
                progress.warn(
                    f"shard {shard}: {halved} batches did not fit the device's memory and were run in halves; a "
                    "smaller --tokens-per-batch avoids the detour"
                )
            behind.submit(write, shard, rows, ranked, views)


def _unfinished(
    target: Path, plan: ExtractionPlan, part: Part, ids: list[str], progress: Reporter
) -> tuple[list[int], int]:
    """The shards of this part that must be extracted, and how many cells of it were before."""
    mine = [bounds for bounds in plan.shape.shards() if part.owns(bounds[0])]
    reasons = {shard: check_shard(target, shard, ids=ids_digest(ids[start:stop])) for shard, start, stop in mine}
    todo = [shard for shard, reason in reasons.items() if reason is not None]
    done = sum(stop - start for shard, start, stop in mine if reasons[shard] is None)
    if done:
        progress.note(f"{done:,} of {plan.shape.n_obs:,} cells were extracted before")
    for reason in filter(None, reasons.values()):
        if "digest" in reason or "missing" in reason:
            progress.warn(f"redoing a damaged shard: {reason}")
    return todo, done
