"""An extraction's plan: sequences, projector, control, and the store with its record, before a cell is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scstore.cells.expression import TARGET_SUM
from scstore.cells.opening import CellFile, CellSource
from scstore.errors import FeatureSpaceError, OutputError
from scstore.extraction.options import (
    CONTROL_SEED,
    CONTROLS,
    GENEPT_W,
    RANDOM_GENES,
    RANDOM_LLM,
    SHUFFLED_ORDER,
    ExtractOptions,
    Like,
    options_record,
    reference_record,
)
from scstore.extraction.presets import PRESETS
from scstore.extraction.sequence_plan import SequencePlan, installed_versions, plan_sequences
from scstore.genes.table import GeneTable
from scstore.genes.vectors import RandomEncoder
from scstore.model.loading import FLOAT8, ModelFiles
from scstore.model.projector import ProjectorFile, load_projector
from scstore.model.prompt import PROMPT, SEPARATOR
from scstore.progress import Reporter
from scstore.sealed import FORMAT, Space, differences, view_differences
from scstore.store.ledger import SEEN_BY_PANEL, SEEN_BY_PROJECTOR, StorePlan, ViewSpec, default_shard_rows
from scstore.store.reader import open_store
from scstore.tokens.genept import companion_vectors, weighted_means
from scstore.tokens.sequences import RankedCells, expressed_genes, shuffled_order


@dataclass(frozen=True)
class ExtractionPlan:
    """Everything an extraction needs, checked; its table has random vectors where these are the control."""

    options: ExtractOptions
    sequences: SequencePlan
    table: GeneTable
    projector: ProjectorFile | None
    places: NDArray[np.int64] | None  # (n_matched,): the order of genes, where that is the control
    random_seed: int | None  # of the model's weights, where these are the control
    shape: StorePlan
    record: dict[str, Any]
    trained_on: Mapping[str, tuple[str, ...]]  # by the column of obs that marks these cells

    @cached_property
    def _companion_vectors(self) -> dict[str, NDArray[np.float32]]:
        """Gene vectors ``(n_matched, width)`` by view; first needed beside the model's first cells, not before."""
        genes, views = self.sequences.genes, self.options.companion_views
        return companion_vectors(self.table, genes.match.genes, admitted=genes.admitted, names=views)

    def companion_rows(self, rows: csr_matrix, ranked: RankedCells) -> dict[str, NDArray[np.float32]]:
        """Weighted means of gene vectors, ``(n_cells, width)`` by view: of all expressed genes, or the ranked ones."""
        admitted = self.sequences.genes.admitted
        return {
            name: weighted_means(expressed_genes(rows, admitted=admitted) if name == GENEPT_W else ranked, vectors)
            for name, vectors in self._companion_vectors.items()
        }

    def at_rate(self, rate: float) -> ExtractionPlan:
        """The plan with shards that take about a minute at a rate, in cells/s."""
        rows = default_shard_rows(self.shape.n_obs, self.shape.views, rate=rate)
        return replace(self, shape=replace(self.shape, shard_rows=rows), record={**self.record, "shard_rows": rows})


def make_plan(
    source: CellSource, cells: CellFile, target: Path, options: ExtractOptions, progress: Reporter
) -> ExtractionPlan:
    """Find, match, choose and check everything."""
    _describe_preset(options, progress)
    if options.dtype == FLOAT8 and "last" in options.poolings:
        progress.warn(
            "dtype='float8': a trained model's readout token (pool='last') lost accuracy in it; wmean did not."
        )
    if options.control is not None:
        progress.note(f"control {options.control}: {CONTROLS[options.control]}")
    projector = load_projector(options.trained_projector) if options.trained_projector else None
    sequences = plan_sequences(source, cells, target, options, progress)
    if projector is not None and sequences.readout is not None:
        _check_projector(projector, options, sequences, progress)
    if options.like is not None:
        _check_model_like(options.like, sequences)
    views = view_specs(sequences, options, projector)
    n_obs = len(cells.obs)
    shape = StorePlan(n_obs, min(options.shard_rows or default_shard_rows(n_obs, views), n_obs), views)
    panel = sequences.genes.panel
    trained_on = {
        SEEN_BY_PANEL: () if panel is None else panel.trained_on,
        SEEN_BY_PROJECTOR: () if projector is None else projector.seen,
    }
    shuffles = options.control == SHUFFLED_ORDER
    return ExtractionPlan(
        options=options,
        sequences=sequences,
        table=_with_random_vectors(sequences.table) if options.control == RANDOM_GENES else sequences.table,
        projector=projector,
        places=shuffled_order(sequences.genes.symbols(), seed=CONTROL_SEED) if shuffles else None,
        random_seed=CONTROL_SEED if options.control == RANDOM_LLM else None,
        shape=shape,
        record=_record(sequences, options, projector, shape, target.parent),
        trained_on={column: ids for column, ids in trained_on.items() if ids},
    )


