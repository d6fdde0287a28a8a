"""An extraction's plan: everything found, matched, chosen and checked before a cell is run."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore import fsio
from scstore.cells.expression import ExpressionSlot, find_expression, lognorm_rows
from scstore.cells.opening import CellFile
from scstore.errors import CellsError, FeatureSpaceError, OptionError, OutputError
from scstore.extraction.auto_panel import kept_panel
from scstore.extraction.feature_spaces import layout_space, store_plan, view_specs
from scstore.extraction.options import (
    AUTO_PANEL,
    CONTROL_SEED,
    CONTROLS,
    RANDOM_GENES,
    RANDOM_LLM,
    SHUFFLED_ORDER,
    ExtractOptions,
    options_record,
)
from scstore.extraction.presets import PRESETS
from scstore.extraction.resolve import SettledLayout, model_files, run_record, settle_layout, settle_top_genes
from scstore.gene_tables.encoding import cached_table
from scstore.genes.encoders import RandomEncoder
from scstore.genes.matching import GeneMatch, match_genes
from scstore.genes.orthologs import describe_cells, match_cells, needed_translation
from scstore.genes.table import GeneTable, load_gene_table
from scstore.model.loading import ModelFiles
from scstore.model.projector_file import ProjectorFile, load_projector
from scstore.panels.panel import Panel, load_panel
from scstore.progress import Reporter
from scstore.spec import differences
from scstore.store.layout import FORMAT, SEEN_BY_PANEL, SEEN_BY_PROJECTOR, StorePlan
from scstore.store.ledger import ids_digest
from scstore.store.reader import open_store
from scstore.tokens.ranking import RankedCells, count_genes, rank_genes, shuffled_order

__all__ = ["ExtractionPlan", "check_same_run", "expression_blocks", "make_plan", "projector_fits"]

READ_ROWS = 1024
"""Cells read at a time: blocks small enough to be read while the last one is written."""


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
    admitted
        ``(n_matched,)``: the genes of the panel; ``None`` for all.
    readout
        What depends on the model that reads the genes; ``None`` where no readout is wanted.
    files
        The model that reads the cells in any way; ``None`` where none does.
    top_genes
        Genes of a cell that are ranked and counted.
    places
        ``(n_matched,)``: an order of the genes in place of expression's, for the control of it.
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
    readout: SettledLayout | None
    files: ModelFiles | None
    top_genes: int
    places: NDArray[np.int64] | None
    shape: StorePlan
    record: dict[str, Any]
    stamp: tuple[int, int] | None
    tokens_per_batch: int
    trained_on: Mapping[str, tuple[str, ...]]
    projector: ProjectorFile | None

    @property
    def settled(self) -> SettledLayout:
        """What depends on the model that reads the genes.

        Raises
        ------
        OptionError
            If no readout is wanted.
        """
        if self.readout is None:
            msg = "--pool none: no model reads the genes. Name a pooling: last, mean, wmean."
            raise OptionError(msg)
        return self.readout

    @property
    def symbols(self) -> list[str]:
        """``(n_matched,)`` symbols of the genes."""
        return [str(symbol) for symbol in self.table.obs["symbol"].iloc[self.match.genes]]

    @property
    def random_seed(self) -> int | None:
        """Seed of the model's weights, where they are drawn at random."""
        return CONTROL_SEED if self.options.control == RANDOM_LLM else None

    def rank(self, rows: csr_matrix) -> RankedCells:
        """The genes of each cell that may be read, in descending expression."""
        return rank_genes(rows, top_genes=self.top_genes, admitted=self.admitted)


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
    if options.panel == AUTO_PANEL:
        options = replace(options, panel=str(kept_panel(source, target, options, cells, progress)))
    _say_preset(options, progress)
    if options.control is not None:
        progress.note(f"control {options.control}: {CONTROLS[options.control]}")
    table = load_gene_table(str(options.genes)) if options.genes else None
    panel = load_panel(options.panel_file) if options.panel_file else None
    translation = needed_translation(
        options.orthologs,
        var,
        organism=options.organism,
        table=None if table is None else table.obs,
        panel=None if panel is None else panel.obs,
        source=cells.source,
        progress=progress,
    )
    matching: dict[str, Any] = {
        "organism": options.organism,
        "min_match": options.min_match,
        "sum_duplicates": options.sum_duplicate_genes,
        "source": cells.source,
    }
    if table is not None:  # before any model is looked at
        match = match_cells(var, table.obs, translation, **matching)
    projector = load_projector(options.trained_projector) if options.trained_projector else None
    n_panel = None if panel is None else len(panel)
    encodes = table is None and options.needs_vectors
    files = model_files(options) if options.runs_model or encodes else None
    readout = settle_layout(options, files, n_panel=n_panel) if files is not None and options.poolings else None
    if table is None:
        file = target.with_suffix(".genes.h5ad")
        described = describe_cells(var, translation, organism=options.organism)
        match = match_cells(var, described[0], translation, **matching)
        table = cached_table(
            file, described, files if encodes else None, device=options.device, dtype=options.dtype, progress=progress
        )
        options = replace(options, genes=str(file))
    elif options.needs_vectors and not table.width:
        msg = f"--genes {options.genes}: it holds symbols without vectors (genept_s needs none). Name another."
        raise OptionError(msg)
    progress.note(match.report)
    if projector is not None and readout is not None:
        _check_projector(projector, options, readout, table, panel, progress)
    admitted = _admit(panel, table, match, options, progress)
    if not options.runs_model:
        files = None  # it had symbols to encode, and no cell to read
    top_genes = settle_top_genes(options, readout, files, n_matched=len(match.genes), n_panel=n_panel)
    views = view_specs(
        options,
        readout,
        files=files,
        top_genes=top_genes,
        genes_digest=table.digest,
        genes_width=table.width,
        panel_digest=None if panel is None else panel.digest,
        projector_digest=None if projector is None else projector.digest,
    )
    shape = store_plan(options, views, n_obs=len(cells.obs))
    running = None if files is None else run_record(options, files, readout)
    # bytes are hashed while the cells are read, and only a file on disk can change meanwhile
    stamp = None if isinstance(source, anndata.AnnData) else _stamp(Path(source))
    record = {
        "format": FORMAT,
        "kind": "store",
        "views": {view.name: view.as_json() for view in views},
        "default_view": views[0].name,
        "shard_rows": shape.shard_rows,
        "options": options_record(options, target.parent),
        "model": None if files is None else {"name": files.name, "digest": files.digest, "n_layers": files.n_layers},
        **({} if options.control is None else {"control": {"kind": options.control, "seed": CONTROL_SEED}}),
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
        "run": running or dict.fromkeys(("device", "dtype", "tokens_per_batch")),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("scstore", "torch", "transformers", "anndata", "zarr", "numpy")},
        },
    }
    seen = {
        SEEN_BY_PANEL: () if panel is None else panel.trained_on,
        SEEN_BY_PROJECTOR: () if projector is None else projector.seen,
    }
    if options.control == RANDOM_GENES:
        table = _with_random_vectors(table)
    plan = ExtractionPlan(
        options=options,
        cells=cells,
        slot=slot,
        match=match,
        table=table,
        admitted=admitted,
        readout=readout,
        files=files,
        top_genes=top_genes,
        places=None,
        shape=shape,
        record=record,
        stamp=stamp,
        tokens_per_batch=0 if running is None else running["tokens_per_batch"],
        trained_on={column: ids for column, ids in seen.items() if ids},
        projector=projector,
    )
    if options.control == SHUFFLED_ORDER:
        plan = replace(plan, places=shuffled_order(plan.symbols, seed=CONTROL_SEED))
    return plan


