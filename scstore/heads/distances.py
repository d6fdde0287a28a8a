"""How far a cell lies from the training cells of a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from sklearn.utils.extmath import randomized_svd

from scstore.errors import DamagedError
from scstore.heads.base import take_array
from scstore.heads.member import EXPRESSION, Member, concat_views
from scstore.heads.preprocessing import usable_scale
from scstore.heads.rows import Array, Rows, iter_blocks, read, widest
from scstore.heads.training import one_blas_thread

__all__ = ["Distances", "fit_distances"]

NEAREST = 5
"""Neighbours whose mean distance counts; of all cells of a class where it has fewer."""

COMPONENTS = 200
"""Principal components of joined views among which the discriminant axes are sought, at most."""

CELLS_A_COMPONENT = 4
"""Reference cells for each of them, at least: with fewer the spread inside classes cannot be told."""

RIDGE = 0.1
"""Share of the mean variance inside classes that is added to that of every direction."""

REFERENCE_CELLS = 10_000
"""Training cells kept to measure from, at most: as many of a rare class as of a common one."""

SAMPLE_BYTES = 1 << 27
"""Bytes of float32 that they may take before the components are known."""


@dataclass(frozen=True, eq=False)
class Distances:
    """Training cells to measure from, and the space to measure in.

    Where the head reads expression, its selected genes' principal components, standardised, are the space: chosen to
    tell classes apart, they are where a class unseen differs most. Otherwise the views are standardised and joined,
    and the space is that of Fisher's discriminant axes: the directions in which the classes' means differ, after
    whitening by the spread inside classes. Both were chosen on sorted blood cells, one class left out in turn.

    Attributes
    ----------
    views
        What is read, in order.
    mean
        ``(d,) float64`` of the joined columns.
    axes
        ``(d, k) float64``: from centred columns to the space, standardisation included.
    points
        ``(m, k) float32`` reference cells, those of a class together, classes in order.
    counts
        ``(n_classes,) int64`` reference cells of each class, at least one.
    """

    views: tuple[str, ...]
    mean: Array
    axes: Array
    points: Array
    counts: Array

    @property
    def whitened(self) -> bool:
        """Whether distances of all classes mean the same: the spread inside classes was divided out."""
        return self.views != (EXPRESSION,)

    def measure(self, members: Sequence[Member], views: Mapping[str, Rows], codes: Array, *, selected: bool) -> Array:
        """Two distances of each cell from one class each.

        Parameters
        ----------
        members
            Of the head.
        views
            Rows by name, n each.
        codes
            ``(n,)`` class to measure from.
        selected
            As for :meth:`Member.rows`.

        Returns
        -------
        ``(n, 2) float64``: mean distance to the 5 nearest reference cells of the class, and distance to their mean.
        """
        rows = concat_views(members, views, self.views, selected=selected)
        found = np.empty((len(codes), 2))
        ends = np.cumsum(self.counts)
        with one_blas_thread():
            for start, block in iter_blocks(rows):
                placed, mine = (block - self.mean) @ self.axes, codes[start : start + len(block)]
                for code in np.unique(mine).tolist():
                    here = np.flatnonzero(mine == code)
                    cells = self.points[ends[code] - self.counts[code] : ends[code]].astype(np.float64)
                    found[start + here] = _from_cells(placed[here], cells)
        return found

    def to_arrays(self) -> dict[str, Array]:
        """All but the views' names, by name; :meth:`from_arrays` takes them back."""
        return {name: getattr(self, name) for name in ("mean", "axes", "points", "counts")}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, views: Sequence[str], n_classes: int) -> Self:
        """What :meth:`to_arrays` gave; :class:`DamagedError` where the arrays do not fit together."""
        mean = take_array(arrays, "mean", shape=(-1,))
        axes = take_array(arrays, "axes", shape=(len(mean), -1))
        points = take_array(arrays, "points", shape=(-1, axes.shape[1]))
        counts = take_array(arrays, "counts", shape=(n_classes,), kind="i")
        if counts.min() < 1 or counts.sum() != len(points):
            msg = f"counts: {len(points)} reference cells do not split into {n_classes} classes. The head is damaged."
            raise DamagedError(msg)
        return cls(tuple(views), mean, axes, points, counts)


