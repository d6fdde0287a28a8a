"""The cells that an evaluation scores: their labels, groups and sides, and their features as they are asked for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scstore.cells.labels import missing_labels, read_labels
from scstore.errors import CellsError, FeatureSpaceError, InputError, LabelsError, OptionError
from scstore.genes.matching import match_columns
from scstore.heads.rows import MappedRows, Rows, RowSubset, StackedRows
from scstore.spec import differences
from scstore.store.layout import SEEN_BY_PANEL, SEEN_BY_PROJECTOR
from scstore.store.reader import Store, open_store

__all__ = ["EvaluationCells", "gather_cells", "parse_conditions"]

CACHE_BYTES = 1 << 30
"""Features up to so many bytes are kept in memory between the fits; the others are read anew from disk."""


@dataclass(frozen=True)
class EvaluationCells:
    """Labelled cells of one store, or of two.

    Attributes
    ----------
    stores
        One, or the store to train on and the one to test on.
    ids
        ``(n,)`` cell ids.
    source, rows
        ``(n,)``: which of the stores, and the row in it.
    classes
        Names of the classes, sorted.
    codes
        ``(n,)`` class numbers.
    groups, group_names
        ``(n,)`` group numbers and their names; ``None`` and empty without groups.
    train, test
        ``(n,) bool``: the sides, where they were named; ``None`` for cross-validation.
    seen
        Cells that may be tested on though a panel or projector saw their labels, by the ``obs`` column that says so.
    too_few
        Cells of the classes that were left out since they have too few.
    controls
        Other stores of the same cells by name: for each of ``stores`` its counterpart, and the row of each cell.
    """

    stores: tuple[Store, ...]
    ids: NDArray[np.object_]
    source: NDArray[np.int64]
    rows: NDArray[np.int64]
    classes: tuple[str, ...]
    codes: NDArray[np.int64]
    groups: NDArray[np.int64] | None
    group_names: tuple[str, ...]
    train: NDArray[np.bool_] | None
    test: NDArray[np.bool_] | None
    seen: Mapping[str, int]
    too_few: Mapping[str, int]
    controls: Mapping[str, tuple[tuple[Store, ...], NDArray[np.int64]]]
    _cache: dict[tuple[str, str], Rows] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> NDArray[np.object_]:
        """``(n,)`` names of the classes of the cells."""
        return np.array(self.classes, dtype=object)[self.codes]

    @property
    def gene_names(self) -> list[str]:
        """Names of the columns of ``X``: the first store's genes."""
        return [str(name) for name in self.stores[0].expression_genes.index]

    def features(self, view: str, control: str = "") -> Rows:
        """Rows of a view of these cells, ``(n, width)``, kept in memory where they are small.

        Parameters
        ----------
        view
            Its name in the stores.
        control
            Name of a control whose stores to read instead.
        """
        key = (control, view)
        if key not in self._cache:
            stores, index = self.controls[control] if control else (self.stores, self.rows)
            parts: list[Rows] = []
            for number, store in enumerate(stores):
                part: Rows = store.view(view)
                if view == "X" and number:
                    genes = stores[0].expression_genes
                    match = match_columns(store.expression_genes, genes, min_match=0.3, source=str(store.path))
                    part = MappedRows(part, match.align, width=len(genes))
                parts.append(RowSubset(part, index[self.source == number]))
            rows = parts[0] if len(parts) == 1 else StackedRows(parts)
            self._cache[key] = self._kept(rows)
        return self._cache[key]

    def check_space(self, view: str, control: str = "") -> None:
        """Refuse a view that lives in two feature spaces: that of the cells to train on and that of those to test on.

        Parameters
        ----------
        view, control
            As for :meth:`features`.

        Raises
        ------
        FeatureSpaceError
            Listing the fields that differ.
        """
        first, *others = self.controls[control][0] if control else self.stores
        for store in others:
            if lines := differences(first.view(view).space, store.view(view).space):
                listed = "\n  ".join(lines)
                msg = (
                    f"{first.path} and {store.path}: {view} lives in two feature spaces. What differs (train → test):"
                    f"\n  {listed}\nExtract the cells to test on with --like {first.path}."
                )
                raise FeatureSpaceError(msg)

    def _kept(self, rows: Rows) -> Rows:
        used = sum(
            _bytes(kept) for kept in self._cache.values() if isinstance(kept, np.ndarray) or sparse.issparse(kept)
        )
        n = rows.shape[0]
        first = rows[slice(0, min(n, 512))]
        expected = _bytes(first) * n / max(1, min(n, 512))
        return rows[slice(0, n)] if used + expected <= CACHE_BYTES else rows


def _bytes(matrix: Any) -> int:
    if sparse.issparse(matrix):
        return int(matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)
    return int(matrix.nbytes)


