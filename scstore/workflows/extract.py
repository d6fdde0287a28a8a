"""``scstore extract``: cells through a frozen language model into a store."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore import fsio
from scstore.backbone.model import load_backbone, pick_device
from scstore.backbone.projector import project
from scstore.backbone.readout import Readout
from scstore.cells.expression import ExpressionSlot, find_expression, lognorm_rows
from scstore.cells.formats import CellFile, open_cells
from scstore.cells.matching import GeneMatch, guess_organism, match_genes
from scstore.errors import CellsError, FeatureSpaceError, OutputError
from scstore.genes.descriptions import describe_by_symbol
from scstore.genes.encoders import RandomEncoder
from scstore.genes.table import GeneTable, load_gene_table
from scstore.genes.vectors import whiten
from scstore.progress import Reporter
from scstore.spec import differences
from scstore.stores.layout import (
    FORMAT,
    SCRATCH_EXPRESSION,
    STATUS,
    STATUS_EMPTY,
    STATUS_OK,
    StorePlan,
    lock_path,
)
from scstore.stores.ledger import check_shard, ids_digest
from scstore.stores.reader import Store, open_store
from scstore.stores.writer import build_store, commit_shard, write_scratch_expression
from scstore.tokens.batches import assemble, plan_batches
from scstore.tokens.genept import weighted_means
from scstore.tokens.panel import Panel, load_panel
from scstore.tokens.ranking import RankedCells, rank_genes
from scstore.workflows.models import cached_table
from scstore.workflows.planning import (
    ExtractOptions,
    SettledLayout,
    options_like,
    options_record,
    settle_layout,
    store_plan,
    view_specs,
)

__all__ = ["extract"]

TOKENS_PER_BATCH = {"cpu": 4096, "mps": 8192, "cuda": 32768}
N_GENES = "scstore_n_genes"


def extract(
    cells: str | os.PathLike[str] | anndata.AnnData,
    output: str | os.PathLike[str],
    *,
    like: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Reporter | None = None,
    **options: Any,
) -> Store:
    """Run cells through a frozen language model once and keep what its hidden states say about them.

    Killed anywhere, the same call goes on where it stopped and ends in the same store.

    Parameters
    ----------
    cells
        An ``.h5ad``, AnnData Zarr, 10x ``.h5``, 10x mtx folder, or an AnnData in memory: ``#cells × #genes`` with raw
        counts.
    output
        The store, a folder that conventionally ends in ``.zarr``.
    like
        Another store whose whole feature space is taken: what its heads need.
    overwrite
        Replace a store that is there, instead of going on with it.
    progress
        Told what happens.
    **options
        Fields of :class:`scstore.ExtractOptions`.

    Returns
    -------
    Store
        Open for reading, complete.

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

    Examples
    --------
    >>> store = scstore.extract("cells.h5ad", "stores/ref.zarr", model="minilm")  # doctest: +SKIP
    >>> store.views  # doctest: +SKIP
    ('readout_wmean_l1', 'readout_last_l1', 'readout_wmean_l6', 'readout_last_l6', 'genept', 'genept_random', 'X')
    """
    progress = progress or Reporter()
    settings = ExtractOptions(**options)
    if like is not None:
        settings = options_like(like, settings)
    target = Path(output)
    if target.exists() and not overwrite and not (target / "zarr.json").exists():
        msg = f"{target} exists and is no store. Choose another name, or pass --overwrite to replace it."
        raise OutputError(msg)
    fsio.check_output(target, overwrite=True)
    with (
        fsio.lock(lock_path(target)),
        open_cells(cells, scratch=target.parent, id_prefix_from=settings.id_prefix_from) as opened,
    ):
        begun = None if overwrite or not target.exists() else open_store(target).record
        if begun is not None:  # batches and precision go on as they were, unless the caller insists
            settings = replace(
                settings,
                dtype=settings.dtype or begun["run"]["dtype"],
                tokens_per_batch=settings.tokens_per_batch or begun["run"]["tokens_per_batch"],
            )
        plan = _plan(cells, opened, target, settings, progress)
        if overwrite or not target.exists():
            _create(target, plan, overwrite=overwrite, progress=progress)
        else:
            _check_same_run(target, plan)
        _run(target, plan, progress)
        scratch = target / SCRATCH_EXPRESSION
        if scratch.exists():
            fsio.remove_tree(scratch)
    return open_store(target)


@dataclass(frozen=True)
class _Plan:
    """Everything an extraction needs, settled."""

    options: ExtractOptions
    cells: CellFile
    slot: ExpressionSlot
    match: GeneMatch
    table: GeneTable
    admitted: NDArray[np.bool_] | None
    medians: NDArray[np.float32] | None
    settled: SettledLayout
    shape: StorePlan
    record: dict[str, Any]
    stamp: tuple[int, int] | None
    tokens_per_batch: int

    def rank(self, rows: csr_matrix) -> RankedCells:
        return rank_genes(rows, top_genes=self.settled.top_genes, admitted=self.admitted, medians=self.medians)


def _plan(
    source: str | os.PathLike[str] | anndata.AnnData,
    cells: CellFile,
    target: Path,
    options: ExtractOptions,
    progress: Reporter,
) -> _Plan:
    slot = find_expression(
        cells, expression=options.expression, slot=options.slot, allow_fractional=options.allow_fractional
    )
    var = cells.var(slot.slot)
    progress.note(f"cells: {cells.source}: {len(cells.obs):,} cells × {len(var):,} genes, {slot.kind} from {slot.slot}")
    table = load_gene_table(options.genes) if options.genes else None
    if table is not None:  # before any model is looked at
        match = _match(var, table.obs, options, cells.source)
    panel = load_panel(options.panel) if options.panel else None
    settled = settle_layout(options, n_panel=None if panel is None else len(panel))
    device, dtype = pick_device(options.device, options.dtype)
    if table is None:
        file = target.with_suffix(".genes.h5ad")
        described = _symbols(var, options)
        match = _match(var, described[0], options, cells.source)
        table = cached_table(
            file, described, settled.files, device=options.device, dtype=options.dtype, progress=progress
        )
        options = replace(options, genes=str(file))
    progress.note(match.report)
    admitted, medians = _admit(panel, table, match, options, progress)
    views = view_specs(
        options,
        settled,
        genes_digest=table.digest,
        genes_width=table.width,
        panel_digest=None if panel is None else panel.digest,
    )
    shape = store_plan(options, views, n_obs=len(cells.obs))
    tokens = options.tokens_per_batch or TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"])
    # bytes are hashed while the cells are read, and only a file on disk can change meanwhile
    stamp = None if isinstance(source, anndata.AnnData) else _stamp(Path(source))
    record = {
        "format": FORMAT,
        "kind": "store",
        "views": {view.name: view.as_json() for view in views},
        "default_view": views[0].name,
        "shard_rows": shape.shard_rows,
        "options": options_record(options, target.parent),
        "model": {
            "name": settled.files.name,
            "digest": settled.files.digest,
            "n_layers": settled.files.n_layers,
        },
        "genes": {
            "digest": table.digest,
            "n_genes": len(table),
            "encoder": dict(table.encoder),
            "matched": match.report,
        },
        "panel": None if panel is None else {"digest": panel.digest, "n_genes": len(panel), "label": panel.label},
        "input": {
            "name": Path(cells.source).name,
            "digest": _input_digest(source, cells, slot),
            "slot": slot.slot,
            "kind": slot.kind,
            "fractional": slot.fractional,
            "ids": ids_digest([str(name) for name in cells.obs.index]),
        },
        "run": {
            "device": device.type,
            "dtype": str(dtype).removeprefix("torch."),
            "tokens_per_batch": tokens,
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("scstore", "torch", "transformers", "anndata", "zarr", "numpy")},
        },
    }
    return _Plan(options, cells, slot, match, table, admitted, medians, settled, shape, record, stamp, tokens)


def _match(var: pd.DataFrame, table: pd.DataFrame, options: ExtractOptions, source: str) -> GeneMatch:
    return match_genes(
        var, table, min_fraction=options.min_match, sum_duplicates=options.sum_duplicate_genes, source=source
    )


def _symbols(var: pd.DataFrame, options: ExtractOptions) -> tuple[pd.DataFrame, str]:
    names = list(dict.fromkeys(str(name) for name in var.get("symbol", var.index)))
    return describe_by_symbol(names, organism=options.organism or guess_organism(names) or "")


def _admit(
    panel: Panel | None, table: GeneTable, match: GeneMatch, options: ExtractOptions, progress: Reporter
) -> tuple[NDArray[np.bool_] | None, NDArray[np.float32] | None]:
    """The columns of the matched expression that the panel admits, and the medians that rank them."""
    if panel is None:
        progress.note(
            "genes that may enter: all. A panel (scstore panel) makes cells 10 to 30 times shorter, and in all tests "
            "better."
        )
        return None, None
    in_table = match_genes(panel.obs, table.obs, min_fraction=0.0, source="the panel")
    column = {row: i for i, row in enumerate(match.genes)}
    admitted = np.zeros(len(match.genes), dtype=bool)
    medians = np.ones(len(match.genes), dtype=np.float32)
    for row, median in zip(in_table.table_rows, panel.obs["median"], strict=True):
        if row in column:
            admitted[column[row]] = True
            medians[column[row]] = median
    progress.note(f"genes that may enter: the panel's, {int(admitted.sum()):,} of its {len(panel):,} are measured here")
    if not admitted.any():
        msg = (
            f"{options.panel}: none of the panel's genes is among the cells' genes. Fit a panel on cells of this kind."
        )
        raise FeatureSpaceError(msg)
    return admitted, medians if options.ranking == "median" else None


def _stamp(path: Path) -> tuple[int, int]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files), max(file.stat().st_mtime_ns for file in files)


def _input_digest(source: str | os.PathLike[str] | anndata.AnnData, cells: CellFile, slot: ExpressionSlot) -> str:
    if not isinstance(source, anndata.AnnData):
        return fsio.digest_tree(source)
    digest = hashlib.sha256("\0".join([*map(str, cells.obs.index), *map(str, cells.var(slot.slot).index)]).encode())
    matrix = cells.slots[slot.slot]
    for start in range(0, matrix.shape[0], 4096):
        rows = matrix.rows(start, min(start + 4096, matrix.shape[0]))
        for array in (rows.indptr, rows.indices, rows.data):
            digest.update(np.ascontiguousarray(array).data)
    return "sha256:" + digest.hexdigest()


def _create(target: Path, plan: _Plan, *, overwrite: bool, progress: Reporter) -> None:
    """Read every cell once: check it, normalise it, match its genes; and shape the store."""
    lengths: list[NDArray[np.int64]] = []
    keep = plan.options.keep_expression
    var = plan.table.obs.iloc[plan.match.genes].drop(columns=["text", "text_source"])
    with build_store(target, overwrite=overwrite) as builder:
        blocks = _expression(plan, progress, lengths)
        builder.write_expression(blocks, n_genes=len(var), keep=keep)
        obs = plan.cells.obs.copy()
        obs[N_GENES] = np.concatenate(lengths)
        obs[STATUS] = pd.Categorical(
            np.where(obs[N_GENES] > 0, STATUS_OK, STATUS_EMPTY), categories=[STATUS_OK, STATUS_EMPTY]
        )
        builder.write_frames(obs, var if keep else pd.DataFrame(index=var.index[:0]), plan.record)
        builder.create_views(plan.shape)
    if empty := int((obs[N_GENES] == 0).sum()):
        progress.warn(f"{empty:,} cells express none of the genes that may enter; they are kept and marked `empty`.")


def _expression(plan: _Plan, progress: Reporter, lengths: list[NDArray[np.int64]]) -> Iterator[csr_matrix]:
    """Expression of the matched genes, block by block; each cell's number of genes is added to ``lengths``."""
    with progress.track("reading cells", len(plan.cells.obs), "cells") as track:
        for _, rows in lognorm_rows(plan.cells, plan.slot, groups=plan.match.groups):
            matched = plan.match.apply(rows)
            lengths.append(plan.rank(matched).lengths)
            yield matched
            track.advance(rows.shape[0])
    if plan.stamp is not None and _stamp(Path(plan.cells.source)) != plan.stamp:
        msg = f"{plan.cells.source} changed while it was read. Run the command again once nobody writes to it."
        raise CellsError(msg)