def _check_model_like(reference: Like, sequences: SequencePlan) -> None:
    """Refuse another model of the same name than the reference store's; its files were compared before."""
    before, now = reference_record(reference)[0]["model"], sequences.model_record
    if before is not None and now is not None and before["digest"] != now["digest"]:
        raise FeatureSpaceError(
            f"like={str(reference)!r}: the model {now['name']} has other files than when {reference} was made (digest "
            f"{before['digest'][7:19]} then, {now['digest'][7:19]} now). Use those, or extract the reference again."
        )


def projector_fits(plan: SequencePlan) -> dict[str, Any]:
    """What a projector's training and an extraction with it must have in common."""
    readout = plan.needed_readout
    return {
        "model": {"digest": readout.files.digest, "width": readout.files.width},
        "genes": {"encoder": dict(plan.table.encoder), "width": plan.table.width},
        "layout": _layout(plan),
        "expression_scaling": plan.options.expression_scaling or "none",
    }


def view_specs(plan: SequencePlan, options: ExtractOptions, projector: ProjectorFile | None) -> tuple[ViewSpec, ...]:
    """The views of a store with the feature space of each, the default view first."""
    width = plan.table.width
    matched: Space = {
        "genes": {"digest": plan.table.digest},
        "panel": {"digest": None if plan.genes.panel is None else plan.genes.panel.digest},
        "expression": {"target_sum": TARGET_SUM, "log1p": True},
    }
    tokens: Space = {**matched, "top_genes": plan.top_genes}
    vectors = "random" if options.control == RANDOM_GENES else "as encoded"
    companions: dict[str, tuple[int, Space]] = {
        "genept": (width, {"view": "genept", **tokens, "vectors": "whitened"}),
        "genept_random": (width, {"view": "genept", **tokens, "vectors": "random"}),
        "genept_w": (width, {"view": "genept", **matched, "vectors": vectors, **_control(options, RANDOM_GENES)}),
    }
    if plan.files is not None:
        encoder = {**_model(options, plan.files), "pooling": "mean", "max_tokens": plan.files.context}
        changed = _control(options, RANDOM_LLM, SHUFFLED_ORDER)
        companions["genept_s"] = (plan.files.width, {"view": "sentence", **tokens, "encoder": encoder, **changed})
    views = _readout_spaces(plan, options, projector, tokens) | {
        name: companions[name] for name in options.companion_views
    }
    return tuple(ViewSpec(name, width, options.store_dtype, space) for name, (width, space) in views.items())


def _readout_spaces(
    plan: SequencePlan, options: ExtractOptions, projector: ProjectorFile | None, tokens: Space
) -> dict[str, tuple[int, Space]]:
    if plan.readout is None:
        return {}
    files = plan.readout.files
    if options.reads_symbols:
        written = {"symbols": plan.genes.digest, "prompt": PROMPT, "separator": SEPARATOR}
        entering = {name: value for name, value in tokens.items() if name != "genes"} | {"input": written}
    else:
        seeded = {"kind": options.projector, "seed": options.seed}
        trained = None if projector is None else {"kind": "trained", "digest": projector.digest}
        scaling = plan.options.expression_scaling or "none"
        entering = {**tokens, "projector": trained or seeded, "expression_scaling": scaling}
    frozen: Space = {
        **entering,
        "model": _model(options, files),
        "layout": _layout(plan),
        **_control(options, *CONTROLS),
    }
    return {
        f"readout_{pool}_l{layer}": (files.width, {**frozen, "view": "readout", "layer": layer, "pooling": pool})
        for layer in plan.readout.layers
        for pool in options.poolings
    }