def parse_conditions(words: Sequence[str], *, option: str) -> dict[str, list[str]]:
    """``COLUMN=VALUE`` words as the values wanted of each column.

    Raises
    ------
    OptionError
        If a word has no column or value.
    """
    wanted: dict[str, list[str]] = {}
    for word in words:
        column, equals, value = word.partition("=")
        if not column or not equals or not value:
            msg = f"{option} {word}: write COLUMN=VALUE, such as species=human."
            raise OptionError(msg)
        wanted.setdefault(column, []).append(value)
    return wanted


def _meets(obs: pd.DataFrame, wanted: Mapping[str, Sequence[str]], *, option: str, source: str) -> NDArray[np.bool_]:
    """Cells that have one of the values wanted, in every column named."""
    meets = np.ones(len(obs), dtype=bool)
    for column, values in wanted.items():
        if column not in obs:
            known = ", ".join(map(str, obs.columns)) or "none"
            msg = f"{option} {column}=…: {source} has no obs column {column!r}. It has: {known}."
            raise OptionError(msg)
        found = obs[column].astype(str).to_numpy()
        if absent := [value for value in values if value not in found]:
            known = ", ".join(sorted(set(found))[:10])
            msg = f"{option} {column}={absent[0]}: no cell of {source} has it. Values there: {known}."
            raise OptionError(msg)
        meets &= np.isin(found, list(values))
    return meets


def gather_cells(
    store: str | os.PathLike[str] | Store,
    *,
    label: str,
    missing: Sequence[str],
    group: str | None,
    test_store: str | os.PathLike[str] | Store | None,
    train_on: Sequence[str],
    test_on: Sequence[str],
    min_cells: int,
    controls: Mapping[str, Sequence[str | os.PathLike[str] | Store]],
    allow_seen: bool,
    allow_partial: bool,
) -> EvaluationCells:
    """Read labels, groups and sides, leave out what cannot be scored, and refuse what would flatter.

    Parameters
    ----------
    store, label, group, test_store, train_on, test_on, min_cells, controls, allow_seen, allow_partial
        As for :func:`scstore.evaluate`.
    missing
        Words that count as a missing label.

    Raises
    ------
    LabelsError
        If fewer than two classes are left, cells have no group, or cells to test on were seen by a panel or projector.
    OptionError
        If a side is empty or the sides overlap.
    CellsError
        If a control store lacks cells.
    """
    stores = tuple(_opened(one) for one in (store, test_store) if one is not None)
    told = [parse_conditions(train_on, option="--train-on"), parse_conditions(test_on, option="--test-on")]
    frames = []
    for number, one in enumerate(stores):
        frames.append(_frame(one, number, label=label, missing=missing, group=group, allow_partial=allow_partial))
        for side, option, wanted in zip(("train", "test"), ("--train-on", "--test-on"), told, strict=True):
            meets = (
                _meets(one.obs, wanted, option=option, source=str(one.path)) if _asks(side, number, stores) else None
            )
            frames[-1][side] = False if meets is None else meets[frames[-1]["row"]]
    cells = pd.concat(frames, ignore_index=True)
    sided = len(stores) > 1 or any(told)
    if sided:
        cells = _sides(cells, told, two_stores=len(stores) > 1)
    counts = Counter(cells["label"])
    too_few = {name: n for name, n in sorted(counts.items()) if n < min_cells}
    cells = cells[~cells["label"].isin(list(too_few))].reset_index(drop=True)
    classes, codes = np.unique(cells["label"].to_numpy(dtype=str), return_inverse=True)
    if len(classes) < 2:
        msg = (
            f"{stores[0].path}: {len(classes)} class(es) of {label!r} with at least {min_cells} cells; two are needed "
            f"to tell apart. Lower --min-cells, or choose another --label."
        )
        raise LabelsError(msg)
    tested = cells["test"].to_numpy(dtype=bool) if sided else np.ones(len(cells), dtype=bool)
    named, groups = (
        (None, None) if group is None else np.unique(cells["group"].to_numpy(dtype=str), return_inverse=True)
    )
    source, rows = cells["source"].to_numpy(), cells["row"].to_numpy()
    ids = cells["id"].to_numpy(dtype=object)
    others = {name: _control(name, given, stores, ids, source) for name, given in controls.items()}
    seen = _seen(stores, source[tested], rows[tested])
    for name, (counterparts, index) in others.items():
        marked = _seen(counterparts, source[tested], index[tested])
        seen |= {f"{column} ({name})": n for column, n in marked.items()}
    if seen and not allow_seen:
        _refuse_seen(stores[0], seen, int(tested.sum()))
    return EvaluationCells(
        stores=stores,
        ids=ids,
        source=source,
        rows=rows,
        classes=tuple(str(name) for name in classes),
        codes=codes.astype(np.int64),
        groups=None if groups is None else groups.astype(np.int64),
        group_names=() if named is None else tuple(str(name) for name in named),
        train=cells["train"].to_numpy(dtype=bool) if sided else None,
        test=tested if sided else None,
        seen=seen,
        too_few=too_few,
        controls=others,
    )


