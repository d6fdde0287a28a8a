"""An extraction's plan: everything found, matched, chosen and checked before a cell is run."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore import fsio
from scstore.backbone.flops import tokens_that_fit
from scstore.backbone.model import pick_device
from scstore.backbone.projector_file import ProjectorFile, load_projector
from scstore.cells.expression import ExpressionSlot, find_expression, lognorm_rows
from scstore.cells.formats import CellFile
from scstore.cells.matching import GeneMatch, match_genes
from scstore.errors import CellsError, FeatureSpaceError, OutputError
from scstore.genes.table import GeneTable, load_gene_table
from scstore.progress import Reporter
from scstore.spec import differences
from scstore.stores.layout import FORMAT, SEEN_BY_PANEL, SEEN_BY_PROJECTOR, StorePlan
from scstore.stores.ledger import ids_digest
from scstore.stores.reader import open_store
from scstore.tokens.panel import Panel, load_panel
from scstore.tokens.ranking import RankedCells, count_genes, rank_genes
from scstore.workflows.models import cached_table
from scstore.workflows.planning import (
    ExtractOptions,
    SettledLayout,
    layout_space,
    options_record,
    settle_layout,
    store_plan,
    view_specs,
)
from scstore.workflows.species import describe_cells_genes, match_cells, needed_translation

if TYPE_CHECKING:
    import torch

__all__ = ["ExtractionPlan", "check_same_run", "expression_blocks", "make_plan", "projector_fits"]

READ_ROWS = 1024
"""Cells read at a time: blocks small enough to be read while the last one is written."""

TOKENS_PER_BATCH = {"cpu": 4096, "mps": 8192, "cuda": 32768}
"""Padded positions of a batch at the most; on a GPU fewer where its memory asks for it."""


@dataclass(frozen=True)
class ExtractionPlan:
    """Everything an extraction needs, settled and checked.

    Attributes
    ----------
    options
        The user's, and the gene table's file where none was named.
    cells, slot
        The input and where it has expression.
    match, table
        The genes found, and the table they were found in.
    admitted, medians
        ``(n_matched,)``: the genes of the panel, and what their expression is divided by for ranking; ``None`` for all.
    settled
        What depends on the model.
    shape, record
        Of the store.
    stamp
        Size and time of the input's files, to notice a change while they are read.
    tokens_per_batch
        Padded positions in a batch.
    trained_on
        Ids of the cells whose labels the panel or projector saw, by the ``obs`` column that marks them.
    projector
        The trained projector, if there is one.
    """

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
    trained_on: Mapping[str, tuple[str, ...]]
    projector: ProjectorFile | None

    def rank(self, rows: csr_matrix) -> RankedCells:
        """The genes of each cell that enter its sequence."""
        return rank_genes(rows, top_genes=self.settled.top_genes, admitted=self.admitted, medians=self.medians)


def make_plan(
    source: str | os.PathLike[str] | anndata.AnnData,
    cells: CellFile,
    target: Path,
    options: ExtractOptions,
    progress: Reporter,
) -> ExtractionPlan:
    """Find, match, choose and check everything; a model is loaded only to encode symbols, where no table is named.

    Raises
    ------
    InputError
        For whatever the user has to mend.
    """
    slot = find_expression(
        cells, expression=options.expression, slot=options.slot, allow_fractional=options.allow_fractional
    )
    var = cells.var(slot.slot)
    progress.note(f"cells: {cells.source}: {len(cells.obs):,} cells × {len(var):,} genes, {slot.kind} from {slot.slot}")
    table = load_gene_table(options.genes) if options.genes else None
    panel = load_panel(options.panel) if options.panel else None
    translation = needed_translation(
        options.orthologs,
        var,
        organism=options.organism,
        table=None if table is None else table.obs,
        panel=None if panel is None else panel.obs,
        source=cells.source,
        progress=progress,
    )
    if table is not None:  # before any model is looked at
        match = match_cells(var, table.obs, options, translation, source=cells.source)
    projector = load_projector(options.trained_projector) if options.trained_projector else None
    settled = settle_layout(options, n_panel=None if panel is None else len(panel))
    device, dtype = pick_device(options.device, options.dtype)
    if table is None:
        file = target.with_suffix(".genes.h5ad")
        described = describe_cells_genes(var, options, translation)
        match = match_cells(var, described[0], options, translation, source=cells.source)
        table = cached_table(
            file, described, settled.files, device=options.device, dtype=options.dtype, progress=progress
        )
        options = replace(options, genes=str(file))
    progress.note(match.report)
    if projector is not None:
        _check_projector(projector, options, settled, table, panel, progress)
    admitted, medians = _admit(panel, table, match, options, progress)
    views = view_specs(
        options,
        settled,
        genes_digest=table.digest,
        genes_width=table.width,
        panel_digest=None if panel is None else panel.digest,
        projector_digest=None if projector is None else projector.digest,
    )
    shape = store_plan(options, views, n_obs=len(cells.obs))
    tokens = options.tokens_per_batch or _tokens_per_batch(settled, device, dtype)
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
        "projector": None
        if projector is None
        else {"digest": projector.digest, "label": projector.label, "recipe": projector.training["recipe"]["name"]},
        "input": {
            "name": Path(cells.source).name,
            "digest": _input_digest(source, cells, slot),
            "slot": slot.slot,
            "kind": slot.kind,
            "fractional": slot.fractional,
            "ids": ids_digest([str(name) for name in cells.obs.index]),
            **({} if translation is None else {"orthologs": translation.record}),
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
    seen = {
        SEEN_BY_PANEL: () if panel is None else panel.trained_on,
        SEEN_BY_PROJECTOR: () if projector is None else projector.seen,
    }
    return ExtractionPlan(
        options=options,
        cells=cells,
        slot=slot,
        match=match,
        table=table,
        admitted=admitted,
        medians=medians,
        settled=settled,
        shape=shape,
        record=record,
        stamp=stamp,
        tokens_per_batch=tokens,
        trained_on={column: ids for column, ids in seen.items() if ids},
        projector=projector,
    )


def projector_fits(options: ExtractOptions, settled: SettledLayout, table: GeneTable) -> dict[str, Any]:
    """What a projector's training and an extraction with it must have in common."""
    return {
        "model": {"digest": settled.files.digest, "width": settled.files.width},
        "genes": {"encoder": dict(table.encoder), "width": table.width},
        "layout": layout_space(options, settled),
        "expression_scaling": options.expression_scaling,
    }


