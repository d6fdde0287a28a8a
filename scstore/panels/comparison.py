"""Which cells are compared with which, from their labels and groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.errors import LabelsError

# Minimum cells per label within a group: a gene of a single cell would have an infinite F.
MIN_CELLS = 2

# Minimum cells of a group without labels: fewer give no variance to speak of.
MIN_GROUP_CELLS = 10

Column = Sequence[str | None]


@dataclass(frozen=True, eq=False)
class Design:
    """Which cells of a data set are compared with which.

    ``codes`` ``(n_cells,)`` is the number of the cell's class (a label within a group), -1 for none; ``classes`` has
    the numbers of each group's classes, ``left_out`` groups that do not count; ``seen`` marks cells with labels used.
    """

    codes: NDArray[np.int64]
    classes: tuple[NDArray[np.int64], ...]
    seen: NDArray[np.bool_]
    left_out: tuple[str, ...]
    by_labels: bool

    @property
    def n_classes(self) -> int:
        return sum(map(len, self.classes))


def design(labels: Column | None, groups: Column | None = None, *, n_cells: int, source: str) -> Design:
    """Compare the labels of cells within each group; without labels, let each group count by itself.

    A cell is left out if its label or its group is ``None``; ``groups=None`` makes one group of all.
    """
    by_labels = labels is not None
    of_group, of_label = ([""] * n_cells if column is None else column for column in (groups, labels))
    pairs: list[Any] = list(zip(of_group, of_label, strict=True))
    least = MIN_CELLS if by_labels else MIN_GROUP_CELLS
    enough = sorted(pair for pair, n in Counter(pairs).items() if None not in pair and n >= least)
    n_labels = Counter(group for group, _ in enough)
    used = [pair for pair in enough if not by_labels or n_labels[pair[0]] > 1]
    if not used and by_labels:
        most = max(n_labels.values(), default=0)
        within = "" if groups is None else " within one group"
        raise LabelsError(f"{source}: {most} label(s) have two cells or more{within}. A panel separates at least two.")
    if not used:
        raise LabelsError(f"{source}: no group has {MIN_GROUP_CELLS} cells, too few to score genes without labels.")
    counted = sorted({group for group, _ in used})
    number = {pair: i for i, pair in enumerate(used)}
    return Design(
        codes=np.array([number.get(pair, -1) for pair in pairs], dtype=np.int64),
        classes=tuple(np.array([number[pair] for pair in used if pair[0] == group]) for group in counted),
        seen=np.array([None not in pair and pair[0] in counted for pair in pairs]),
        left_out=tuple(sorted({group for group in of_group if group is not None}.difference(counted))),
        by_labels=by_labels,
    )