def _check_same_run(target: Path, plan: _Plan) -> None:
    """Refuse to go on with a store of other cells or options, naming every field that differs."""
    record = open_store(target).record
    if record is None:
        msg = f"{target} is not a store that scstore extracted. Choose another name, or pass --overwrite to replace it."
        raise OutputError(msg)
    old, new = _decisive(record), _decisive(plan.record)
    if fields := differences(old, new):
        msg = (
            f"{target} is a store of another run. It can be finished only with the same cells and options; what "
            "differs:\n  "
            + "\n  ".join(fields)
            + "\nGive those options again, choose another output, or pass --overwrite."
        )
        raise FeatureSpaceError(msg)


def _decisive(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's record that must stay as it is for the run to go on; hardware and versions may change."""
    run = {name: value for name, value in record["run"].items() if name != "device"}
    return {
        "view": {name: {"space": view["space"], "dtype": view["dtype"]} for name, view in record["views"].items()},
        "input": record["input"],
        "shard_rows": record["shard_rows"],
        "keep_expression": record["options"]["keep_expression"],
        **run,
    }


def _run(target: Path, plan: _Plan, progress: Reporter) -> None:
    """Extract every shard that is not committed yet."""
    store = open_store(target)
    ids = [str(name) for name in store.obs.index]
    reasons = {
        shard: check_shard(target, shard, ids=ids_digest(ids[start:stop])) for shard, start, stop in plan.shape.shards()
    }
    todo = [shard for shard, reason in reasons.items() if reason is not None]
    done = plan.shape.n_obs - sum(stop - start for start, stop in map(plan.shape.bounds, todo))
    if done:
        progress.note(f"{done:,} of {plan.shape.n_obs:,} cells were extracted before")
    for reason in filter(None, reasons.values()):
        if "digest" in reason or "missing" in reason:
            progress.warn(f"redoing a damaged shard: {reason}")
    if not todo:
        return
    if not (plan.options.keep_expression or (target / SCRATCH_EXPRESSION).exists()):
        # the run had ended and its scratch was deleted; the input is the same, its digest says so
        write_scratch_expression(target, _expression(plan, progress, []), n_genes=len(plan.match.genes))
    readout = _load(plan, progress)
    companions = {
        "genept": whiten(plan.table.vectors)[plan.match.genes],
        "genept_random": RandomEncoder(plan.table.width).encode(
            [str(symbol) for symbol in plan.table.obs["symbol"].iloc[plan.match.genes]]
        ),
    }
    with progress.track("extracting", plan.shape.n_obs, "cells") as track:
        track.resume_at(done)
        for shard in todo:
            start, stop = plan.shape.bounds(shard)
            ranked = plan.rank(store.expression_rows(start, stop))
            views = {name: weighted_means(ranked, vectors) for name, vectors in companions.items()}
            views |= _read_shard(ranked, readout, plan, track)
            commit_shard(target, plan.shape, shard, views, ids=ids[start:stop])


def _load(plan: _Plan, progress: Reporter) -> Readout:
    device, dtype = pick_device(plan.options.device, plan.options.dtype)
    layers = plan.settled.layers
    backbone = load_backbone(plan.settled.files, device=device, dtype=dtype, depth=max(layers))
    settled = plan.settled
    where = f"on {device} in {str(dtype).removeprefix('torch.')}"
    progress.note(
        f"model: {settled.files.name}, layers {', '.join(map(str, layers))} of {settled.files.n_layers}, {where}; "
        f"at most {settled.top_genes:,} genes a cell ({settled.top_genes_because})"
    )
    inputs = project(
        plan.table.vectors, backbone.token_embeddings, kind=plan.options.projector, seed=plan.options.seed
    )[plan.match.genes]
    return Readout(
        backbone,
        plan.settled.layout,
        inputs,
        layers=layers,
        multiply=plan.options.expression_scaling == "multiply",
    )


def _read_shard(ranked: RankedCells, readout: Readout, plan: _Plan, track: Any) -> dict[str, NDArray[np.float32]]:
    frame, poolings = plan.settled.layout.frame, plan.options.pool
    width = plan.settled.files.width
    hidden = np.zeros((len(plan.settled.layers), len(poolings), len(ranked), width), dtype=np.float32)
    lengths = np.where(ranked.lengths > 0, ranked.lengths + frame.overhead, 0)
    track.advance(int((lengths == 0).sum()))
    for cells in plan_batches(lengths, tokens=plan.tokens_per_batch):
        hidden[:, :, cells] = readout.run(assemble(ranked, cells, frame=frame, poolings=poolings))
        track.advance(len(cells))
    return {
        f"readout_{pool}_l{layer}": hidden[i, j]
        for i, layer in enumerate(plan.settled.layers)
        for j, pool in enumerate(poolings)
    }
