"""``scstore align``: a projector trained through the frozen model on labelled cells."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import anndata
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score

from scstore import fsio
from scstore.alignment.recipes import Recipe, make_recipe
from scstore.alignment.training import Alignment, LabelledCells
from scstore.alignment.training_cells import TrainingCells, read_training_cells
from scstore.alignment.training_state import load_training, save_training
from scstore.cells.labels import read_labels
from scstore.cells.opening import open_cells
from scstore.errors import FeatureSpaceError, OptionError
from scstore.extraction.feature_spaces import projector_fits
from scstore.extraction.options import ExtractOptions
from scstore.extraction.reader import load_model
from scstore.extraction.sequence_plan import RunSettings, SequencePlan, installed_versions, plan_sequences
from scstore.model.flops import kept_bytes, tokens_that_fit
from scstore.model.projector import aligned_map
from scstore.model.projector_file import ProjectorFile, check_projector_output, save_projector
from scstore.model.readout import Readout
from scstore.model.trained_projector import TrainedProjector
from scstore.progress import Reporter
from scstore.spec import differences

__all__ = ["align"]

TRAINING = (
    "blocks", "epochs", "learning_rate", "warmup", "batch_size", "weight_decay", "gene_dropout", "hold_out", "patience",
)  # fmt: skip
"""Numbers of the recipe that a user may set."""

EXTRACTION = (
    "model", "revision", "genes", "panel", "top_genes", "expression_scaling", "seed",
    "instruction", "readout_token", "layers", "pool", "expression", "slot", "allow_fractional", "sum_duplicate_genes",
    "id_prefix_from", "organism", "orthologs", "min_match", "device", "dtype", "spread", "tokens_per_batch",
)  # fmt: skip
"""Options of extraction that training shares."""

SAVE_EVERY = 200
"""Steps between two savings within an epoch."""

KEPT_BYTES = 1 << 30
"""Bytes of hidden states that a pass may keep for its way back; past this the blocks are computed again."""


def align(
    cells: str | os.PathLike[str] | anndata.AnnData,
    output: str | os.PathLike[str],
    *,
    label: str,
    recipe: str = "default",
    overwrite: bool = False,
    progress: Reporter | None = None,
    **options: Any,
) -> ProjectorFile:
    """Train a projector from gene vectors to the model's input, through the frozen model, by its readouts' labels.

    Killed anywhere, the same call goes on where it stopped and ends in the same projector. While it trains, its state
    is in a folder beside the output, ``OUTPUT.training``.

    Parameters
    ----------
    cells
        An input of cells, as for :func:`scstore.extract`.
    output
        The projector, a folder.
    label
        Column of ``obs``. Cells without a label are left out.
    recipe
        ``default``, which starts at the closed-form projector, or ``papers``.
    overwrite
        Replace a projector that is there, and forget a training that was begun.
    progress
        Told what happens.
    **options
        ``blocks``, ``epochs``, ``learning_rate``, ``warmup``, ``batch_size``, ``weight_decay``, ``gene_dropout``,
        ``hold_out`` and ``patience`` of :class:`scstore.alignment.recipes.Recipe`, and what
        :class:`scstore.ExtractOptions` has for the cells, model, sequences and readouts.

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
    progress = progress or Reporter()
    chosen, settings = _settle(recipe, options)
    target = check_projector_output(output, overwrite=overwrite)
    begun_in = target.with_name(f"{target.name}.training")
    with (
        fsio.lock(target.with_name(f"{target.name}.lock")),
        open_cells(cells, scratch=target.parent, id_prefix_from=settings.id_prefix_from) as opened,
    ):
        labels = read_labels(opened.obs, label, source=opened.source)
        if overwrite:
            fsio.remove_tree(begun_in)
        begun = load_training(begun_in)
        if begun is not None:  # precision and passes go on as they were, unless the caller insists
            run = begun[0]["run"]
            settings = replace(
                settings,
                dtype=settings.dtype or run["dtype"],
                tokens_per_batch=settings.tokens_per_batch or run["tokens_per_batch"],
            )
        plan = plan_sequences(cells, opened, target, settings, progress)
        if begun is None:
            plan = replace(plan, run=_training_run(plan))
        data = read_training_cells(plan, labels, label, hold_out=chosen.hold_out, progress=progress)
        history = _history(plan, data, label, chosen)
        if begun is not None and (found := differences(begun[0], history)):
            msg = (
                f"{begun_in} holds a training that was begun with other cells or options; what differs:\n  "
                + "\n  ".join(found)
                + "\nGive those again to go on, choose another output, or pass --overwrite to begin anew."
            )
            raise FeatureSpaceError(msg)
        alignment = _alignment(plan, data.cells, chosen, progress)

        def save() -> None:
            save_training(begun_in, alignment.state, alignment.arrays(), settings=history)

        if begun is None:
            alignment.begin(progress)
            save()
        else:
            alignment.restore(*begun[1:])
            progress.note(f"going on after epoch {alignment.state.epoch}, step {alignment.state.step}")
        alignment.run(progress, save=save, save_every=SAVE_EVERY)
        projector = _finished(plan, data, history, alignment)
        save_projector(projector, target, overwrite=overwrite)
        fsio.remove_tree(begun_in)
    if not alignment.state.best_epoch:
        progress.warn("No epoch lowered the held-out loss: the projector is the one that training started at.")
    return projector


