"""``scstore align``: a projector trained through the frozen model on labelled cells."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from scstore import fsio
from scstore.alignment import projector_training
from scstore.alignment.projector_training import RECIPES, LabelledCells, Recipe, Training
from scstore.cells.labels import MISSING_LABELS, MissingLabels, read_labels, report_labels
from scstore.cells.opening import open_cells
from scstore.errors import FeatureSpaceError, LabelsError, OptionError
from scstore.extraction.model_reader import load_model
from scstore.extraction.options import Cells, SequenceOptions
from scstore.extraction.plan import projector_fits
from scstore.extraction.sequence_plan import SequencePlan, installed_versions, plan_sequences, run_settings
from scstore.heads.class_numbers import stratified_part
from scstore.model.loading import FLOAT8
from scstore.model.projector import PROJECTOR, ProjectorFile, aligned_map, save_projector
from scstore.model.readout import Readout
from scstore.model.shapes import kept_bytes
from scstore.model.trained_projector import TrainedProjector
from scstore.options import Option, with_options
from scstore.progress import Reporter
from scstore.sealed import check_sealed_output, differences
from scstore.tokens.sequences import RankedCells, join_cells, take_cells

SAVE_EVERY = 200  # steps between two savings within an epoch
# Bytes of hidden states that a pass may keep for its way back; past this the blocks are computed again.
KEPT_BYTES = 1 << 30
Output = Annotated[str | os.PathLike[str], Option("The projector, a folder.", flags=("--output", "-o"))]


@dataclass(frozen=True, kw_only=True)
class AlignOptions(SequenceOptions):
    """Options of align. ``None`` leaves a number to the recipe."""

    label: Annotated[str, Option("Column of obs. Cells without a label are left out.")]
    missing_labels: MissingLabels = MISSING_LABELS
    recipe: Annotated[
        Literal["default", "papers", "papers-small"],
        Option(
            "default starts at the closed-form projector; papers is scInterpreter's and scReader's training; "
            "papers-small is the same with one linear layer, for a few hundred cells."
        ),
    ] = "default"
    epochs: Annotated[int | None, Option("Passes over the cells, at most. By default 8.", minimum=1)] = None
    learning_rate: Annotated[
        float | None,
        Option("Highest learning rate. By default 0.01 (papers: 5e-5).", minimum=1e-9, maximum=10, advanced=True),
    ] = None
    batch_size: Annotated[int | None, Option("Cells of a step. By default 16.", minimum=1, advanced=True)] = None
    gene_dropout: Annotated[
        float | None,
        Option("Chance of a gene to be left out. By default 0.4 (papers: 0).", minimum=0, maximum=0.9, advanced=True),
    ] = None
    hold_out: Annotated[
        float | None,
        Option("Part of the cells held out. By default 0.2 (papers: 0.1).", minimum=0.01, maximum=0.9, advanced=True),
    ] = None
    patience: Annotated[
        int | None,
        Option("Epochs without a lower held-out loss; 0 for any. By default 3 (papers: 0).", minimum=0, advanced=True),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype == FLOAT8:
            raise OptionError(f"dtype={FLOAT8!r}: gradients do not pass through it. Extract with it, once trained.")

    @property
    def training(self) -> Recipe:
        names = ("epochs", "learning_rate", "batch_size", "gene_dropout", "hold_out", "patience")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(RECIPES[self.recipe], **given)


@with_options(AlignOptions)
def align(cells: Cells, output: Output, options: AlignOptions) -> ProjectorFile:
    """Train a projector from gene vectors to the model's input, through the frozen model, by its readouts' labels.

    Killed anywhere, the same call goes on where it stopped and ends in the same projector. While it trains, its state
    is in a folder beside the output, ``OUTPUT.training``.

    Returns
    -------
    ProjectorFile
        As written.

    Raises
    ------
    CellsError, GenesError
        As for :func:`scstore.extract`.
    LabelsError
        If there is no such column, or it has fewer than two labels or too few cells to hold some out.
    OptionError
        If options do not go together.
    FeatureSpaceError
        If a training of other cells or options was begun here; the differing fields are listed.
    NumericsError
        If the loss is not finite.
    LockedError
        If another process trains the same projector.

    Examples
    --------
    >>> scstore.align("cells.h5ad", "projectors/blood", label="cell_type", panel="blood.h5ad")  # doctest: +SKIP
    >>> scstore.extract("cells.h5ad", "ref.zarr", projector="projectors/blood", panel="blood.h5ad")  # doctest: +SKIP
    """
    progress = options.progress or Reporter()
    target = check_sealed_output(output, PROJECTOR, overwrite=options.overwrite)
    begun_in = target.with_name(f"{target.name}.training")
    with fsio.lock(target.with_name(f"{target.name}.lock")):
        projector_training.check_training_folder(begun_in)
        if options.overwrite:
            fsio.disk.delete(begun_in)
        projector = _train(cells, target, begun_in, options, progress)
        save_projector(projector, target, overwrite=options.overwrite)
        fsio.disk.delete(begun_in)
    if not projector.training["best_epoch"]:
        progress.warn("No epoch lowered the held-out loss: the projector is the one that training started at.")
    return projector


def _train(cells: Cells, target: Path, begun_in: Path, options: AlignOptions, progress: Reporter) -> ProjectorFile:
    chosen = RECIPES[options.recipe].options  # where they were not given
    options = replace(options, **{name: chosen[name] for name in chosen if getattr(options, name) is None})
    with open_cells(cells, id_prefix_from=options.id_prefix_from) as opened:
        labels = read_labels(opened.obs, options.label, missing=options.missing_labels, source=opened.source)
        report_labels(opened.obs, options.label, labels, source=opened.source, progress=progress)
        begun = projector_training.load_training(begun_in)
        if begun is not None:  # precision and passes go on as they were, unless the caller gives others
            options = options.as_begun(begun[0]["run"])
        plan = plan_sequences(cells, opened, target, options, progress)
        wanted = plan.needed_readout
        plan = replace(plan, run=run_settings(options, wanted.files, wanted, backward=True))
        data = _read_training_cells(
            plan, labels, label=options.label, hold_out=options.training.hold_out, progress=progress
        )
        history = _history(plan, data, options)
        if begun is not None and (found := differences(begun[0], history)):
            why = f"{begun_in} holds a training that was begun with other cells or options; what differs:"
            cure = "Give those again to go on, choose another output, or pass overwrite=True to begin anew."
            raise FeatureSpaceError("\n".join([why, *(f"  {one}" for one in found), cure]))
        training = _load(plan, data, options, progress)

        def save() -> None:
            projector_training.save_training(begun_in, training.state, training.arrays(), settings=history)

        if begun is None:
            training.begin(progress)
            save()
        else:
            training.restore(*begun[1:])
            progress.note(f"going on after epoch {training.state.epoch}, step {training.state.step}")
        training.run(progress, save=save, save_every=SAVE_EVERY)
        return _finished(history, training)


def _read_training_cells(
    plan: SequencePlan, labels: Sequence[str | None], *, label: str, hold_out: float, progress: Reporter
) -> LabelledCells:
    """Rank the cells of a plan that have a label and a gene to read; every label keeps one cell to train on."""
    source = plan.source.cells.source
    parts: list[RankedCells] = []
    kept: list[int] = []
    start = 0
    for block in plan.expression_blocks(progress):
        ranked = plan.rank(block)
        has_label = np.array([value is not None for value in labels[start : start + len(ranked)]], dtype=bool)
        rows = np.flatnonzero(has_label & (ranked.lengths > 0))
        parts.append(take_cells(ranked, rows))
        kept += (start + rows).tolist()
        start += len(ranked)
    names = [str(labels[row]) for row in kept]
    classes, codes = np.unique(names, return_inverse=True)
    if len(classes) < 2:
        held = f"column {label!r} has {len(classes)} label(s) among the cells with a gene to read"
        raise LabelsError(f"{source}: {held}. A projector is trained on at least two.")
    size = max(1, round(hold_out * len(codes)))
    held_out = stratified_part(codes, size=size, rng=np.random.default_rng(plan.options.seed))
    if not len(held_out):
        held = f"{len(codes):,} cells of {len(classes)} labels in column {label!r}"
        raise LabelsError(f"{source}: {held} are too few to hold {hold_out:.0%} out. Give more, or a larger hold_out=.")
    training = np.setdiff1d(np.arange(len(codes)), held_out)
    counts = f"{len(training):,} cells to train on, {len(held_out):,} held out, {len(labels) - len(kept):,} left out"
    progress.note(f"labels: {len(classes)} of {label!r}; {counts} (no label, or no gene that may enter)")
    return LabelledCells(
        ranked=join_cells(parts),
        codes=codes.astype(np.int64),
        classes=tuple(map(str, classes)),
        training=training,
        held_out=held_out,
        ids=tuple(str(plan.source.cells.obs.index[row]) for row in kept),
    )


def _history(plan: SequencePlan, data: LabelledCells, options: AlignOptions) -> dict[str, Any]:
    """Return everything that decides the training, as JSON: it must be the same for a training to go on."""
    readout, panel = plan.needed_readout, plan.genes.panel
    return {
        "label": options.label,
        "classes": dict(zip(data.classes, np.bincount(data.codes).tolist(), strict=True)),
        "input": plan.input_record,
        "model": plan.model_record,
        "genes": plan.table.digest,
        "panel": None if panel is None else panel.digest,
        "top_genes": plan.top_genes,
        "fits": projector_fits(plan),
        "layers": list(readout.layers),
        "pool": list(plan.options.poolings),
        "recipe": options.training.as_json(),
        "seed": options.seed,
        "run": asdict(plan.run),
    }


def _load(plan: SequencePlan, cells: LabelledCells, options: AlignOptions, progress: Reporter) -> Training:
    backbone = load_model(plan, progress)
    wanted, table, recipe = plan.needed_readout, plan.table, options.training
    files = wanted.files
    start = None
    if recipe.start == "aligned":
        start = aligned_map(table.vectors[table.encoded], backbone.token_embeddings, seed=options.seed)
    no_genes = np.zeros((0, files.width), dtype=np.float32)  # projected anew at every step
    itemsize = backbone.dtype.itemsize
    kept = kept_bytes(files.config, plan.run.tokens_per_batch, depth=max(wanted.layers), itemsize=itemsize)
    return Training(
        Readout(backbone, wanted.layout, no_genes, layers=wanted.layers, multiply=plan.options.multiplies),
        TrainedProjector(table.width, files.width, blocks=recipe.blocks, start=start, seed=options.seed),
        table.vectors[plan.genes.match.genes],
        cells,
        recipe,
        frame=wanted.layout.frame,
        poolings=plan.options.poolings,
        tokens_per_batch=plan.run.tokens_per_batch,
        seed=options.seed,
        recompute=kept > KEPT_BYTES,
    )


def _finished(history: Mapping[str, Any], training: Training) -> ProjectorFile:
    projector, cells = training.projector, training.cells
    shape: dict[str, Any] = {"width_in": projector.width_in, "width_out": projector.width_out}
    shape |= {"blocks": len(projector.layers) - 1, "start": training.recipe.start}
    learned = {"curve": training.state.curve, "best_epoch": training.state.best_epoch, "versions": installed_versions()}
    return ProjectorFile(
        shape=shape,
        arrays=projector.to_arrays(),
        fits=history["fits"],
        trained_on=cells.ids_of(cells.training),
        held_out=cells.ids_of(cells.held_out),
        training={name: value for name, value in history.items() if name != "fits"} | learned,
    )