def _opened(store: str | os.PathLike[str] | Store) -> Store:
    return store if isinstance(store, Store) else open_store(store)


def _frame(
    store: Store, number: int, *, label: str, missing: Sequence[str], group: str | None, allow_partial: bool
) -> pd.DataFrame:
    labels = read_labels(store.obs, label, missing=missing, source=str(store.path))
    usable = store.usable_rows(allow_partial=allow_partial)
    rows = usable[[labels[row] is not None for row in usable]]
    frame = pd.DataFrame(
        {
            "id": store.obs.index[rows].astype(str).to_numpy(dtype=object),
            "source": number,
            "row": rows,
            "label": [labels[row] for row in rows],
        }
    )
    if group is not None:
        if group not in store.obs:
            known = ", ".join(map(str, store.obs.columns))
            msg = f"--group {group}: {store.path} has no such obs column. It has: {known}."
            raise OptionError(msg)
        column = store.obs[group].iloc[rows]
        if (absent := missing_labels(column.to_numpy(dtype=object))).any():
            msg = (
                f"--group {group}: {int(absent.sum()):,} of {len(rows):,} labelled cells of {store.path} have none "
                f"(first: {frame['id'][int(np.argmax(absent))]}). Give every cell its group, or leave those cells out."
            )
            raise LabelsError(msg)
        frame["group"] = column.astype(str).to_numpy(dtype=object)
    return frame


def _asks(side: str, number: int, stores: Sequence[Store]) -> bool:
    """Whether a side's conditions are about this store: with two stores the first is trained on, the second tested."""
    return len(stores) == 1 or (side == "train") == (number == 0)


def _sides(cells: pd.DataFrame, told: Sequence[Mapping[str, Sequence[str]]], *, two_stores: bool) -> pd.DataFrame:
    """Only the cells of either side; of one store, a side that was not named is the rest."""
    if not two_stores:
        for side, other, conditions in (("train", "test", told[0]), ("test", "train", told[1])):
            if not conditions:
                cells[side] = ~cells[other]
        if both := int((cells["train"] & cells["test"]).sum()):
            msg = f"--train-on and --test-on: {both:,} cells meet both. Choose conditions that no cell meets together."
            raise OptionError(msg)
    for side, option in (("train", "--train-on"), ("test", "--test-on")):
        if not cells[side].any():
            msg = f"{option}: no labelled cell is left to {side} on. Choose other conditions."
            raise OptionError(msg)
    return cells[cells["train"] | cells["test"]].reset_index(drop=True)


def _control(
    name: str,
    given: Sequence[str | os.PathLike[str] | Store],
    stores: Sequence[Store],
    ids: NDArray[np.object_],
    source: NDArray[np.int64],
) -> tuple[tuple[Store, ...], NDArray[np.int64]]:
    counterparts = tuple(_opened(one) for one in given)
    if len(counterparts) != len(stores):
        msg = (
            f"--control {name}: {len(counterparts)} store(s) for {len(stores)}. With --test-store give the control "
            "twice under one name: first of the cells to train on, then of those to test on."
        )
        raise OptionError(msg)
    index = np.empty(len(ids), dtype=np.int64)
    for number, store in enumerate(counterparts):
        here = source == number
        known = pd.Index(store.obs.index.astype(str))
        if not known.is_unique:
            msg = f"--control {name}: {store.path} has cell ids that repeat, so its cells cannot be matched."
            raise CellsError(msg)
        index[here] = known.get_indexer(ids[here].tolist())
        if (absent := index[here] < 0).any():
            msg = (
                f"--control {name}: {store.path} lacks {int(absent.sum()):,} of {int(here.sum()):,} cells (first: "
                f"{ids[here][int(np.argmax(absent))]}). A control is a store of the same cells."
            )
            raise CellsError(msg)
        if not store.committed[index[here]].all():
            msg = f"--control {name}: {store.path} is not finished. Run its `scstore extract` again."
            raise InputError(msg)
    return counterparts, index


def _seen(stores: Sequence[Store], source: NDArray[np.int64], rows: NDArray[np.int64]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for number, store in enumerate(stores):
        for column in (SEEN_BY_PANEL, SEEN_BY_PROJECTOR):
            if column in store.obs:
                marked = store.obs[column].to_numpy(dtype=bool)
                counts[column] += int(marked[rows[source == number]].sum())
    return {column: n for column, n in counts.items() if n}


def _refuse_seen(store: Store, seen: Mapping[str, int], n_tested: int) -> None:
    what = "; ".join(f"{n:,} of {n_tested:,} are marked {column}" for column, n in seen.items())
    msg = (
        f"{store.path}: labels of cells to be tested on were seen when the panel or projector was fitted ({what}), so "
        "scores on them would flatter. Fit the panel or projector on other cells and extract again, test on cells that "
        "it has not seen (--test-store, --test-on), or score them all the same and say so: --allow-seen."
    )
    raise LabelsError(msg)