def fit_distances(
    members: Sequence[Member], views: Mapping[str, Rows], codes: Array, *, rng: np.random.Generator
) -> Distances:
    """Choose reference cells from the training cells of fitted members, and the space from the reference cells.

    Parameters
    ----------
    members
        Fitted on these rows.
    views
        Rows by name, n each, with all genes.
    codes
        ``(n,)`` class numbers, each of 0 … n_classes - 1 at least once.
    rng
        Draws the cells, and the start of the search for the components.
    """
    every = sorted(member.view for member in members)
    names = [EXPRESSION] if EXPRESSION in every else every
    rows = concat_views(members, views, names, selected=False)
    n_classes = int(codes.max()) + 1
    room = min(REFERENCE_CELLS, SAMPLE_BYTES // (4 * widest(rows)))
    each = max(NEAREST, room // n_classes)
    chosen = [np.sort(rng.permutation(np.flatnonzero(codes == code))[:each]) for code in range(n_classes)]
    index = np.concatenate(chosen)
    order = np.argsort(index)
    values = np.empty((len(index), rows.shape[1]))
    values[order] = read(rows, index[order])
    mean = values.mean(axis=0)
    values -= mean
    scale = usable_scale(mean, np.einsum("ij,ij->j", values, values) / len(values))
    # each view weighs the same, whatever its width
    widths = np.repeat([part.shape[1] for part in rows.below], [part.shape[1] for part in rows.below])
    scale *= np.sqrt(widths)
    counts = np.array([len(part) for part in chosen])
    axes = np.diag(1 / scale)
    if names != [EXPRESSION]:
        axes = axes @ _discriminant(values / scale, counts, seed=int(rng.integers(2**31)))
    return Distances(tuple(names), mean, axes, (values @ axes).astype(np.float32), counts)


def _discriminant(values: Array, counts: Array, *, seed: int) -> Array:
    """Fisher's discriminant axes ``(d, k)`` of centred cells ``(m, d)``, those of a class together."""
    size = max(2, min(COMPONENTS, values.shape[1], len(values) // CELLS_A_COMPONENT))
    with one_blas_thread():  # small products: threads would wait for each other
        *_, components = randomized_svd(values, min(size, *values.shape), random_state=seed)
    reduced = values @ components.T
    starts = np.cumsum(counts) - counts
    centres = np.add.reduceat(reduced, starts) / counts[:, None]
    inside = reduced - np.repeat(centres, counts, axis=0)
    spread, turn = np.linalg.eigh(inside.T @ inside / len(inside))
    ridge = max(RIDGE * float(spread.mean()), float(np.finfo(np.float32).tiny))
    whiten = turn / np.sqrt(np.maximum(spread, 0) + ridge)
    between = centres @ whiten
    *_, directions = np.linalg.svd(between - between.mean(axis=0), full_matrices=False)
    axes: Array = components.T @ whiten @ directions[: max(1, len(counts) - 1)].T
    return axes


def _from_cells(placed: Array, cells: Array) -> Array:
    """Mean distance ``(n,)`` to the nearest of some cells and distance to their mean, as two columns."""
    squares = np.einsum("ij,ij->i", placed, placed)[:, None] + np.einsum("ij,ij->i", cells, cells)
    distances = np.sqrt(np.maximum(squares - 2 * placed @ cells.T, 0))
    k = min(NEAREST, len(cells))
    nearest = np.partition(distances, k - 1, axis=1)[:, :k].mean(axis=1)
    return np.column_stack([nearest, np.linalg.norm(placed - cells.mean(axis=0), axis=1)])
