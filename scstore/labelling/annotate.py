"""``scstore annotate``: cells in, the same cells with labels out."""

import os
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.annotation.annotated_cells import (
    PREFIX,
    SPACE,
    Annotation,
    add_to_anndata,
    check_annotated_output,
    write_annotated,
)
from scstore.annotation.head_inputs import lacking_views
from scstore.annotation.predict import (
    Labelling,
    LabelOptions,
    PredictionCounts,
    TrainedHead,
    expression_alone,
    plan_labelling,
    write_frames,
)
from scstore.annotation.prediction_frames import with_categories
from scstore.annotation.record import annotation_record
from scstore.cluster import on_cluster
from scstore.errors import OptionError
from scstore.extraction.head_views import extract_views
from scstore.fsio import digest_bytes, scratch_folder
from scstore.heads.artifact import AnyHead, load_head
from scstore.heads.fusion import FusedHead, Judged
from scstore.labelling.suggest import with_suggestions
from scstore.options import Option, with_options
from scstore.progress import Reporter
from scstore.reporting.marks import LABEL, labels_of
from scstore.reporting.page import check_page, describe, describe_markers, write_page
from scstore.store.reader import Cells, Store, open_store
from scstore.tables import FORMATS, check_table

# Cells of which no UMAP is drawn unless it is asked for.
MANY_CELLS = 100_000
FEWEST_CELLS = 10
UMAP = "X_umap"

ToAnnotate = Annotated[Cells, Option("An AnnData, .h5ad, 10x file or folder, or a store.", argument=True)]


@dataclass(frozen=True)
class AnnotateOptions(LabelOptions):
    """Options of :func:`annotate` and :func:`annotate_to_file`."""

    output: Annotated[
        str | os.PathLike[str] | None,
        Option("annotated.h5ad, or a table: .csv, .tsv, .parquet, .xlsx.", flags=("--output", "-o")),
    ] = None
    report: Annotated[
        str | os.PathLike[str] | None, Option("Also write a page about the labels, such as page.html.")
    ] = None
    umap: Annotated[
        bool | None, Option("Make X_umap. By default where you have none, of at most 100,000 cells.", advanced=True)
    ] = None


@with_options(AnnotateOptions)
def annotate(cells: ToAnnotate, head: TrainedHead, options: AnnotateOptions) -> anndata.AnnData:
    """Label cells, and give them back whole, with the labels in them.

    Expression is found, its genes are matched with the head's, and genes that were not measured are estimated. What
    else the head reads, gene vectors or a model's readouts, is computed if the cells do not have it: gene vectors
    anywhere, readouts where the model is installed. Nothing is left out silently.

    Returns
    -------
    AnnData
        The AnnData that was given, or what the file holds, with ``obs`` columns ``scstore_label`` (``unassigned`` where
        no label stands), ``scstore_confidence``, ``scstore_status`` and ``scstore_reason`` (why, in words),
        ``scstore_best_label``, ``scstore_second_label``, ``scstore_margin``, ``scstore_novelty``, and for heads of
        several levels ``scstore_label:COLUMN``; text as categories, with colours in ``uns``. Where unassigned cells far
        from the head's labels look like a term of the Cell Ontology, by texts alone, ``scstore_suggestion`` names it:
        to check, not a label. ``obsm["X_scstore"]`` is the space that novelty is measured in, ``obsm["X_umap"]`` the
        cells' own or one of that space, and ``uns["scstore"]["annotation"]`` says how the labels were made.

    Raises
    ------
    FeatureSpaceError
        If a view that the head reads is lacking and cannot be computed here.
    GenesError
        If none of the head's genes is there, or too few for ``min_accuracy``.
    OutputError
        If the output exists, or its ending is not that of the input.

    Examples
    --------
    >>> adata = scstore.annotate(adata, "heads/blood")  # doctest: +SKIP
    >>> sc.pl.umap(adata, color="scstore_label")  # doctest: +SKIP
    """
    with ExitStack() as stack:
        labelling, record = _prepared(cells, head, options, stack)
        table, annotation = _labelled(labelling, record, options)
        return write_and_return(labelling.store, labelling.head, table, annotation, options)


@with_options(AnnotateOptions)
def annotate_to_file(cells: ToAnnotate, head: TrainedHead, options: AnnotateOptions) -> PredictionCounts:
    """Label cells as :func:`annotate`, into a copy of their file or a table, in bounded memory; count them.

    Raises
    ------
    OptionError
        If no ``output`` is given, and as :func:`annotate` does.
    """
    if options.output is None:
        raise OptionError("output=: name the file to write, such as annotated.h5ad or labels.xlsx.")
    with ExitStack() as stack:
        labelling, record = _prepared(cells, head, options, stack)
        only_table = Path(options.output).suffix in FORMATS and options.report is None
        table, annotation = _labelled(labelling, record, replace(options, umap=False) if only_table else options)
        counts = PredictionCounts()
        counts.add(table)
        write_labelled(labelling.store, labelling.head, table, annotation, options)
    return counts


def _prepared(
    cells: Cells, head: AnyHead | str | os.PathLike[str], options: AnnotateOptions, stack: ExitStack
) -> tuple[Labelling, dict[str, Any]]:
    """Check everything, and compute the views that the cells lack; with them the record of the annotation."""
    progress = options.progress or Reporter()
    store = open_store(cells)
    check_outputs(store, options)
    trained, name = (head, "the head") if isinstance(head, AnyHead) else (load_head(head), str(head))
    more = None
    if isinstance(trained, FusedHead):
        alone = expression_alone(trained, name, options.members)
        if lacking := lacking_views(store, trained, name, expression_alone=alone):
            progress.note(f"computing {', '.join(lacking)}, which {name} reads")
            output = None if options.output is None else Path(options.output).absolute()
            room: AbstractContextManager[str | Path] = (
                tempfile.TemporaryDirectory(prefix="scstore-") if output is None else scratch_folder(output)
            )
            target = Path(stack.enter_context(room), "features.zarr")
            more = extract_views(store, trained, lacking, target, name=name, progress=progress)
    labelling = plan_labelling(store, trained, options, more=more, name=name)
    record = annotation_record(labelling, trained, name, computed=() if more is None else lacking)
    return labelling, record


