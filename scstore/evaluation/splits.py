"""Which cells are trained on and which are tested on: folds, whole groups, named sides, a few cells a class."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from scstore.errors import OptionError
from scstore.evaluation.cells import EvaluationCells
from scstore.heads.class_numbers import stratified_folds
from scstore.heads.rows import Array


@dataclass(frozen=True)
class Split:
    """Sorted row numbers of cells to train on and of cells to test on."""

    run: int  # splits of one run test each cell at most once
    fold: str  # its name within the run
    train: Array
    test: Array


@dataclass(frozen=True)
class Design:
    """The splits of an evaluation, and a description of them for its title."""

    splits: tuple[Split, ...]
    words: str

    @property
    def n_runs(self) -> int:
        return 1 + max(split.run for split in self.splits)


def named_sides(cells: EvaluationCells, train_on: Sequence[str], test_on: Sequence[str]) -> Design:
    """Return the one split of cells that have a test side."""
    tested = cells.tested
    split = Split(0, "test", np.flatnonzero(~tested), np.flatnonzero(tested))
    names = [store.path.name for store in cells.stores]
    first = " and ".join([*names[:1], *train_on] if len(names) > 1 else train_on) or "the rest"
    second = " and ".join([*names[1:], *test_on]) or "the rest"
    return Design((split,), f"trained on {first} ({len(split.train):,} cells), tested on {second}")


def cross_validation(cells: EvaluationCells, *, group: str | None, folds: int, repeats: int, seed: int) -> Design:
    """Return stratified folds, or folds of whole groups where the cells have groups."""
    again = "" if repeats == 1 else f", {repeats} times"
    runs = range(repeats)
    if cells.groups is None:
        splits = [split for run in runs for split in k_folds(cells.codes, n_folds=folds, run=run, seed=seed)]
        return Design(tuple(splits), f"stratified {folds}-fold cross-validation{again}, mean ± sd over folds")
    n_groups = len(np.unique(cells.groups))
    words = f"{folds} folds of whole groups ({n_groups} of {group}){again}, mean ± sd over folds"
    if n_groups <= folds:
        runs = range(1)  # there is one way to leave out one group at a time
        words = f"leaving out one {group} at a time ({n_groups}), mean ± sd over folds"
    dealt = [group_folds(cells.codes, cells.groups, n_folds=folds, run=run, seed=seed) for run in runs]
    return Design(tuple(split for splits in dealt for split in splits), words)


def k_folds(codes: Array, *, n_folds: int, run: int, seed: int) -> list[Split]:
    """Return stratified folds of cells with class numbers ``(n,)``; every training side has every class."""
    folds = stratified_folds(codes, n_folds=n_folds, rng=np.random.default_rng([seed, run]))
    every = np.arange(len(codes))
    return [Split(run, str(i), np.setdiff1d(every, fold), fold) for i, fold in enumerate(folds)]


def group_folds(codes: Array, groups: Array, *, n_folds: int, run: int, seed: int) -> list[Split]:
    """Return folds of whole groups: each alone where there are at most ``n_folds``, else stratified."""
    present = np.unique(groups)
    if len(present) < 2:
        raise OptionError(f"All cells belong to one group ({present[0]}): none is held out. Leave out group=.")
    every = np.arange(len(codes))
    if len(present) <= n_folds:
        alone = [(str(group), np.flatnonzero(groups == group)) for group in present]
        return [Split(run, name, np.setdiff1d(every, test), test) for name, test in alone]
    shuffle = int(np.random.default_rng([seed, run]).integers(2**31))
    largest = int(np.bincount(codes).max())
    classes = codes if largest > 1 else np.zeros_like(codes)  # classes of one cell cannot be spread
    n_folds = min(n_folds, max(2, largest)) if largest > 1 else n_folds
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=shuffle)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # then it is in some folds only
        parts = list(folds.split(every, classes, groups))
    return [Split(run, str(i), train, test) for i, (train, test) in enumerate(parts) if len(test)]


def draw_few(split: Split, codes: Array, *, n_cells: int, run: int, seed: int) -> Split:
    """Return the split with ``n_cells`` training cells of every class, or all, by seed, run and fold."""
    rng = np.random.default_rng([seed, run, *split.fold.encode()])
    labels = codes[split.train]
    drawn = [rng.permutation(split.train[labels == code])[:n_cells] for code in np.unique(labels)]
    return Split(run, split.fold, np.sort(np.concatenate(drawn)), split.test)