def _settle(recipe: str, options: Mapping[str, Any]) -> tuple[Recipe, ExtractOptions]:
    if unknown := sorted(options.keys() - {*TRAINING, *EXTRACTION}):
        msg = f"{', '.join(unknown)}: no option of align. It takes {', '.join([*TRAINING, *EXTRACTION])}."
        raise OptionError(msg)
    chosen = make_recipe(recipe, {name: options[name] for name in TRAINING if name in options})
    given = {name: options[name] for name in EXTRACTION if name in options}
    if given.get("seed", 0) < 0:
        msg = f"--seed {given['seed']}: must be at least 0."
        raise OptionError(msg)
    return chosen, ExtractOptions(**{**chosen.options, **given})


def _training_run(plan: SequencePlan) -> RunSettings:
    """Batches of a pass with its way back: the user's, or what extraction would take or the GPU holds."""
    run, readout = plan.run, plan.needed_readout
    if plan.options.tokens_per_batch is not None or run.device != "cuda":
        return run
    import torch

    free, _ = torch.cuda.mem_get_info(plan.options.device)
    tokens = tokens_that_fit(
        readout.files.config,
        free,
        depth=max(readout.layers),
        itemsize=_itemsize(run),
        most=run.tokens,
        backward=True,
    )
    return replace(run, tokens_per_batch=tokens)


def _itemsize(run: RunSettings) -> int:
    return 4 if run.dtype == "float32" else 2


def _history(plan: SequencePlan, data: TrainingCells, label: str, recipe: Recipe) -> dict[str, Any]:
    """Everything that decides what training gives, as JSON: must be the same for a training to go on."""
    options, readout, panel = plan.options, plan.needed_readout, plan.genes.panel
    return {
        "label": label,
        "classes": data.counts,
        "input": plan.input_record,
        "model": plan.model_record,
        "genes": plan.table.digest,
        "panel": None if panel is None else panel.digest,
        "top_genes": readout.top_genes,
        "fits": projector_fits(plan),
        "layers": list(readout.layers),
        "pool": list(options.poolings),
        "recipe": recipe.as_json(),
        "seed": options.seed,
        "run": plan.run.as_json(),
    }


def _alignment(plan: SequencePlan, cells: LabelledCells, recipe: Recipe, progress: Reporter) -> Alignment:
    """The model, the untrained projector and the heads, ready for the first step."""
    backbone = load_model(plan, progress)
    wanted, options, table = plan.needed_readout, plan.options, plan.table
    files = wanted.files
    start = None
    if recipe.start == "aligned":
        start = aligned_map(table.vectors, backbone.token_embeddings, seed=options.seed)
    projector = TrainedProjector(table.width, files.width, blocks=recipe.blocks, start=start, seed=options.seed)
    no_genes = np.zeros((0, files.width), dtype=np.float32)  # theirs are made anew at every step
    readout = Readout(backbone, wanted.layout, no_genes, layers=wanted.layers, multiply=options.multiplies)
    kept = kept_bytes(files.config, plan.run.tokens, depth=max(wanted.layers), itemsize=_itemsize(plan.run))
    return Alignment(
        readout,
        projector,
        table.vectors[plan.genes.match.genes],
        cells,
        recipe,
        frame=wanted.layout.frame,
        poolings=options.poolings,
        score=_score,
        tokens_per_batch=plan.run.tokens,
        seed=options.seed,
        recompute=kept > KEPT_BYTES,
    )


def _score(truth: NDArray[np.int64], found: NDArray[np.int64]) -> dict[str, float]:
    return {
        "accuracy": float(accuracy_score(truth, found)),
        "macro_f1": float(f1_score(truth, found, average="macro", zero_division=0)),
    }


def _finished(
    plan: SequencePlan, data: TrainingCells, history: Mapping[str, Any], alignment: Alignment
) -> ProjectorFile:
    projector, cells = alignment.projector, data.cells
    return ProjectorFile(
        shape={
            "width_in": projector.width_in,
            "width_out": projector.width_out,
            "blocks": len(projector.layers) - 1,
            "start": alignment.recipe.start,
        },
        arrays=projector.to_arrays(),
        fits=history["fits"],
        trained_on=data.ids_of(cells.training),
        held_out=data.ids_of(cells.held_out),
        training={
            **{name: value for name, value in history.items() if name != "fits"},
            "curve": alignment.state.curve,
            "best_epoch": alignment.state.best_epoch,
            "versions": installed_versions(),
        },
    )
