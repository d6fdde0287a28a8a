"""An opened input of cells, of whatever format: its cells, its matrices, and their genes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

import pandas as pd

from scstore.cells.matrices import RowMatrix
from scstore.errors import CellsError
from scstore.escaping import show, show_some
from scstore.options import did_you_mean


@dataclass(frozen=True, eq=False)
class Opened:
    """What the reader of a format found: ``obs`` with ids as stored, matrices and genes by slot."""

    obs: pd.DataFrame
    slots: Mapping[str, RowMatrix]
    slot_vars: Mapping[str, pd.DataFrame]


@dataclass(frozen=True, eq=False)
class CellFile:
    """An input of cells whose matrices are read by runs of rows; close it, or use it in a ``with`` statement.

    Attributes
    ----------
    source
        The path, or ``"AnnData in memory"``; every message begins with it.
    obs
        ``(n_cells, …)`` metadata; the index is the cell ids, unique strings.
    slots
        The matrices ``"X"``, ``"layers/NAME"`` and ``"raw"`` that there are, each ``(n_cells, n_genes of the slot)``.
    slot_vars
        The genes of each slot, ``(n_genes of the slot, …)``; ``"raw"`` has its own. The index need not be unique.
    """

    source: str
    obs: pd.DataFrame
    slots: Mapping[str, RowMatrix]
    slot_vars: Mapping[str, pd.DataFrame]
    resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.obs)

    def matrix(self, slot: str) -> RowMatrix:
        """Return the matrix of a slot, ``(n_cells, n_genes of the slot)``."""
        self._check(slot)
        return self.slots[slot]

    def var(self, slot: str) -> pd.DataFrame:
        """Return the genes of a slot; all gene names are taken from here."""
        self._check(slot)
        return self.slot_vars[slot]

    def _check(self, slot: str) -> None:
        if slot not in self.slots:
            suggestion = did_you_mean(slot, self.slots, form="slot='{}'")
            msg = f"{self.source}: there is no slot {show(slot)}.{suggestion} It has: {', '.join(self.slots)}."
            raise CellsError(msg)

    def close(self) -> None:
        """Close the file; the matrices cannot be read any more."""
        self.resources.close()

    def __enter__(self) -> CellFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def identify_cells(obs: pd.DataFrame, *, source: str, id_prefix_from: str | None = None) -> pd.DataFrame:
    """Return ``obs`` with ids that are unique strings, ``<value>:<id>`` where a column gives a prefix."""
    obs = obs.copy(deep=False)
    ids = pd.Index([str(name) for name in obs.index], dtype=object, name=obs.index.name)
    if id_prefix_from is not None:
        if id_prefix_from not in obs.columns:
            known = [str(name) for name in obs.columns]
            raise CellsError(
                f"{source}: id_prefix_from={show(id_prefix_from)}: obs has no such column."
                f"{did_you_mean(id_prefix_from, known)} It has: {', '.join(known) or 'none'}."
            )
        column = obs[id_prefix_from]
        if column.isna().any():
            cell = show(ids[int(column.isna().to_numpy().argmax())])
            raise CellsError(
                f"{source}: cell {cell} has no value in obs column {show(id_prefix_from)}, so it gets no prefix. "
                "Fill the column, or choose another."
            )
        prefixed = [f"{prefix}:{name}" for prefix, name in zip(column, ids, strict=True)]
        ids = pd.Index(prefixed, dtype=object, name=ids.name)
    if not ids.is_unique:
        repeated = ids[ids.duplicated()].unique()
        raise CellsError(
            f"{source}: cell ids occur more than once: {show_some(repeated)} ({len(repeated):,} in all). Make them "
            "unique; where an obs column (batch, donor, …) separates such cells, id_prefix_from=COLUMN puts its value "
            "before every id."
        )
    obs.index = ids
    return obs