def _check_projector(
    projector: ProjectorFile,
    options: ExtractOptions,
    settled: SettledLayout,
    table: GeneTable,
    panel: Panel | None,
    progress: Reporter,
) -> None:
    """Refuse a projector that does not fit, and say where it is used for what it was not trained for."""
    projector.check_fits(projector_fits(options, settled, table), path=options.projector)
    progress.note(
        f"projector: {options.projector}, trained on {len(projector.trained_on):,} cells for {projector.label!r}"
    )
    trained = projector.training
    if trained["panel"] != (None if panel is None else panel.digest):
        progress.warn(f"{options.projector} was trained with {'another' if trained['panel'] else 'no'} panel.")
    if untrained := sorted(set(settled.layers) - set(trained["layers"])):
        known, unknown = (", ".join(map(str, layers)) for layers in (trained["layers"], untrained))
        progress.warn(f"{options.projector} was trained for layers {known}; what it does to {unknown} is unknown.")


def _tokens_per_batch(settled: SettledLayout, device: torch.device, dtype: torch.dtype) -> int:
    most = TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"])
    if device.type != "cuda":
        return most
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    depth, config = max(settled.layers), settled.files.config
    return tokens_that_fit(config, free, depth=depth, itemsize=dtype.itemsize, most=most)


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
    in_table = match_genes(panel.obs, table.obs, min_fraction=0.0, source="the panel", organism=match.organism)
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


def expression_blocks(
    plan: ExtractionPlan, progress: Reporter, lengths: list[NDArray[np.int64]]
) -> Iterator[csr_matrix]:
    """Expression of the matched genes, block by block; each cell's number of genes is added to ``lengths``."""
    with progress.track("reading cells", len(plan.cells.obs), "cells") as track:
        for _, rows in lognorm_rows(plan.cells, plan.slot, chunk_rows=READ_ROWS, groups=plan.match.groups):
            matched = plan.match.apply(rows)
            lengths.append(count_genes(matched, top_genes=plan.settled.top_genes, admitted=plan.admitted))
            yield matched
            track.advance(rows.shape[0])
    if plan.stamp is not None and _stamp(Path(plan.cells.source)) != plan.stamp:
        msg = f"{plan.cells.source} changed while it was read. Run the command again once nobody writes to it."
        raise CellsError(msg)


def check_same_run(target: Path, plan: ExtractionPlan) -> None:
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
