"""``scstore evaluate``: how good a store's features are, with every control in the same table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from scstore.cells.labels import MISSING_LABELS, MissingLabels, read_labels, report_labels
from scstore.errors import OptionError
from scstore.evaluation.cells import EvaluationCells, gather_cells
from scstore.evaluation.disjoint_genes import GeneSplitFeatures, gene_split_rows
from scstore.evaluation.fits import HeadOptions
from scstore.evaluation.left_out_classes import leave_classes_out
from scstore.evaluation.result import Evaluation, Regime, Rejection, make_regime
from scstore.evaluation.rows import choose_rows
from scstore.evaluation.runs import Scored, StoredFeatures, score_rows
from scstore.evaluation.splits import Split, draw_few, group_folds, k_folds
from scstore.heads.defaults import PRIOR_ADJUSTMENT
from scstore.heads.fusion import HEADS
from scstore.heads.threads import one_blas_thread
from scstore.progress import Reporter
from scstore.store.reader import Store

__all__ = ["DRAWS", "evaluate"]

DRAWS = 3
"""Draws of a few training cells from every fold; with five folds that makes 15 trainings a row."""

StoreLike = str | os.PathLike[str] | Store


def evaluate(
    store: StoreLike,
    *,
    label: str,
    missing_labels: MissingLabels = MISSING_LABELS,
    head: str = "linear",
    prior_adjustment: float = PRIOR_ADJUSTMENT,
    views: Sequence[str] | None = None,
    controls: Mapping[str, StoreLike | Sequence[StoreLike]] | None = None,
    folds: int = 5,
    repeats: int = 1,
    group: str | None = None,
    test_store: StoreLike | None = None,
    train_on: Sequence[str] = (),
    test_on: Sequence[str] = (),
    min_cells: int = 10,
    few_shot: Sequence[int] = (),
    hold_out_genes: float | None = None,
    leave_one_class_out: bool = False,
    seed: int = 0,
    allow_seen: bool = False,
    allow_partial: bool = False,
    progress: Reporter | None = None,
) -> Evaluation:
    """Score every view, the default combination and the controls on cells that nothing was fitted on.

    All fitting happens inside the training cells of each fold: gene selection, PCA, scaling, head, calibration.

    Parameters
    ----------
    store
        A store, or any ``.h5ad`` or AnnData Zarr with ``obsm`` matrices.
    label
        Column of ``obs``; cells without a label, and empty cells, are left out.
    missing_labels
        Words that count as a missing label, as for :func:`scstore.fit`.
    head
        ``linear``, ``mlp`` or ``knn``.
    prior_adjustment
        How much of the labels' shares among the training cells is taken back, 0 to 1, as for :func:`scstore.fit`.
    views
        The rows wanted: names of views, joined with ``+`` to combine them. By default each view alone, the default
        views together, random vectors with expression, and CellTypist where it is installed.
    controls
        Other stores of the same cells by name (random gene vectors, a model with random weights, shuffled gene order):
        each adds its default view, and its default views together. With ``test_store`` two stores each.
    folds, repeats
        Stratified folds, dealt anew in every repeat.
    group
        Column of ``obs``, such as the donor: every fold holds out whole groups, one each where there are no more
        groups than folds; intervals draw whole groups.
    test_store
        Train on all of ``store`` and test on this one, of the same feature space.
    train_on, test_on
        ``COLUMN=VALUE`` conditions: train on some cells and test on others. Values of one column add up, several
        columns must all be met; the side that is not named is the rest.
    min_cells
        Classes with fewer cells are left out.
    few_shot
        For each number: train on so many cells a class instead.
    hold_out_genes
        Train on part of the genes and test on the others, this share of them: no gene is on both sides.
    leave_one_class_out
        Whether confidence and novelty tell the cells of a class that was left out.
    seed
        The same seed gives the same numbers.
    allow_seen
        Score cells though a panel or projector saw their labels; the result says how many.
    allow_partial
        Use the cells that are extracted so far.
    progress
        Told what happens.

    Returns
    -------
    Evaluation
        Tables, comparisons, predictions; :func:`scstore.save_evaluation` writes them with figures.

    Raises
    ------
    LabelsError
        If there is nothing to tell apart, or labels of cells to be tested on were seen before.
    OptionError
        If options do not go together.
    FeatureSpaceError
        If two stores are of different feature spaces.

    Examples
    --------
    >>> found = scstore.evaluate("stores/ref.zarr", label="cell_type", group="donor")  # doctest: +SKIP
    >>> print(found.regimes[0].says[-1])  # doctest: +SKIP
    """
    _check(head, prior_adjustment, folds, repeats, min_cells, few_shot, hold_out_genes)
    progress = progress or Reporter()
    given = {
        name: [one] if isinstance(one, str | os.PathLike | Store) else list(one)
        for name, one in (controls or {}).items()
    }
    cells = gather_cells(
        store,
        label=label,
        missing=missing_labels,
        group=group,
        test_store=test_store,
        train_on=train_on,
        test_on=test_on,
        min_cells=min_cells,
        controls=given,
        allow_seen=allow_seen,
        allow_partial=allow_partial,
    )
    obs = pd.concat([one.obs[[label]].astype(object) for one in cells.stores])
    source = " and ".join(one.path.name for one in cells.stores)
    labels = read_labels(obs, label, missing=missing_labels, source=source)
    report_labels(obs, label, labels, source=source, progress=progress)
    rows = choose_rows(cells.stores[0], views=views, controls={name: pair[0] for name, pair in cells.controls.items()})
    for row in rows:
        for view in row.views:
            cells.check_space(view, row.control)
    splits, design = _design(cells, group, train_on, test_on, folds=folds, repeats=repeats, seed=seed)
    about = f"{label} of {' and '.join(one.path.name for one in cells.stores)}: {len(cells.classes)} classes"
    warned = _seen_words(cells)
    notes = _left_out(cells, min_cells)
    if repeats > max(split.run for split in splits) + 1 and hold_out_genes is None:
        notes.append(f"--repeats {repeats}: there is one way to split these cells, so it was done once")
    progress.note(f"{about}, {len(cells):,} cells; {design}; {len(rows)} rows with {head} heads")

    def regime(name: str, what: str, scored: Scored, *more: str) -> Regime:
        n_scored = int((scored.truth >= 0).any(axis=0).sum())
        title = f"{about}, {n_scored:,} cells scored; {head} heads, means over classes; {what}{warned}"
        return make_regime(name, title, scored, cells, notes=[*notes, *more], seed=seed)

    options = HeadOptions(head, prior_adjustment, seed)
    how: dict[str, Any] = {"options": options, "progress": progress}
    with one_blas_thread():
        stored = StoredFeatures(cells)
        scored = score_rows(rows, splits, stored, cells, doing="evaluating", **how)
        regimes = [regime("folds", design, scored)]
        for n_cells in few_shot:
            few = _few(splits, cells, n_cells=n_cells, seed=seed)
            name = f"few-shot {n_cells}"
            what = f"{n_cells} training cells a class (all, where a class has fewer), {DRAWS} draws a fold; {design}"
            regimes.append(regime(name, what, score_rows(rows, few, stored, cells, doing=name, **how)))
        if hold_out_genes is not None:
            regimes.append(_disjoint(cells, splits, regime, design, hold_out_genes, repeats, how))
        rejection: Rejection | None = None
        if leave_one_class_out:
            rejection = leave_classes_out(rows, splits, cells, **how)
    settings = {
        "label": label,
        "missing_labels": list(missing_labels),
        "head": head,
        "prior_adjustment": prior_adjustment,
        "stores": [one.path.name for one in cells.stores],
        "controls": {name: [one.path.name for one in pair[0]] for name, pair in cells.controls.items()},
        "design": design,
        "folds": folds,
        "repeats": repeats,
        "group": group,
        "train_on": list(train_on),
        "test_on": list(test_on),
        "min_cells": min_cells,
        "seed": seed,
        "n_cells": len(cells),
        "classes": {name: int(n) for name, n in zip(cells.classes, np.bincount(cells.codes), strict=True)},
        "classes_with_too_few_cells": dict(cells.too_few),
        "scored_though_seen": dict(cells.seen),
    }
    return Evaluation(settings, tuple(regimes), rejection, cells)


def _check(
    head: str,
    prior_adjustment: float,
    folds: int,
    repeats: int,
    min_cells: int,
    few_shot: Sequence[int],
    hold_out_genes: float | None,
) -> None:
    if head not in HEADS:
        msg = f"--head {head}: not one of {', '.join(sorted(HEADS))}."
        raise OptionError(msg)
    if not 0 <= prior_adjustment <= 1:
        msg = f"--prior-adjustment {prior_adjustment:g}: must be between 0 and 1."
        raise OptionError(msg)
    for option, value, least in (("--folds", folds, 2), ("--repeats", repeats, 1), ("--min-cells", min_cells, 1)):
        if value < least:
            msg = f"{option} {value}: must be at least {least}."
            raise OptionError(msg)
    if any(n < 1 for n in few_shot) or len(set(few_shot)) < len(few_shot):
        msg = f"--few-shot {','.join(map(str, few_shot))}: give different numbers of cells a class, each at least 1."
        raise OptionError(msg)
    if hold_out_genes is not None and not 0 < hold_out_genes < 1:
        msg = f"--hold-out-genes {hold_out_genes:g}: give a share between 0 and 1, such as 0.5."
        raise OptionError(msg)


def _design(
    cells: EvaluationCells,
    group: str | None,
    train_on: Sequence[str],
    test_on: Sequence[str],
    *,
    folds: int,
    repeats: int,
    seed: int,
) -> tuple[list[Split], str]:
    """The splits, and what they are in words."""
    again = "" if repeats == 1 else f", {repeats} times"
    if cells.train is not None and cells.test is not None:
        split = Split(0, "test", np.flatnonzero(cells.train), np.flatnonzero(cells.test))
        names = [store.path.name for store in cells.stores]
        first = " and ".join([*names[:1], *train_on] if len(names) > 1 else train_on) or "the rest"
        second = " and ".join([*names[1:], *test_on]) or "the rest"
        return [split], f"trained on {first} ({len(split.train):,} cells), tested on {second}"
    if cells.groups is None:
        splits = [s for run in range(repeats) for s in k_folds(cells.codes, n_folds=folds, run=run, seed=seed)]
        return splits, f"stratified {folds}-fold cross-validation{again}, mean ± sd over folds"
    n_groups = len(np.unique(cells.groups))
    by_group: dict[str, Any] = {"names": cells.group_names, "n_folds": folds, "seed": seed}
    if n_groups <= folds:  # then there is one way to hold each out
        splits = group_folds(cells.codes, cells.groups, run=0, **by_group)
        return splits, f"leaving out one {group} at a time ({n_groups}), mean ± sd over folds"
    splits = [s for run in range(repeats) for s in group_folds(cells.codes, cells.groups, run=run, **by_group)]
    return splits, f"{folds} folds of whole groups ({n_groups} of {group}){again}, mean ± sd over folds"


def _few(splits: Sequence[Split], cells: EvaluationCells, *, n_cells: int, seed: int) -> list[Split]:
    return [
        draw_few(split, cells.codes, n_cells=n_cells, run=split.run * DRAWS + draw, seed=seed)
        for split in splits
        for draw in range(DRAWS)
    ]


def _disjoint(
    cells: EvaluationCells,
    splits: Sequence[Split],
    regime: Callable[..., Regime],
    design: str,
    fraction: float,
    repeats: int,
    how: Mapping[str, Any],
) -> Regime:
    """Every repeat deals the genes anew, on the folds of that repeat or, where there is one way, on the same."""
    runs = 1 + max(split.run for split in splits)
    dealt = [replace(s, run=run) for run in range(repeats) for s in splits if s.run == run % runs]
    features = GeneSplitFeatures(cells, fraction, how["options"].seed)
    scored = score_rows(gene_split_rows(), dealt, features, cells, doing="disjoint genes", **how)
    return regime(
        "disjoint genes",
        f"tested on {fraction:.0%} of the genes, trained on the others: no gene in common; {repeats} deal(s); {design}",
        scored,
        "expression, and what is combined with it, cannot run: the two sides share no gene",
        "transductive: each side is centred on its own mean, so the cells to be labelled are looked at together",
    )


def _left_out(cells: EvaluationCells, min_cells: int) -> list[str]:
    if not cells.too_few:
        return []
    told = ", ".join(f"{name} {n}" for name, n in cells.too_few.items())
    return [f"left out, classes with fewer than {min_cells} cells: {told}"]


def _seen_words(cells: EvaluationCells) -> str:
    if not cells.seen:
        return ""
    told = ", ".join(f"{column} {n:,}" for column, n in cells.seen.items())
    return f"; SCORED THOUGH THEIR LABELS WERE SEEN ({told} cells): these numbers flatter"