def _layout(plan: SequencePlan) -> dict[str, Any]:
    """What stands around the genes."""
    layout = plan.needed_readout.layout
    return {"instruction": plan.options.words, "prefix": list(layout.prefix), "suffix": list(layout.suffix)}


def _model(options: ExtractOptions, files: ModelFiles) -> dict[str, Any]:
    random = {"weights": "random"} if options.control == RANDOM_LLM else {}
    rounded = {"dtype": FLOAT8} if options.dtype == FLOAT8 else {}  # other precisions are near enough to be mixed
    return {"digest": files.digest, **random, **rounded}


def _control(options: ExtractOptions, *changing: str) -> dict[str, Any]:
    """The control's part of the space of a view that these controls change; empty where it is none of them."""
    if options.control not in changing:
        return {}
    return {"control": {"kind": options.control, "seed": CONTROL_SEED}}


def _describe_preset(options: ExtractOptions, progress: Reporter) -> None:
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


def _check_projector(
    projector: ProjectorFile, options: ExtractOptions, sequences: SequencePlan, progress: Reporter
) -> None:
    """Refuse a projector that does not fit, and warn where it is used for what it was not trained for."""
    name, trained = options.projector, projector.training
    projector.check_fits(projector_fits(sequences), path=str(name))
    progress.note(f"projector: {name}, trained on {len(projector.trained_on):,} cells for {projector.label!r}")
    panel = sequences.genes.panel
    if trained["panel"] != (None if panel is None else panel.digest):
        progress.warn(f"{name} was trained with {'another' if trained['panel'] else 'no'} panel.")
    if options.control == RANDOM_LLM:
        progress.warn(f"{name} was trained through the real weights; with random ones it is of no use.")
    if untrained := sorted(set(sequences.needed_readout.layers) - set(trained["layers"])):
        known, unknown = (", ".join(map(str, layers)) for layers in (trained["layers"], untrained))
        progress.warn(f"{name} was trained for layers {known}; what it does to {unknown} is unknown.")


def _record(
    sequences: SequencePlan, options: ExtractOptions, projector: ProjectorFile | None, shape: StorePlan, folder: Path
) -> dict[str, Any]:
    """The run's record, as JSON."""
    genes = sequences.genes
    used = replace(options, genes=sequences.table_file, panel=genes.panel_file)
    views: tuple[ViewSpec, ...] = shape.views
    return {
        "format": FORMAT,
        "kind": "store",
        "views": {view.name: view.as_json() for view in views},
        "default_view": views[0].name,
        "shard_rows": shape.shard_rows,
        # the default companions hang on a table that was given
        "options": options_record(used, folder) | {"companions": list(options.companion_views)},
        "model": sequences.model_record,
        **_control(options, *CONTROLS),
        "genes": {
            "digest": sequences.table.digest,
            "n_genes": len(sequences.table),
            "encoder": dict(sequences.table.encoder),
            "matched": genes.match.report,
        },
        "panel": None
        if genes.panel is None
        else {"digest": genes.panel.digest, "n_genes": len(genes.panel), "label": genes.panel.label},
        "projector": None
        if projector is None
        else {"digest": projector.digest, "label": projector.label, "recipe": projector.training["recipe"]["name"]},
        "input": sequences.input_record,
        "run": asdict(sequences.run),
        "versions": installed_versions(),
    }


def check_same_run(target: Path, plan: ExtractionPlan) -> None:
    """Refuse to go on with a store of other cells or options, naming every field that differs."""
    record = open_store(target).record
    if record is None:
        raise OutputError(f"{target}: scstore did not extract it. Choose another name, or set overwrite=True.")
    old, new = record["views"], plan.record["views"]
    if fields := [*view_differences(old, new), *differences(_decisive(record), _decisive(plan.record))]:
        raise FeatureSpaceError(
            f"{target} is a store of another run. It can be finished only with the same cells and options; what "
            "differs:\n  "
            + "\n  ".join(fields)
            + "\nGive those options again, choose another output, or set overwrite=True."
        )


def _decisive(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's record that must stay as it is for the run to go on; hardware and versions may change."""
    run = {name: value for name, value in record["run"].items() if name != "device"}
    return {
        "input": record["input"],
        "shard_rows": record["shard_rows"],
        "keep_expression": record["options"]["keep_expression"],
        **run,
    }
