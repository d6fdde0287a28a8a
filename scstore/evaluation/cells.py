"""The labelled cells that an evaluation scores, with their groups and sides."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scstore.cells.labels import MISSING_VALUES, check_column, missing_labels, read_labels
from scstore.errors import LabelsError, OptionError
from scstore.options import did_you_mean
from scstore.store.reader import Store


@dataclass(frozen=True)
class EvaluationCells:
    """Labelled cells of one store, or of a store to train on and one to test on."""

    stores: tuple[Store, ...]
    ids: NDArray[np.object_]  # (n,) cell ids
    source: NDArray[np.int64]  # (n,) number of the store
    rows: NDArray[np.int64]  # (n,) row in the store
    classes: tuple[str, ...]  # sorted
    codes: NDArray[np.int64]  # (n,) class numbers
    groups: NDArray[np.str_] | None  # (n,) names of groups
    test: NDArray[np.bool_] | None  # (n,) the test side, where sides were named; the other cells are trained on
    too_few: Mapping[str, int]  # cells of each class that was left out because it has too few

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> NDArray[np.object_]:
        """``(n,)`` names of the classes of the cells."""
        return np.array(self.classes, dtype=object)[self.codes]

    def groups_of(self, rows: NDArray[np.int64]) -> NDArray[np.str_] | None:
        """Return the groups of training cells; ``None`` where they are not of two groups at least."""
        found = None if self.groups is None else self.groups[rows]
        return found if found is not None and len(np.unique(found)) > 1 else None

    @property
    def tested(self) -> NDArray[np.bool_]:
        """``(n,) bool``: cells that may be tested on."""
        return np.ones(len(self), dtype=bool) if self.test is None else self.test


def gather_cells(
    stores: Sequence[Store],
    *,
    label: str,
    missing: Sequence[str],
    group: str | None,
    train_on: Sequence[str],
    test_on: Sequence[str],
    min_cells: int,
    allow_partial: bool,
) -> EvaluationCells:
    """Read labels, groups and sides; leave out classes of fewer than ``min_cells`` cells."""
    sides = _sides(stores, train_on, test_on)
    frames = []
    for number, store in enumerate(stores):
        frame = _labelled(store, label=label, missing=missing, group=group, allow_partial=allow_partial)
        train, test = (side[number][frame["row"]] for side in sides)
        frames.append(frame.assign(source=number, train=train, test=test))
    cells = pd.concat(frames, ignore_index=True)
    sided = len(stores) > 1 or bool(train_on or test_on)
    if sided:
        cells = _on_either_side(cells)
    too_few = {name: n for name, n in sorted(Counter(cells["label"]).items()) if n < min_cells}
    cells = cells[~cells["label"].isin(list(too_few))]
    classes, codes = np.unique(cells["label"].to_numpy(dtype=str), return_inverse=True)
    if len(classes) < 2:
        raise LabelsError(
            f"{stores[0].path}: {label!r} has {len(classes)} class(es) of min_cells={min_cells}; two are needed."
        )
    return EvaluationCells(
        stores=tuple(stores),
        ids=cells["id"].to_numpy(dtype=object),
        source=cells["source"].to_numpy(),
        rows=cells["row"].to_numpy(),
        classes=tuple(classes.tolist()),
        codes=codes,
        groups=None if group is None else cells["group"].to_numpy(dtype=str),
        test=cells["test"].to_numpy(dtype=bool) if sided else None,
        too_few=too_few,
    )


def _labelled(
    store: Store, *, label: str, missing: Sequence[str], group: str | None, allow_partial: bool
) -> pd.DataFrame:
    """Return ``id``, ``row``, ``label`` and ``group`` of the usable cells that have a label."""
    labels = read_labels(store.obs, label, missing=missing, source=str(store.path))
    rows = np.array([row for row in store.usable_rows(allow_partial=allow_partial) if labels[row] is not None], int)
    frame = pd.DataFrame({"id": store.obs.index[rows].astype(object), "row": rows, "label": [labels[r] for r in rows]})
    if group is None:
        return frame
    check_column(store.obs, group, option="group", source=str(store.path))
    column = store.obs[group].iloc[rows]
    absent = missing_labels(column.to_numpy(dtype=object), MISSING_VALUES)
    if absent.any():
        raise LabelsError(
            f"group={group!r}: {int(absent.sum()):,} of {len(rows):,} labelled cells of {store.path} have no group "
            f"(first: {frame['id'][int(np.argmax(absent))]}). Give every cell a group, or remove those cells."
        )
    return frame.assign(group=column.astype(str).to_numpy(dtype=object))


def _sides(
    stores: Sequence[Store], train_on: Sequence[str], test_on: Sequence[str]
) -> tuple[list[NDArray[np.bool_]], list[NDArray[np.bool_]]]:
    """Return the cells of each store to train on, and to test on: of two stores the first and the second."""
    train, test = _meets(stores[0], train_on, option="train_on"), _meets(stores[-1], test_on, option="test_on")
    if len(stores) > 1:
        return [train, np.zeros(len(test), dtype=bool)], [np.zeros(len(train), dtype=bool), test]
    return [train if train_on else ~test], [test if test_on else ~train]


def _meets(store: Store, conditions: Sequence[str], *, option: str) -> NDArray[np.bool_]:
    """Return which cells have one of the wanted values in every column named (``COLUMN=VALUE``)."""
    by_column: dict[str, NDArray[np.bool_]] = {}
    for condition in conditions:
        column, _, value = condition.partition("=")
        if not column or not value:
            raise OptionError(f"{option}={condition!r}: write COLUMN=VALUE, such as species=human.")
        check_column(store.obs, column, option=option, source=str(store.path))
        found = store.obs[column].astype(str).to_numpy()
        known = sorted(set(found))
        if value not in known:
            listed = f"{did_you_mean(value, known)} Values: {', '.join(known[:10])}."
            raise OptionError(f"{option}='{condition}': no cell of {store.path} has this value.{listed}")
        by_column[column] = by_column.get(column, False) | (found == value)
    meets: NDArray[np.bool_] = np.all([np.ones(store.n_obs, dtype=bool), *by_column.values()], axis=0)
    return meets


def _on_either_side(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of both sides, neither of which may be empty or overlap the other."""
    if both := int((cells["train"] & cells["test"]).sum()):
        raise OptionError(f"train_on= and test_on=: {both:,} cells meet both conditions; no cell may.")
    for side in ("train", "test"):
        if not cells[side].any():
            raise OptionError(f"{side}_on=: no labelled cell is left to {side} on. Choose other conditions.")
    return cells[cells["train"] | cells["test"]]