def _say_preset(options: ExtractOptions, progress: Reporter) -> None:
    """Name the preset's source, and what stands in for what it trains."""
    if options.preset is None:
        return
    preset = PRESETS[options.preset]
    progress.note(f"preset {options.preset}: {preset.summary}; {preset.source}")
    if preset.trains_projector and options.trained_projector is None:
        progress.warn(
            f"the papers train the projector: scstore align --recipe papers, then projector=FOLDER. Here "
            f"{options.projector!r} stands in for it, without labels."
        )


def _with_random_vectors(table: GeneTable) -> GeneTable:
    """The table with standard normal vectors of the same width, seeded by the genes' symbols."""
    encoder = RandomEncoder(table.width, seed=CONTROL_SEED)
    vectors = encoder.encode([str(symbol) for symbol in table.obs["symbol"]])
    return replace(table, vectors=vectors, encoder=encoder.identity)


def projector_fits(options: ExtractOptions, settled: SettledLayout, table: GeneTable) -> dict[str, Any]:
    """What a projector's training and an extraction with it must have in common."""
    return {
        "model": {"digest": settled.files.digest, "width": settled.files.width},
        "genes": {"encoder": dict(table.encoder), "width": table.width},
        "layout": layout_space(options, settled),
        "expression_scaling": "multiply" if options.multiplies else "none",
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
    projector.check_fits(projector_fits(options, settled, table), path=str(options.projector))
    progress.note(
        f"projector: {options.projector}, trained on {len(projector.trained_on):,} cells for {projector.label!r}"
    )
    trained = projector.training
    if trained["panel"] != (None if panel is None else panel.digest):
        progress.warn(f"{options.projector} was trained with {'another' if trained['panel'] else 'no'} panel.")
    if options.control == RANDOM_LLM:
        progress.warn(f"{options.projector} was trained through the real weights; with random ones it is of no use.")
    if untrained := sorted(set(settled.layers) - set(trained["layers"])):
        known, unknown = (", ".join(map(str, layers)) for layers in (trained["layers"], untrained))
        progress.warn(f"{options.projector} was trained for layers {known}; what it does to {unknown} is unknown.")


def _admit(
    panel: Panel | None, table: GeneTable, match: GeneMatch, options: ExtractOptions, progress: Reporter
) -> NDArray[np.bool_] | None:
    """Return which columns of the matched expression the panel admits."""
    if panel is None:
        progress.note(
            "genes that may enter: all. A panel (scstore panel) makes cells 10 to 30 times shorter, and in all tests "
            "better."
        )
        return None
    in_table = match_genes(panel.obs, table.obs, min_match=0.0, source="the panel", organism=match.organism)
    column = {row: i for i, row in enumerate(match.genes)}
    admitted = np.zeros(len(match.genes), dtype=bool)
    for row in in_table.table_rows:
        if row in column:
            admitted[column[row]] = True
    progress.note(f"genes that may enter: the panel's, {int(admitted.sum()):,} of its {len(panel):,} are measured here")
    if not admitted.any():
        msg = (
            f"{options.panel}: none of the panel's genes is among the cells' genes. Fit a panel on cells of this kind."
        )
        raise FeatureSpaceError(msg)
    return admitted


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
            lengths.append(count_genes(matched, top_genes=plan.top_genes, admitted=plan.admitted))
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
