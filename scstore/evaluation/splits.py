"""Who is trained on and who is tested on: folds, folds of whole groups, a few cells a class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from scstore.errors import OptionError
from scstore.heads.folds import stratified_folds
from scstore.heads.rows import Array

__all__ = ["Split", "draw_few", "group_folds", "k_folds"]


@dataclass(frozen=True)
class Split:
    """Cells to train on and cells to test on.

    Attributes
    ----------
    run
        Splits of one run test each cell at most once.
    fold
        Name of the split inside its run.
    train, test
        Sorted row numbers; no row is in both.
    """

    run: int
    fold: str
    train: Array
    test: Array


def k_folds(codes: Array, *, n_folds: int, run: int, seed: int) -> list[Split]:
    """Stratified folds: every class is dealt to the folds in turn, and none is missing from a training side.

    Parameters
    ----------
    codes
        ``(n,)`` class numbers.
    n_folds
        At least 2.
    run
        Number of the repeat; every repeat deals anew.
    seed
        Of all repeats.
    """
    folds = stratified_folds(codes, n_folds=n_folds, rng=np.random.default_rng([seed, run]))
    every = np.arange(len(codes))
    return [Split(run, str(i), np.setdiff1d(every, fold), fold) for i, fold in enumerate(folds)]


def group_folds(codes: Array, groups: Array, *, names: Sequence[str], n_folds: int, run: int, seed: int) -> list[Split]:
    """Folds of whole groups: no group has cells on both sides.

    With at most ``n_folds`` groups each group is a fold of its own. With more, groups are dealt so that the classes
    are spread evenly (scikit-learn's ``StratifiedGroupKFold``); fewer folds come back where the largest class has
    fewer cells.

    Parameters
    ----------
    codes, groups
        ``(n,)`` class and group numbers.
    names
        Of the groups, by number.
    n_folds, run, seed
        As for :func:`k_folds`.

    Raises
    ------
    OptionError
        If there are fewer than two groups.
    """
    present = np.unique(groups)
    if len(present) < 2:
        msg = f"--group: all cells are of one group ({', '.join(names)}), so none can be held out. Leave out --group."
        raise OptionError(msg)
    every = np.arange(len(codes))
    if len(present) <= n_folds:
        alone = [(names[group], np.flatnonzero(groups == group)) for group in present]
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
    """The same test cells, and of every class ``n_cells`` of the training side, or all where it has fewer.

    Parameters
    ----------
    split
        To draw from.
    codes
        ``(n,)`` class numbers.
    n_cells
        Cells a class.
    run
        Number of the new split's run.
    seed
        The same seed, run and fold draw the same cells.
    """
    rng = np.random.default_rng([seed, run, *split.fold.encode()])
    labels = codes[split.train]
    drawn = [rng.permutation(split.train[labels == code])[:n_cells] for code in np.unique(labels)]
    return Split(run, split.fold, np.sort(np.concatenate(drawn)), split.test)
