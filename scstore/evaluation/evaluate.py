"""``scstore evaluate``: how good a store's features are, with every control in the same table."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scstore.annotation.fit import PriorAdjustment
from scstore.cells.labels import MISSING_LABELS, MissingLabels, read_labels, report_labels
from scstore.cluster import on_cluster
from scstore.errors import OptionError
from scstore.evaluation.cells import EvaluationCells, gather_cells
from scstore.evaluation.design import Design, choose_rows, cross_validation, draw_few, named_sides
from scstore.evaluation.disjoint_genes import GeneSplitFeatures, gene_split_rows
from scstore.evaluation.features import ControlStores, StoredFeatures, match_control, without_seen_labels
from scstore.evaluation.left_out_classes import leave_classes_out
from scstore.evaluation.result import Evaluation, Regime, make_regime
from scstore.evaluation.runs import Table, score_rows
from scstore.heads import PRIOR_ADJUSTMENT
from scstore.heads.fusion import FusedHead
from scstore.heads.training import one_blas_thread
from scstore.options import AllowPartial, Dask, Option, Progress, Seed, fraction, public
from scstore.progress import Reporter
from scstore.store.reader import Cells, Store, open_store

# Draws of a few training cells from every fold; with five folds that makes 15 trainings a row.
DRAWS = 3
# Folds within the training cells of a split, for the temperatures. `fit` takes 5; three cost less.
INNER_FOLDS = 3

Controls = Mapping[str, Cells | Sequence[Cells]] | None


@public
def evaluate(
    store: Annotated[Cells, Option("A store, an AnnData on disk or in memory, or a 10x file.", argument=True)],
    *,
    label: Annotated[str, Option("Column of obs with the classes; cells without a label are left out.")],
    missing_labels: MissingLabels = MISSING_LABELS,
    head: Annotated[Literal["linear", "mlp", "knn"], Option("Kind of classifier.", advanced=True)] = "linear",
    prior_adjustment: PriorAdjustment = PRIOR_ADJUSTMENT,
    views: Annotated[Sequence[str] | None, Option("Rows: VIEW, VIEW+VIEW, regression, …", flags=("--view",))] = None,
    controls: Annotated[Controls, Option("NAME=STORE of the same cells, for comparison.", flags=("--control",))] = None,
    folds: Annotated[int, Option("Number of folds.", minimum=2, advanced=True)] = 5,
    repeats: Annotated[int, Option("How often to deal the folds (and genes) anew.", minimum=1, advanced=True)] = 1,
    group: Annotated[str | None, Option("Column of obs, such as donor: folds hold out whole groups.")] = None,
    test_store: Annotated[Cells | None, Option("Train on the whole store, and test on this one.")] = None,
    train_on: Annotated[Sequence[str], Option("COLUMN=VALUE of the cells to train on, or else the rest.")] = (),
    test_on: Annotated[Sequence[str], Option("COLUMN=VALUE of the cells to test on, such as species=mouse.")] = (),
    min_cells: Annotated[int, Option("Leave out classes with fewer cells.", minimum=1, advanced=True)] = 10,
    few_shot: Annotated[Sequence[int], Option("Also train on so many cells a class: 2,5,20.", advanced=True)] = (),
    hold_out_genes: Annotated[float | None, fraction("Also test on this share of the genes, such as 0.5.")] = None,
    leave_one_class_out: Annotated[
        bool, Option("Also see whether cells of a left-out class stand out.", advanced=True)
    ] = False,
    seed: Seed = 0,
    allow_partial: AllowPartial = False,
    dask: Dask = None,
    progress: Progress = None,
) -> Evaluation:
    """Score every view, the default combination and the controls on cells that nothing was fitted on.

    All fitting happens within the training cells of each fold: gene selection, PCA, scaling, head, calibration. Give a
    ``group`` such as donor where there is one. Of ``COLUMN=VALUE``, values of one column add up, and several columns
    must all be met.

    Returns
    -------
    Evaluation
        Tables, comparisons, predictions; :func:`scstore.save_evaluation` writes them with figures.

    Raises
    ------
    LabelsError
        If fewer than two classes are left, or a projector was trained on cells to be tested on.
    OptionError
        If options do not go together.
    FeatureSpaceError
        If two stores differ in their feature spaces.

    Notes
    -----
    By default the rows are each view alone; ``default``, the head that ``fit`` would make: expression with those of
    readout and genept that earn their place on held-out training cells; random vectors with expression; ``regression``,
    a class-balanced logistic regression on expression, with which the rows are compared. A control adds its default
    view, and its default; with a test store it is two stores under one name. With groups, whole groups are held out
    within the training cells as well, and intervals draw whole groups; of fewer than five there is no interval. With
    ``hold_out_genes`` heads are trained on the other genes; ``leave_one_class_out`` measures whether confidence and
    novelty tell cells of a class that no head was trained on. Where the panel has seen the labels, means of gene
    vectors choose their genes again in each fold, and rows that take the model are marked as optimistic and left out
    of the conclusion.

    Examples
    --------
    >>> found = scstore.evaluate("stores/ref.zarr", label="cell_type", group="donor")  # doctest: +SKIP
    >>> print(found.conclusion)  # doctest: +SKIP
    """
    if any(n < 1 for n in few_shot) or len(set(few_shot)) < len(few_shot):
        raise OptionError(f"few_shot={list(few_shot)}: give different numbers of cells a class, each at least 1.")
    if hold_out_genes in (0, 1):
        raise OptionError(f"hold_out_genes={hold_out_genes:g}: give a share between 0 and 1, such as 0.5.")
    progress = progress or Reporter()
    cells = gather_cells(
        _opened([store] if test_store is None else [store, test_store]),
        label=label,
        missing=missing_labels,
        group=group,
        train_on=train_on,
        test_on=test_on,
        min_cells=min_cells,
        allow_partial=allow_partial,
    )
    names = " and ".join(one.path.name for one in cells.stores)
    for line in (line for one in cells.stores for line in one.notes):
        progress.note(line)
    obs = pd.concat([one.obs[[label]].astype(object) for one in cells.stores])
    labels = read_labels(obs, label, missing=missing_labels, source=names)
    report_labels(obs, label, labels, source=names, progress=progress)
    matched = {name: match_control(name, _opened(given), cells) for name, given in (controls or {}).items()}
    counterparts = {name: control.stores for name, control in matched.items()}
    rows = choose_rows(cells.stores[0], views=views, controls=counterparts)
    own = ControlStores(cells.stores, cells.rows)
    rows, features = without_seen_labels(rows, StoredFeatures(cells, {"": own, **matched}))
    for source in (source for row in rows for source in row.sources):
        features.check_space(source)
    if cells.test is None:
        design = cross_validation(cells, group=group, folds=folds, repeats=repeats, seed=seed)
    else:
        design = named_sides(cells, train_on, test_on)
    notes = _notes(cells, features, group=group, min_cells=min_cells)
    if repeats > design.n_runs and hold_out_genes is None:
        notes.append(f"repeats={repeats}: there is one way to split these cells, so it was done once")
    untrained = FusedHead(head, n_folds=INNER_FOLDS, prior_adjustment=prior_adjustment, random_state=seed)
    tables = [Table("folds", design.words, tuple(rows), design.splits, features)]
    tables += [_few_shot(n, tables[0], cells, seed=seed) for n in few_shot]
    if hold_out_genes is not None:
        tables.append(_disjoint_genes(hold_out_genes, design, cells, repeats=repeats, seed=seed))
    about = f"{label} of {names}: {len(cells.classes)} classes"
    progress.note(f"{about}, {len(cells):,} cells; {design.words}; {len(rows)} rows with {head} heads")
    regimes: list[Regime] = []
    left_out = None
    with one_blas_thread(), on_cluster(dask, *cells.stores):
        for table in tables:
            scored = score_rows(table, cells, head=untrained, progress=progress)
            n_scored = scored.predictions["cell"].nunique()
            title = f"{about}, {n_scored:,} cells scored; {head} heads, means over classes; {table.words}"
            how: Any = {"notes": notes, "unit": group or "", "seed": seed, "progress": progress}
            regimes.append(make_regime(table.name, title, scored, cells, **how))
        if leave_one_class_out:
            left_out = leave_classes_out(rows, design.splits, features, head=untrained, progress=progress)
    settings: dict[str, Any] = {"label": label, "missing_labels": list(missing_labels), "head": head}
    settings |= {"prior_adjustment": prior_adjustment, "stores": [one.path.name for one in cells.stores]}
    settings["controls"] = {name: [one.path.name for one in stores] for name, stores in counterparts.items()}
    settings |= {"design": design.words, "folds": folds, "repeats": repeats, "group": group}
    settings |= {"train_on": list(train_on), "test_on": list(test_on), "min_cells": min_cells, "seed": seed}
    settings["n_cells"] = len(cells)
    settings["classes"] = dict(zip(cells.classes, np.bincount(cells.codes).tolist(), strict=True))
    settings |= {"classes_with_too_few_cells": dict(cells.too_few), "views": None if views is None else list(views)}
    return Evaluation(settings, tuple(regimes), cells, left_out)


def _notes(cells: EvaluationCells, features: StoredFeatures, *, group: str | None, min_cells: int) -> list[str]:
    """Return what is to be known of every table."""
    notes = []
    if features.refitted:
        again = ", ".join(dict.fromkeys(source.view for source in features.refitted))
        notes.append(f"{again}: genes chosen again in each fold, since the store's panel has seen these labels")
    if group is None and cells.test is None:
        notes.append("cells of one donor may be on both sides: without group= scores are too good for the next donor")
    if cells.too_few:
        listed = ", ".join(f"{name} {n}" for name, n in cells.too_few.items())
        notes.append(f"left out, classes with fewer than {min_cells} cells: {listed}")
    return notes


def _few_shot(n_cells: int, folds: Table, cells: EvaluationCells, *, seed: int) -> Table:
    """Return the table of the folds with a few training cells of each class, drawn from every split."""
    few = [
        draw_few(split, cells.codes, n_cells=n_cells, run=split.run * DRAWS + draw, seed=seed)
        for split in folds.splits
        for draw in range(DRAWS)
    ]
    words = f"{n_cells} training cells a class (all, where a class has fewer), {DRAWS} draws a fold; {folds.words}"
    return replace(folds, name=f"few-shot {n_cells}", words=words, splits=tuple(few))


def _disjoint_genes(fraction: float, design: Design, cells: EvaluationCells, *, repeats: int, seed: int) -> Table:
    """Deal the genes anew in every repeat, on the folds of that repeat or, where there is one way, on the same."""
    dealt = [replace(s, run=run) for run in range(repeats) for s in design.splits if s.run == run % design.n_runs]
    words = f"tested on {fraction:.0%} of the genes, trained on the others; {repeats} deal(s); {design.words}"
    notes = (
        "expression, and what is combined with it, cannot run: the two sides share no gene",
        "transductive: each side is centred on its own mean, over all cells to be labelled together",
    )
    features = GeneSplitFeatures(cells, fraction, seed)
    return Table("disjoint genes", words, tuple(gene_split_rows()), tuple(dealt), features, notes)


def _opened(given: Cells | Sequence[Cells]) -> list[Store]:
    stores = [given] if isinstance(given, str | os.PathLike | AnnData | Store) else given
    return [open_store(one) for one in stores]