def write_and_return(
    store: Store, head: AnyHead | None, table: pd.DataFrame, annotation: Annotation, options: AnnotateOptions
) -> anndata.AnnData:
    """Write what is asked for, and return the cells, which are read before their file may be replaced."""
    adata = store.to_anndata(rows=None if store.is_complete else np.flatnonzero(store.committed))
    write_labelled(store, head, table, annotation, options)
    return add_to_anndata(adata, annotation)


def check_outputs(store: Store, options: AnnotateOptions) -> None:
    """Refuse outputs that cannot be written before the work starts."""
    if options.output is not None:
        if Path(options.output).suffix in FORMATS:
            check_table(options.output, overwrite=options.overwrite)
        else:
            check_annotated_output(store, options.output, overwrite=options.overwrite)
    if options.report is not None:
        check_page(options.report, overwrite=options.overwrite)


def write_labelled(
    store: Store, head: AnyHead | None, table: pd.DataFrame, annotation: Annotation, options: AnnotateOptions
) -> None:
    """Write what is asked for, the page before the cells' own file may be replaced."""
    if options.report is not None:
        rows = np.flatnonzero(store.committed)
        before = [name for name in store.obs.columns if not str(name).startswith(PREFIX)]
        obs = store.obs[before].iloc[rows].copy()
        for name in annotation.obs.columns:
            obs[name] = annotation.obs[name].array
        umap = annotation.obsm.get(UMAP)
        if umap is None and UMAP in store.views:
            umap = store.view(UMAP)[rows]
        page = describe(obs, umap, annotation.record, source=str(store.path))
        if store.is_complete and head is not None:
            page["markers"] = describe_markers(store, head, labels_of(obs[LABEL]))
        write_page(page, Path(options.report), overwrite=options.overwrite)
    if options.output is not None and Path(options.output).suffix in FORMATS:
        list(write_frames(iter([table]), options.output, options))
    elif options.output is not None:
        write_annotated(store, Path(options.output), annotation, overwrite=options.overwrite)


def _labelled(
    labelling: Labelling, record: Mapping[str, Any], options: AnnotateOptions
) -> tuple[pd.DataFrame, Annotation]:
    """Label all cells: the table of predictions, and what is added to the cells; a few numbers a cell."""
    committed = labelling.store.committed
    rows = np.cumsum(committed) - 1
    space: NDArray[np.float32] | None = None

    def seen(some: NDArray[np.int64], said: Judged) -> None:
        nonlocal space
        if said.places is not None:
            if space is None:
                space = np.zeros((int(committed.sum()), said.places.shape[1]), dtype=np.float32)
            space[rows[some]] = said.places

    with on_cluster(options.dask, labelling.store):
        table = pd.concat(list(labelling.frames(seen)))
    table = with_categories(with_suggestions(table, labelling, space))
    return table, make_annotation(labelling.store, table, space, record, options)


def make_annotation(
    store: Store,
    table: pd.DataFrame,
    space: NDArray[np.float32] | None,
    record: Mapping[str, Any],
    options: AnnotateOptions,
) -> Annotation:
    """Return what is added to cells: their labels, the space that they lie in with a UMAP of it, and the record."""
    by_label, by_status = (table[name].value_counts() for name in ("label", "status"))
    about = {
        **record,
        "n_cells": len(table),
        "n_by_status": {str(name): int(n) for name, n in by_status.items()},
        "n_by_label": [int(by_label.get(label, 0)) for label in record["labels"]],
        "n_suggested": int((table["suggestion"] != "").sum()) if "suggestion" in table else 0,
    }
    obsm: dict[str, NDArray[np.float32]] = {}
    made = _own_umap(store)
    if space is not None:
        obsm[SPACE] = space
        if (layout := _umap(store, space, options, anew=made != "")) is not None:
            obsm[UMAP], made = layout, _digest(layout)
    return Annotation.make(table, obsm, about | ({"umap": made} if made else {}))


def _own_umap(store: Store) -> str:
    """Digest of the cells' UMAP if an earlier annotation made it; empty if it is the user's, or there is none."""
    made = str(store.annotation.get("umap", "")) if UMAP in store.views else ""
    return made if made and _digest(store.view(UMAP)[:]) == made else ""


def _digest(layout: NDArray[Any]) -> str:
    return digest_bytes(np.ascontiguousarray(layout, dtype=np.float32).data)


def _umap(
    store: Store, space: NDArray[np.float32], options: AnnotateOptions, *, anew: bool
) -> NDArray[np.float32] | None:
    """Draw a UMAP of the space of novelty, unless the cells have one of their user."""
    progress, many = options.progress or Reporter(), len(space) > MANY_CELLS
    if options.umap is None:
        if len(space) < FEWEST_CELLS or (UMAP in store.views and not anew):
            return None
        if many or find_spec("umap") is None:
            why = "umap-learn is not installed: pip install 'scstore[plot]'"
            why = f"there are more than {MANY_CELLS:,} cells; umap=True makes it" if many else why
            progress.note(f"{UMAP} is not made, since {why}")
            return None
    elif not options.umap:
        return None
    from scstore.reporting.plots import embed

    progress.note(f"making {UMAP} from {SPACE}")
    return embed(space)
